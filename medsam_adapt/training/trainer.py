"""MONAI's trainer for a bundle: optimiser, learning rate schedule, loss, logging, validation, and the run's folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import LrScheduleHandler, StatsHandler, TensorBoardStatsHandler, ValidationHandler, from_engine
from monai.inferers import Inferer
from monai.optimizers import WarmupCosineSchedule
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, PolynomialLR
from torch.utils.data import DataLoader

from medsam_adapt.config import Knobs
from medsam_adapt.core.distributed import is_main_process
from medsam_adapt.core.literals import as_switch, as_typed
from medsam_adapt.core.update import Update
from medsam_adapt.data.slices.training_data import TrainingData
from medsam_adapt.feature_cache.frozen_work import FrozenWork
from medsam_adapt.methods.losses import SegmentationLoss
from medsam_adapt.networks.build import model_weights
from medsam_adapt.networks.segmenter import Segmenter
from medsam_adapt.runs.record import LOG_FOLDER
from medsam_adapt.training.average import AverageWeights
from medsam_adapt.training.balance import FadingBalance
from medsam_adapt.training.run_handler import RunHandler
from medsam_adapt.training.setup import PrepareSlices, compiles, record_of
from medsam_adapt.training.time_budget import PARTS, TimeBudget
from medsam_adapt.training.unlabelled import SelfTraining

Schedule = Literal["polynomial", "cosine", "warmup_cosine"]
_WARMUP_STEPS = 50


def build_trainer(
    max_epochs: int,
    train_data_loader: DataLoader,
    inferer: Inferer,
    knobs: Knobs,
    data: TrainingData,
    segmenter: Segmenter,
    network: nn.Module,
    device: torch.device,
    frozen: FrozenWork,
    validator: SupervisedEvaluator,
    folder: str | Path,
    bundle_root: str | Path,
    resume: bool = False,
    loss: nn.Module | None = None,
    parameters: Iterable[Any] | None = None,
    schedule: Schedule = "polynomial",
    update: Update | None = None,
    beside: Mapping[str, nn.Module] | None = None,
    states: Mapping[str, Any] | None = None,
) -> SupervisedTrainer:
    """The trainer that the ``train.json`` of every bundle runs; its folder is a run when it has ended.

    Args:
        max_epochs: passes over the training slices; not used where ``knobs.minutes`` is a time budget, which begins
            when the trainer is made, or ``budget.started`` if that is set.
        train_data_loader: batches of slices.
        inferer: applies the network to a batch.
        knobs: the settings of the run.
        data: the training data.
        segmenter: the network, not wrapped.
        network: the network on its device, wrapped where several processes train together.
        device: where it is trained.
        frozen: features of the slices that may be kept.
        validator: scores the held-out volumes, where there are any, and chooses the clean-up.
        folder: of the run to write.
        bundle_root: the bundle whose files are copied into the run.
        resume: whether to continue from the folder's checkpoint.
        loss: takes logits and labels; cross-entropy and Dice when None.
        parameters: tensors or parameter groups that the optimiser moves; when None, the network's trained tensors
            (but for BLO-SAM's prompt embedding) and those of ``beside``.
        schedule: of the learning rates of all optimisers, per step: ``polynomial`` to zero with the power
            ``schedule_power``, ``cosine`` to a tenth of ``learning_rate``, or ``warmup_cosine``: up in 50 steps, then
            to zero.
        update: one training step; forward, loss, backward and optimiser step when None.
        beside: modules that are trained beside the network, by name.
        states: what else is restored when a run is resumed, by name; optimisers among them get the schedule too.
    """
    resume = as_switch(resume, "resume")
    folder, bundle_root = as_typed(folder, "output_dir"), as_typed(bundle_root, "bundle_root")
    beside = beside or {}
    if parameters is None:
        parameters = model_weights(network) + [tensor for module in beside.values() for tensor in module.parameters()]
    optimizer = adamw(parameters, knobs.learning_rate, knobs.weight_decay)
    others = {name: item for name, item in (states or {}).items() if isinstance(item, Optimizer)}
    steps = max_epochs * len(train_data_loader) if knobs.minutes is None else PARTS
    schedules = {
        name.replace("optimizer", "schedule"): _schedule(schedule, item, steps, knobs)
        for name, item in {"optimizer": optimizer, **others}.items()
    }
    loss = SegmentationLoss(segmenter.head, balance=knobs.balance) if loss is None else loss
    validates = bool(data.volumes())
    budget = None
    if knobs.minutes is not None:
        budget = TimeBudget(60 * knobs.minutes, schedules.values(), validator)
    budgets = {} if budget is None else {"budget": budget}
    average = AverageWeights(segmenter, knobs.average) if knobs.average else None
    averages = {} if average is None else {"average": average}
    record = record_of(data, segmenter, knobs, *beside.values())
    selves = {}
    if data.unlabelled is not None:
        cleaning = choice.first_choices() if (choice := getattr(validator, "clean_up", None)) else ()
        settings = folder, knobs, cleaning, average, budget
        selves["unlabelled"] = SelfTraining(data, segmenter, validator.inferer, *settings)
    handlers: list[Any] = [
        *(LrScheduleHandler(each, print_lr=False, epoch_level=False) for each in schedules.values() if budget is None),
        *(_loss_loggers(Path(folder) / LOG_FOLDER) if is_main_process() else []),
        *averages.values(),  # before a checkpoint is written
        # Within a time budget the last weights, whose learning rate came to zero, are validated alone.
        *([ValidationHandler(knobs.val_interval, validator, epoch_level=True)] if validates and not budget else []),
        RunHandler(
            record,
            segmenter,
            folder,
            bundle_root,
            {"optimizer": optimizer, **(states or {}), **schedules, **beside, **averages, **budgets, **selves},
            validator,
            resume,
            average,
        ),
        *budgets.values(),  # after a checkpoint is restored
        *selves.values(),
        *([FadingBalance(loss, budget)] if isinstance(loss, SegmentationLoss) and loss.balance else []),
    ]
    trainer: Any = SupervisedTrainer(  # Any: it gets an attribute
        device=device,
        max_epochs=max_epochs,
        train_data_loader=train_data_loader,
        network=network,
        compile=compiles(knobs, device),
        optim_set_to_none=True,
        optimizer=optimizer,
        loss_function=loss,
        inferer=inferer,
        prepare_batch=PrepareSlices(knobs.low_res_loss, frozen),
        iteration_update=update,
        train_handlers=handlers,
    )
    trainer.budget, trainer.self_training = budget, selves.get("unlabelled")
    return trainer


def adamw(parameters: Iterable[Any], learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW in its fused form, over tensors or parameter groups."""
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)


def _schedule(kind: Schedule, optimizer: Optimizer, steps: int, knobs: Knobs) -> Any:
    if kind == "warmup_cosine":
        return WarmupCosineSchedule(optimizer, warmup_steps=min(_WARMUP_STEPS, steps // 10), t_total=steps)
    if kind == "cosine":
        return CosineAnnealingLR(optimizer, T_max=steps, eta_min=knobs.learning_rate / 10)
    return PolynomialLR(optimizer, total_iters=steps, power=knobs.schedule_power)  # type: ignore[attr-defined]


def _loss_loggers(folder: Path) -> list[Any]:
    """Handlers that log every step's loss, on the console and for TensorBoard."""
    loss = from_engine(["loss"], first=True)
    return [
        StatsHandler(tag_name="loss", output_transform=loss),
        TensorBoardStatsHandler(log_dir=str(folder), tag_name="loss", output_transform=loss),
    ]
