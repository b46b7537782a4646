"""One training: its workflow prepared and run, with what it reports, and an earlier run brought back if it fails."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.filesize import decimal

from medsam_adapt.bundle.catalogue import workflow
from medsam_adapt.bundle.untrusted import base_bundle
from medsam_adapt.config import Knobs
from medsam_adapt.core.cache import cache_folder
from medsam_adapt.core.files import folder_replaced, forget_replaced
from medsam_adapt.core.interrupts import Stopped, stopped_by_signals
from medsam_adapt.core.literals import plain_path
from medsam_adapt.core.text import counted
from medsam_adapt.runs.record import require_trained
from medsam_adapt.runs.resume import has_checkpoint
from medsam_adapt.training.failures import explain_training_errors
from medsam_adapt.weights.store import resolve
from medsam_adapt.workflows.processes import is_main_process, is_one_of_several
from medsam_adapt.workflows.reporter import Reporter, quiet_logs
from medsam_adapt.workflows.training_notes import Display, frozen_work_of, note_data, note_precision, note_start

if TYPE_CHECKING:
    from monai.bundle import ConfigWorkflow

    from medsam_adapt.data import TrainingData


@dataclass(frozen=True)
class TrainingOrder:
    """What is trained, its options and settings checked.

    Attributes:
        bundle: name of the method, or the folder of a changed copy.
        data: folder of the labelled volumes.
        output: folder of the run.
        knobs: all settings.
        device: as the user names it.
        resume: whether a checkpoint in ``output`` is continued.
        overwrite: whether a run in ``output`` is replaced.
        trust_bundle: whether the code of a changed copy is run.
        started: `time.monotonic` from which a time budget counts.
        why_backbone: the reason for the backbone among the settings, for the user.
    """

    bundle: str
    data: Path
    output: Path
    knobs: Knobs
    device: str = "auto"
    resume: bool = False
    overwrite: bool = False
    trust_bundle: bool = False
    started: float = field(default_factory=time.monotonic)
    why_backbone: str = ""

    def as_json(self) -> dict[str, Any]:
        """The order for a process that trains with others; replacing a run is left to the launcher."""
        return {
            "bundle": self.bundle,
            "data": str(self.data),
            "output": str(self.output),
            "knobs": self.knobs.model_dump(),
            "device": self.device,
            "resume": self.resume,
            "started": self.started,  # the clock is that of the machine
            "trust_bundle": self.trust_bundle,
        }


def training_logs(reporter: Reporter) -> AbstractContextManager[None]:
    """Keep MONAI's log lines back, which the progress replaces.

    With several processes errors are kept back too: the launcher reports which process failed, and why.
    """
    return quiet_logs(reporter, logging.CRITICAL if is_one_of_several() else logging.INFO)


def run_training(order: TrainingOrder, reporter: Reporter) -> None:
    """Train; raises InputError before anything is written."""
    output = order.output
    flow = prepare(order, reporter)
    with explain_training_errors(output, order.knobs.model_dump()):
        _do_frozen_work(flow, reporter)
    with kept_or_restored(output, order.overwrite and not order.resume and is_main_process(), reporter):
        _run(flow, order, reporter)
        if is_main_process():
            require_trained(output)
    if order.resume and is_main_process():  # the kill may have come while it replaced another run
        forget_replaced(output)


@contextmanager
def kept_or_restored(output: Path, overwrite: bool, reporter: Reporter) -> Iterator[None]:
    """Make the folder anew in the block; one that fails brings the folder back, unless it can be resumed."""
    failure: BaseException | None = None
    with folder_replaced(output) if overwrite else nullcontext():
        try:
            yield
        except BaseException as error:
            if not has_checkpoint(output):
                raise
            failure = error  # raised again outside: what can be resumed replaces what was there
    if isinstance(failure, Stopped) and not is_one_of_several():
        reporter.warn(f"stopped; 'medsam-adapt train --resume --output {output}' continues from here.")
    if failure is not None:
        raise failure


def with_epochs_that_fit(order: TrainingOrder, reporter: Reporter) -> TrainingOrder:
    """The order with about as many epochs as its ``knobs.minutes`` allow, and one validation at the end."""
    from medsam_adapt.training.time_budget import measure

    minutes = order.knobs.minutes
    assert minutes is not None
    with tempfile.TemporaryDirectory() as folder:
        flow = prepare(replace(order, output=Path(folder) / "run", resume=False), reporter)
        times, steps = measure(flow), len(flow.trainer.data_loader)
    epochs = times.epochs(60 * minutes + order.started - time.monotonic(), steps)
    reporter.note(
        f"{minutes:g} min: about {counted(epochs, 'epoch')} of {counted(steps, 'step')}, {times.step:.3f} s each."
    )
    return replace(order, knobs=order.knobs.model_copy(update={"epochs": epochs, "val_interval": epochs}))


def _run(flow: ConfigWorkflow, order: TrainingOrder, reporter: Reporter) -> None:
    epochs = order.knobs.epochs
    with stopped_by_signals(), explain_training_errors(order.output, order.knobs.model_dump()):
        trainer = flow.trainer  # made in here, for MONAI's TensorBoard handler begins its file at once
        if trainer.budget is not None:
            trainer.budget.started = order.started
        steps = epochs * len(trainer.data_loader) if trainer.budget is None else trainer.budget.parts
        with reporter.progress("training", steps) as progress:
            if trainer.self_training is not None:
                trainer.self_training.report = progress.line
            held_out = flow.parser.get_parsed_content("data").volumes()
            Display(progress, epochs, trainer.budget).attach(trainer, flow.evaluator if held_out else None)
            flow.run()
            flow.finalize()


def prepare(order: TrainingOrder, reporter: Reporter) -> ConfigWorkflow:
    """The workflow with its data found, checked and sliced; all input errors are reported here."""
    from medsam_adapt.data.datasets.cases import find_cases, select_classes

    knobs, bundle, data = order.knobs, order.bundle, order.data
    resolve(knobs.checkpoint, knobs.backbone)  # raises where there are no such weights
    found = find_cases(data, knobs.layout)
    if knobs.classes and not knobs.from_run:
        select_classes(found, knobs.classes)
    if knobs.layout == "auto":
        reporter.note(f"{data} looks like the layout '{found.layout}'.")
    reporter.note("Checking labels …")

    from medsam_adapt.core.devices import process_device, select_device
    from medsam_adapt.training.setup import compiles, load_start

    chosen = process_device(order.device) if is_one_of_several() else select_device(order.device)
    compiles(knobs, chosen)  # raises where it should and cannot, before slices are made
    values = {
        "knobs": {
            "_target_": "medsam_adapt.bundle.settings.run_knobs",
            "bundle": base_bundle(bundle),
            **knobs.model_dump(),
        },
        "dataset_dir": plain_path(data),
        "output_dir": plain_path(order.output),
        "device": chosen,
        "resume": order.resume,
    }
    overlay = "multi_gpu_train" if is_one_of_several() else None
    flow = workflow(bundle, "train", values, overlay=overlay, trusted=order.trust_bundle)
    training_data: TrainingData = flow.parser.get_parsed_content("data")
    knobs = flow.parser.get_parsed_content("knobs")  # with the backbone, where the data chose it
    reporter.note(f"Backbone: {knobs.backbone}, {order.why_backbone or training_data.why_backbone}.")
    if knobs.from_run and not order.resume:
        load_start(flow.parser.get_parsed_content("network_def"), knobs.from_run)
    reporter.note(
        f"Preparing slices: about {decimal(training_data.store_bytes())} in {cache_folder(knobs.cache_dir)} …"
    )
    scans = len(training_data.unlabelled.scans.cases) if training_data.unlabelled else 0
    with reporter.progress("slicing", len(training_data.split.train) + scans) as progress:
        training_data.store(lambda case: progress.update(1))
    note_data(bundle, training_data, reporter)
    note_start(resolve(knobs.checkpoint, knobs.backbone), knobs, reporter)
    if knobs.precision != "fp32":
        note_precision(flow, reporter)
    if (frozen := frozen_work_of(flow)) is not None:
        reporter.note(frozen.describe())
    return flow


def _do_frozen_work(flow: ConfigWorkflow, reporter: Reporter) -> None:
    frozen = frozen_work_of(flow)
    if frozen is None or frozen.views is None:
        return
    flow.parser.get_parsed_content("network")  # moves it to the device
    with reporter.progress("frozen work", frozen.steps) as progress:
        progress.update(detail="slices and views")
        frozen.fill(progress.update)
