"""The handler of the trainer that writes a run's folder and resumes a training from it with bit-identical results."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Events
from monai.handlers import TensorBoardStatsHandler, from_engine

from medsam_adapt.core.distributed import any_process, is_main_process, main_process_first, seed_processes
from medsam_adapt.core.errors import InputError, RunError
from medsam_adapt.core.files import written_whole
from medsam_adapt.core.folder_lock import FolderLock
from medsam_adapt.core.interrupts import raise_if_stopped, stop_is_asked
from medsam_adapt.data.slices.sampling import go_on_from
from medsam_adapt.networks.parameters import save_adapter, trainable_tensors
from medsam_adapt.networks.segmenter import Segmenter
from medsam_adapt.runs.checkpoint import (
    LogFiles,
    all_finite,
    random_states,
    read_checkpoint,
    save_tensors,
    set_random_states,
    write_checkpoint,
)
from medsam_adapt.runs.cost import TrainingCost
from medsam_adapt.runs.record import (
    ADAPTER_FOLDER,
    LOG_FOLDER,
    MODEL_FILE,
    RunRecord,
    read_run,
    require_trained,
    write_run,
)
from medsam_adapt.runs.resume import clear_run, has_checkpoint, refuse_other_record
from medsam_adapt.training.average import AverageWeights
from medsam_adapt.weights.reading import read_weights


def log_validations(validator: Any, trainer: Any, folder: Path) -> None:
    """Log the metrics of every validation (its mean DSC) for TensorBoard, by the trainer's step, as the loss is."""
    TensorBoardStatsHandler(
        log_dir=str(folder), iteration_log=False, global_epoch_transform=lambda _: trainer.state.iteration
    ).attach(validator)


def load_start(segmenter: Segmenter, run: str | Path) -> None:
    """Put a run's weights into a network that was built with the same settings.

    Raises:
        InputError: the run has no weights yet, or they are of another network.
    """
    record = read_run(run)
    weights = read_weights(require_trained(run))
    own = {name: tensor.shape for name, tensor in segmenter.state_dict().items()}
    differing = set(own.items()) ^ {(name, tensor.shape) for name, tensor in weights.items()}
    if differing or segmenter.tuned_encoder != record.tune_encoder:
        what = f"they differ in {min(differing)[0]}" if differing else "the encoder is trained in only one of them"
        raise InputError(
            f"{run}: its weights do not fit this network ({what}). Train from it with the same bundle, backbone, "
            "prompt and adapter settings."
        )
    segmenter.load_state_dict(weights)


