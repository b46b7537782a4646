"""What the bundles add to MONAI's trainer: device, batches, and the handler that keeps a run's folder."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from monai.handlers import from_engine
from torch import Tensor, nn

from medsam_adapt.config import Knobs
from medsam_adapt.cost import TrainingCost
from medsam_adapt.data.training import TrainingData
from medsam_adapt.errors import InputError, RunError
from medsam_adapt.files import written_whole
from medsam_adapt.networks.adapter import count_trainable, save_adapter, trainable_tensors
from medsam_adapt.networks.segmenter import Segmenter
from medsam_adapt.prediction.second_look import training_statistics
from medsam_adapt.runs import (
    ADAPTER_FOLDER,
    MODEL_FILE,
    STATE_FILE,
    AdapterRecord,
    RunRecord,
    read_run,
    require_trained,
    versions,
    write_run,
)

_PROMPT_KEYS = ("boxes", "points")


def select_device(name: str = "auto") -> torch.device:
    """``auto`` is the first GPU, or the CPU without one; otherwise ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises:
        InputError: for a device that this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"unknown device '{name}': use auto, cpu, cuda, cuda:N or mps.") from error
    has = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not has.get(device.type, False) or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise InputError(f"device '{name}' is not on this machine: use --device auto.")
    return device


