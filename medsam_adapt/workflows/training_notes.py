"""What a training reports: its data, start and precision, its plan, and how far it is."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsam_adapt.bundle.catalogue import read_config
from medsam_adapt.config import Knobs
from medsam_adapt.core.text import counted, shortened
from medsam_adapt.data.datasets.splits import why_none_is_held_out
from medsam_adapt.weights.backbones import encoder_is_tuned
from medsam_adapt.workflows.reporter import Progress, Reporter

if TYPE_CHECKING:
    from ignite.engine import Engine
    from monai.bundle import ConfigWorkflow

    from medsam_adapt.data import TrainingData
    from medsam_adapt.data.datasets.unlabelled import UnlabelledScans
    from medsam_adapt.feature_cache.frozen_work import FrozenWork
    from medsam_adapt.training.time_budget import TimeBudget
_NAMED = 5  # scans, at most, where many are left out


def note_precision(flow: ConfigWorkflow, reporter: Reporter) -> None:
    """A line where the image encoder does not compute in full precision."""
    from medsam_adapt.core.precision import IN_BF16, running_of

    network, where = (flow.parser.get_parsed_content(name) for name in ("network_def", "device"))
    if running_of(network.sam.image_encoder).is_bf16(where):
        reporter.note(IN_BF16)


def frozen_work_of(flow: ConfigWorkflow) -> FrozenWork | None:
    """What is frozen in a training; None for a bundle that was copied before there was such a thing."""
    return flow.parser.get_parsed_content("frozen") if "frozen" in flow.parser else None


def note_data(bundle: str, data: TrainingData, reporter: Reporter) -> None:
    """What is trained on and held out, and what is unusual about it."""
    split = data.split
    tiles = f"tiles of {data.image_size} pixels of slices of {data.slice_size}" if data.slice_size else ""
    located = " with their coordinates in the volume" if data.coordinates else ""
    direction = "" if data.axis == "axial" or data.three_planes else f"{data.axis} "
    reporter.note(
        f"{counted(len(split.train), 'case')} to train on, {len(split.held_out)} held out; "
        f"classes: {', '.join(data.class_names)}; {tiles or f'{direction}slices of {data.image_size} pixels'}{located}."
    )
    reporter.note(f"Grey levels: {data.policy_reason}")
    if data.cases.images:
        reporter.note(f"Images of a case: {data.slicing.describe_images()}.")
    if data.unlabelled is not None:
        note_unlabelled(data.unlabelled.scans, reporter)
    if data.earlier is not None:
        if kept := data.earlier.ever_held_out & {*split.held_out}:
            reporter.note(f"Held out by the run to start from, and still: {', '.join(sorted(kept))}.")
        if seen := data.earlier.ever_trained & {*split.held_out}:
            reporter.warn(
                f"the run to start from was trained on {', '.join(sorted(seen))}, which the given split holds out: "
                "their scores will be too good."
            )
    if not split.held_out:
        why = why_none_is_held_out(data.knobs.held_out, data.knobs.split_file)
        reporter.warn(f"{why}: nothing is held out, so scores will be on the training cases.")
    if "second_dataset" in read_config(bundle, "train") and data.split_by == "slices":
        reporter.warn(
            "fewer than four training patients: the bi-level halves are contiguous blocks of slices, not patients."
        )
    for warning in shortened(data.check.notes):
        reporter.warn(warning)
    for name in sorted(set(data.check.absent_classes(split.train)) - set(data.absent)):
        reporter.warn(f"class '{name}' has no voxel in these training labels: where it lies, background is trained.")
    if partial := data.check.partial_warning(split.train):
        reporter.warn(partial)
    for name in data.absent:
        reporter.warn(
            f"class '{name}' has no voxel in any training label: it is kept in the label map and never predicted."
        )


def note_unlabelled(scans: UnlabelledScans, reporter: Reporter) -> None:
    """How many scans without labels are learned from, and which are left out."""
    for note in scans.notes:
        reporter.note(note)
    drawn = f", drawn from {scans.found} (--set unlabelled_most=N)" if scans.found > len(scans.cases) else ""
    reporter.note(f"Without labels: {counted(len(scans.cases), 'scan')} of {scans.root}{drawn}.")
    if scans.left_out:
        some = ", ".join(scans.left_out[:_NAMED]) + ", …" * (len(scans.left_out) > _NAMED)
        reporter.note(f"{scans.root}: left out {len(scans.left_out)} that are cases of the labelled data ({some}).")


def note_start(start: Path | None, knobs: Knobs, reporter: Reporter) -> None:
    """Which weights are the first ones, and whether the encoder is trained."""
    if knobs.from_run:
        reporter.note(f"{knobs.backbone} starts from the weights of {knobs.from_run}.")
        return
    tuned = encoder_is_tuned(knobs.tune_encoder, knobs.backbone, start is not None)
    encoder = ", and its whole image encoder is trained too." if tuned else "; its image encoder stays frozen."
    if start is not None:
        reporter.note(f"{knobs.backbone} starts from {start.name}{encoder}")
        return
    reporter.warn(
        f"{knobs.backbone} starts from random weights{encoder}"
        + (f" 'medsam-adapt weights list' shows pretrained ones for {knobs.backbone}." * (knobs.backbone != "vit_nano"))
    )


def plan_of(flow: ConfigWorkflow) -> dict[str, Any]:
    """What a dry run finds out: cases, steps, trainable values, and the cost of a training as one real step has it."""
    from medsam_adapt.networks import count_trainable
    from medsam_adapt.runs.cost import peak_memory

    data: TrainingData = flow.parser.get_parsed_content("data")
    trainer, segmenter = flow.trainer, flow.parser.get_parsed_content("network_def")
    frozen = frozen_work_of(flow)
    batch = next(iter(trainer.data_loader))
    for _ in range(2):  # the first step also allocates
        if frozen is not None:
            frozen.rehearse()
        started = time.perf_counter()
        trainer._process_function(trainer, batch)
        seconds = time.perf_counter() - started
    steps = trainer.state.max_epochs * len(trainer.data_loader)
    peak = peak_memory(trainer.state.device)
    beside = [flow.parser.get_parsed_content("distillation_def")] if "distillation_def" in flow.parser else []
    frozen_seconds = None
    if frozen is not None and frozen.done:
        seconds -= frozen.seconds
        frozen_seconds = frozen.steps * frozen.seconds / frozen.done
    labelling = 0.0 if trainer.self_training is None else trainer.self_training.estimate()
    return {
        "classes": list(data.class_names),
        "train": list(data.split.train),
        "held_out": list(data.split.held_out),
        "unlabelled": 0 if data.unlabelled is None else len(data.unlabelled.scans.cases),
        "image_size": data.image_size,
        "training_slices": len(data.samples()),
        "steps": steps,
        "batch_size": trainer.data_loader.batch_size,
        "trainable": count_trainable(segmenter, *beside),
        "frozen_work_seconds": frozen_seconds,
        "training_seconds": steps * seconds + labelling,
        "memory_bytes": peak,
    }


class Display:
    """Progress of a training: epoch, loss, time left; validation scores as lines above the bar.

    Where there is no terminal, as in a file or a scheduler's log, each epoch is a line with its mean loss.
    """

    def __init__(self, progress: Progress, epochs: int, budget: TimeBudget | None = None) -> None:
        self.progress, self.epochs, self.budget = progress, epochs, budget
        self.losses: list[float] = []
        self.started = time.perf_counter()

    def attach(self, trainer: Engine, validator: Engine | None) -> None:
        """Register with the trainer and the validator."""
        from ignite.engine import Events

        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._epoch)
        if validator is not None:
            validator.add_event_handler(Events.COMPLETED, self._validated, trainer)

    def _step(self, trainer: Engine) -> None:
        output: Any = trainer.state.output  # whatever the step function returns; Ignite has it as a number
        loss = float(output[0]["loss"])
        self.losses.append(loss)
        completed = trainer.state.iteration if self.budget is None else self.budget.part
        self.progress.update(completed=completed, detail=f"epoch {trainer.state.epoch} loss {loss:.4f}")

    def _epoch(self, trainer: Engine) -> None:
        loss, seconds = sum(self.losses) / max(len(self.losses), 1), time.perf_counter() - self.started
        steps = f"{counted(len(self.losses), 'step')}"
        of = f" of {self.epochs}" if self.budget is None else f", {self.budget.share:.0%} of the time"
        self.progress.line(f"epoch {trainer.state.epoch}{of}: loss {loss:.4f}, {steps} in {seconds:.1f} s", in_log=True)
        self.losses.clear()
        self.started = time.perf_counter()

    def _validated(self, validator: Engine, trainer: Engine) -> None:
        (score,) = validator.state.metrics.values()
        self.progress.line(f"epoch {trainer.state.epoch}: mean DSC {score:.3f} on the held-out volumes")