class RunHandler:
    """Handler of the trainer that keeps the run's folder: record, best weights, adapter, and the state to resume from.

    The best weights are those of the best validation on held-out volumes; without held-out volumes the last ones.
    Every file is whole or absent, and a training resumes from the state with bit-identical results (on the CPU). The
    state is kept after every epoch, before every validation, after so many minutes, and when a signal asks for the end.
    Of several processes that train together the first writes, and all read.

    Args:
        record: what describes the run, written when it starts; names the run to start from, if there is one.
        segmenter: the network, not wrapped.
        folder: the run's folder.
        bundle_root: the bundle whose configs are copied into it.
        states: what else must be restored to resume, by name: optimisers, schedulers, loaders.
        validator: the evaluator on held-out volumes. Without these it runs once at the end, on the training volumes
            that it has, and only its choice of a clean-up counts.
        resume: whether to continue from the folder's training state.
        average: of the weights, which is validated and saved instead of them; it is one of ``states`` too.
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
        average: AverageWeights | None = None,
    ) -> None:
        self.record, self.segmenter, self.states = record, segmenter, states
        self.folder, self.bundle_root = Path(folder), Path(bundle_root)
        self.validator = validator if record.held_out else None
        self.clean_up: Any = getattr(validator, "clean_up", None)
        self.judge, self.resume, self.average = validator, resume, average
        self.best: float | None = None  # before the first validation
        self.cost, self.lock = TrainingCost(self.folder), FolderLock(self.folder)
        self._random: dict[str, Any] | None = None  # to be put back when the first batch is drawn
        self._epoch_is_open = False
        if resume:
            refuse_other_record(self.folder, record)
        if record.knobs.get("from_run") and not (resume and has_checkpoint(self.folder)):
            load_start(segmenter, record.knobs["from_run"])

    def attach(self, engine: Any) -> None:
        """Register with the trainer (and with the validator)."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._restore_random)
        engine.add_event_handler(Events.ITERATION_COMPLETED, _stop_on_nan)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._save_within_epoch)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save_state)
        engine.add_event_handler(Events.EPOCH_COMPLETED, raise_if_stopped)
        engine.add_event_handler(Events.COMPLETED, self._finish)
        if self.judge is not None:
            self.judge.add_event_handler(Events.ITERATION_COMPLETED, raise_if_stopped)
        if self.validator is not None:
            if self.average is not None:
                self.validator.add_event_handler(Events.STARTED, self.average.swap)
            self.validator.add_event_handler(Events.COMPLETED, self._keep_best)
            if self.average is not None:
                self.validator.add_event_handler(Events.COMPLETED, self.average.swap)
            if is_main_process():
                log_validations(self.validator, engine, self.folder / LOG_FOLDER)
        seed_processes(engine, self.record.knobs["seed"])
        self.logs = LogFiles(self.folder / LOG_FOLDER, engine, *([] if self.validator is None else [self.validator]))
        if is_main_process():
            self.cost.attach(engine)
        engine.add_event_handler(Events.STARTED, self._end_open_epoch)
        engine.add_event_handler(Events.COMPLETED, lambda _: self.lock.release())

    def _start(self, engine: Any) -> None:
        self._saved = time.monotonic()
        with main_process_first():
            if is_main_process():
                self.folder.mkdir(parents=True, exist_ok=True)
                self.lock.hold()
            state, problems = read_checkpoint(self.folder) if self.resume else (None, [])
            if is_main_process():
                self._open_folder(state, problems)
        if state is not None:
            self._load_state(engine, state)

    def _open_folder(self, state: Mapping[str, Any] | None, problems: list[str]) -> None:
        """Bring the folder to where ``state`` found it, or begin it."""
        for problem in problems:
            logging.getLogger(__name__).warning("%s: the checkpoint before it is used.", problem)
        clear_run(self.folder, begun=state is not None)
        self.logs.cut({} if state is None else state["logs"])
        if state is None:
            write_run(self.folder, self.record, self.bundle_root)

    def _end_open_epoch(self, engine: Any) -> None:
        """Do what follows an epoch, validation first, when the checkpoint was made before it was done."""
        if self._epoch_is_open:
            engine.fire_event(Events.EPOCH_COMPLETED)

    def _restore_random(self, engine: Any) -> None:
        if self._random is not None:  # only now, since to begin a pass draws from torch's generator
            set_random_states(self._random)
            self._random = None

    def _finish(self, engine: Any) -> None:
        """Score the last epoch where the validation interval left it out."""
        if self.validator is None:
            with nullcontext() if self.average is None else self.average.applied():
                self._save_model()
                if self.clean_up is not None:
                    if self.clean_up.most:
                        self.judge.run()
                    self._save_clean_up()
        elif self.validator.state.epoch != engine.state.epoch:
            self.validator.run(engine.state.epoch)

    def _keep_best(self, validator: Any) -> None:
        score = validator.state.metrics[validator.state.key_metric_name]
        score = -np.inf if np.isnan(score) else score
        if self.best is None or score > self.best or not (self.folder / MODEL_FILE).is_file():
            self.best = float(score)
            self._save_model()
            if self.clean_up is not None:
                self._save_clean_up()

    def _save_model(self) -> None:
        if not is_main_process():
            return
        path = self.folder / MODEL_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as temporary:
            save_tensors(self.segmenter.state_dict(), temporary)
        save_adapter(self.segmenter, self.folder / ADAPTER_FOLDER)

    def _save_clean_up(self) -> None:
        """The record of the saved weights has what was chosen by their predictions."""
        if is_main_process():
            self.record = self.record.model_copy(update={"cleaning": self.clean_up.choices()})
            write_run(self.folder, self.record, self.bundle_root)

    def _save_within_epoch(self, engine: Any) -> None:
        """A checkpoint when one is due, the validation comes next, or a signal asks for the end."""
        ends = engine.state.iteration % engine.state.epoch_length == 0
        validates = self.validator is not None and engine.state.epoch % self.record.knobs["val_interval"] == 0
        due = time.monotonic() - self._saved >= 60 * self.record.knobs["save_minutes"]
        if any_process(stop_is_asked()) or due or (ends and validates):
            self._save_state(engine)
        raise_if_stopped()

    def _save_state(self, engine: Any) -> None:
        if not is_main_process():
            return
        weights = {name: tensor.detach() for name, tensor in trainable_tensors(self.segmenter).items()}
        if not all_finite(weights.values()):
            raise RunError(
                f"learning_rate: the weights are no longer finite after {_where(engine)}. Lower learning_rate; the "
                "checkpoint before is kept."
            )
        state = {
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "epoch_is_open": engine.last_event_name != Events.EPOCH_COMPLETED,
            "best": self.best,
            "validated": 0 if self.validator is None else self.validator.state.epoch,
            "weights": weights,
            "states": {name: item.state_dict() for name, item in self.states.items()},
            "random": random_states(),
            "logs": self.logs.lengths(),
            "cost": self.cost.totals(engine),
        }
        write_checkpoint(self.folder, state)
        self._saved = time.monotonic()

    def _load_state(self, engine: Any, state: Mapping[str, Any]) -> None:
        self.segmenter.load_state_dict(state["weights"], strict=False)
        for name, item in self.states.items():
            item.load_state_dict(state["states"][name])
        within = go_on_from(engine.data_loader, state["iteration"]) > 0
        engine.state.epoch, engine.state.iteration = state["epoch"] - within, state["iteration"]
        self._epoch_is_open = state["epoch_is_open"] and not within
        self.best, self.cost.before = state["best"], state["cost"]
        if self.validator is not None:
            self.validator.state.epoch = state["validated"]
        set_random_states(state["random"])
        self._random = state["random"] if within else None


def _where(engine: Any) -> str:
    """The epoch, and the cases and slices of the batch, for messages."""
    batch = engine.state.batch
    samples = [batch] if isinstance(batch, Mapping) else batch
    cases = dict.fromkeys(str(case) for sample in samples for case in np.atleast_1d(sample["case"]))
    slices = dict.fromkeys(int(index) for sample in samples for index in np.atleast_1d(sample["slice"]))
    return (
        f"epoch {engine.state.epoch}, step {engine.state.iteration} (case {', '.join(cases)}; slice "
        f"{', '.join(map(str, slices))})"
    )


def _stop_on_nan(engine: Any) -> None:
    loss = float(from_engine("loss", first=True)(engine.state.output))
    if not np.isfinite(loss):
        raise RunError(
            f"learning_rate: the loss became {loss} in {_where(engine)}. Check these slices, or lower learning_rate; "
            "the last checkpoint is kept."
        )