class PrepareSlices:
    """Batch -> (image, label, (), keyword arguments of the segmenter), on the device.

    Args:
        low_res: whether the network shall return the mask decoder's own, small logits.
    """

    def __init__(self, low_res: bool = False) -> None:
        self.low_res = low_res

    def __call__(
        self, batch: Mapping[str, Any], device: torch.device, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[Tensor, Tensor, tuple, dict[str, Any]]:
        moved = {
            key: batch[key].to(device=device, non_blocking=non_blocking, **kwargs)
            for key in ("image", "label", *_PROMPT_KEYS)
            if key in batch
        }
        prompts: dict[str, Any] = {key: moved[key] for key in _PROMPT_KEYS if key in moved}
        return moved["image"], moved["label"], (), {**prompts, "low_res": self.low_res}


def prepare_volume(
    batch: Mapping[str, Any], device: torch.device, non_blocking: bool = False, **kwargs: Any
) -> tuple[Tensor, Tensor, tuple, dict[str, Any]]:
    """A batch of one volume; its label goes along as the reference from which prompted runs take their prompts.

    With the label goes the table of its parts, where classes may overlap.
    """
    image = batch["image"].to(device=device, non_blocking=non_blocking, **kwargs)
    table = {"table": batch["table"]} if "table" in batch else {}
    return image, batch["label"], (), {"reference": batch["label"], **table}


def record_of(data: TrainingData, segmenter: Segmenter, knobs: Knobs, *beside: nn.Module) -> RunRecord:
    """The record of a run that is about to start, with what is trained ``beside`` the network."""
    adapter = segmenter.adapter
    assert adapter is not None, "build_segmenter attached one"
    return RunRecord(
        bundle=type(knobs).__name__.removesuffix("_knobs"),
        versions=versions(),
        dataset_dir=str(Path(data.cases.root).resolve()),
        layout=data.cases.layout,
        class_names=data.class_names,
        label_ids=data.label_ids,
        absent=data.absent,
        train=list(data.split.train),
        held_out=list(data.split.held_out),
        halves=data.split_by,
        backbone=knobs.backbone,
        image_size=data.image_size,
        axis=data.axis,
        channels=data.channels,
        prompt=data.prompt,
        overlapping=data.overlapping,
        policy=data.policy,
        adapter=AdapterRecord(
            name=f"{type(adapter).__module__}.{type(adapter).__qualname__}", settings=adapter.settings()
        ),
        learn_prompt=segmenter.sam.prompt_encoder.no_mask_embed.weight.requires_grad,
        tune_encoder=segmenter.sam.image_encoder.pos_embed.requires_grad,
        trainable=count_trainable(segmenter, *beside),
        knobs=knobs.model_dump(),
        statistics=training_statistics(data),
    )


def load_start(segmenter: Segmenter, run: str | Path) -> None:
    """Put a run's weights into a network that was built with the same settings.

    Raises:
        InputError: the run has no weights yet, or they are of another network.
    """
    record = read_run(run)
    weights = torch.load(require_trained(run), map_location="cpu", weights_only=True)
    own = {name: tensor.shape for name, tensor in segmenter.state_dict().items()}
    differing = set(own.items()) ^ {(name, tensor.shape) for name, tensor in weights.items()}
    if differing or segmenter.sam.image_encoder.pos_embed.requires_grad != record.tune_encoder:
        what = f"they differ in {min(differing)[0]}" if differing else "the encoder is trained in only one of them"
        raise InputError(
            f"the weights of {run} do not fit this network ({what}); train from it with its own bundle, backbone, "
            "prompt and adapter settings"
        )
    segmenter.load_state_dict(weights)


class RunKeeper:
    """Handler of the trainer that keeps the run's folder: record, best weights, adapter, and the state to resume from.

    The best weights are those of the best validation on held-out volumes; without held-out volumes the last ones.
    Every file is whole or absent.

    Args:
        record: what describes the run, written when it starts; names the run to start from, if there is one.
        segmenter: the network, not wrapped.
        folder: the run's folder.
        bundle_root: the bundle whose configs are copied into it.
        states: what else must be restored to resume, by name: optimisers, schedulers, loaders.
        validator: the evaluator on held-out volumes, None without them.
        resume: whether to go on from the folder's training state.
    """

    def __init__(
        self,
        record: RunRecord,
        segmenter: Segmenter,
        folder: str | Path,
        bundle_root: str | Path,
        states: Mapping[str, Any],
        validator: Any = None,
        resume: bool = False,
    ) -> None:
        self.record, self.segmenter, self.states = record, segmenter, states
        self.folder, self.bundle_root = Path(folder), Path(bundle_root)
        self.validator, self.resume = validator, resume
        self.best = -np.inf
        if record.knobs.get("from_run") and not resume:
            load_start(segmenter, record.knobs["from_run"])

    def attach(self, engine: Any) -> None:
        """Register with the trainer (and with the validator)."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, _stop_on_nan)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save_state)
        engine.add_event_handler(Events.COMPLETED, self._finish)
        if self.validator is not None:
            self.validator.add_event_handler(Events.COMPLETED, self._keep_best)
        TrainingCost(self.folder, self.resume).attach(engine)

    def _start(self, engine: Any) -> None:
        if self.resume:
            self._load_state(engine)
        else:
            write_run(self.folder, self.record, self.bundle_root)

    def _finish(self, engine: Any) -> None:
        """Score the last epoch where the validation interval left it out."""
        if self.validator is None:
            self._save_model()
        elif self.validator.state.epoch != engine.state.epoch:
            self.validator.run(engine.state.epoch)

    def _keep_best(self, validator: Any) -> None:
        score = validator.state.metrics[validator.state.key_metric_name]
        score = -np.inf if np.isnan(score) else score
        if score > self.best or not (self.folder / MODEL_FILE).is_file():
            self.best = score
            self._save_model()

    def _save_model(self) -> None:
        path = self.folder / MODEL_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as temporary:
            torch.save(self.segmenter.state_dict(), temporary)
        save_adapter(self.segmenter, self.folder / ADAPTER_FOLDER)

    def _save_state(self, engine: Any) -> None:
        state = {
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "best": float(self.best),
            "sampler_epoch": engine.data_loader.sampler.epoch,
            "weights": {name: tensor.detach() for name, tensor in trainable_tensors(self.segmenter).items()},
            "states": {name: item.state_dict() for name, item in self.states.items()},
            "random": {"torch": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()},
            "numpy": _numpy_state(),
            "python": list(random.getstate()[1]),
        }
        path = self.folder / STATE_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as temporary:
            torch.save(state, temporary)

    def _load_state(self, engine: Any) -> None:
        state = torch.load(self.folder / STATE_FILE, map_location="cpu", weights_only=True)
        self.segmenter.load_state_dict(state["weights"], strict=False)
        for name, item in self.states.items():
            item.load_state_dict(state["states"][name])
        engine.data_loader.sampler.epoch = state["sampler_epoch"]
        engine.state.epoch, engine.state.iteration = state["epoch"], state["iteration"]
        self.best = state["best"]
        torch.set_rng_state(state["random"]["torch"])
        if state["random"]["cuda"]:
            torch.cuda.set_rng_state_all(state["random"]["cuda"])
        np.random.set_state(("MT19937", np.array(state["numpy"][0], dtype=np.uint32), *state["numpy"][1:]))  # noqa: NPY002
        random.setstate((3, tuple(state["python"]), None))


def _numpy_state() -> list[Any]:
    """NumPy's global random state as lists and numbers, which a file without pickled code can hold."""
    _, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 (transforms may draw from it)
    return [np.asarray(keys).tolist(), *rest]


def _stop_on_nan(engine: Any) -> None:
    loss = float(from_engine("loss", first=True)(engine.state.output))
    if not np.isfinite(loss):
        where = engine.state.batch if isinstance(engine.state.batch, Mapping) else engine.state.batch[0]
        raise RunError(
            f"the loss became {loss} in epoch {engine.state.epoch} (case {where['case']}, slice {where['slice']}): "
            "lower learning_rate; the weights of the last epoch are kept."
        )
