"""``medsam-adapt train``: fine-tune SAM to a folder of labelled volumes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.filesize import decimal

from medsam_adapt.bundle.catalogue import DEFAULT_BUNDLE, parse_sets, resolve_knobs, workflow
from medsam_adapt.bundle.settings import run_knobs
from medsam_adapt.bundle.untrusted import TRUST_HELP, base_bundle, require_trust
from medsam_adapt.config import Knobs
from medsam_adapt.core.cache import borrowed_cache, cache_folder
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import folder_replaced, forget_replaced
from medsam_adapt.core.folder_lock import FolderLock
from medsam_adapt.core.interrupts import Stopped, stopped_by_signals
from medsam_adapt.core.literals import plain_path
from medsam_adapt.runs.record import RUN_FILE, data_of, read_run, require_trained, same_origin
from medsam_adapt.runs.resume import changed_setting, has_checkpoint, is_false_start, is_finished
from medsam_adapt.training.failures import explain_training_errors
from medsam_adapt.weights.store import resolve

from .console import (
    Device,
    Json,
    Overwrite,
    check_output,
    console,
    only_json,
    print_json,
    progress_bar,
    say,
    silence_logs,
    warn,
)
from .processes import count_processes, is_main_process, is_one_of_several, train_together
from .training_notes import Display, frozen_work_of, plan_of, tell_data, tell_plan, tell_precision, tell_start

if TYPE_CHECKING:
    from monai.bundle import ConfigWorkflow

    from medsam_adapt.data import TrainingData
    from medsam_adapt.training.time_budget import Deadline


def train(
    data: Annotated[Path | None, typer.Option(help="Folder of the labelled volumes.", show_default=False)] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the run to make.", show_default=False)] = None,
    bundle: Annotated[
        str | None, typer.Option(help="Method, or a changed copy's folder; see 'bundles list'.  [default: detail]")
    ] = None,
    layout: Annotated[str | None, typer.Option(help="Layout of the data on disk; recognised when not given.")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="vit_nano, vit_b, lite_medsam, sam2_hiera_tiny, …; see docs/backbones.md.")
    ] = None,
    checkpoint: Annotated[str | None, typer.Option(help="Name from 'weights list', a file, or random.")] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side of a slice in pixels, a multiple of 16 (32 for TinyViT and SAM 2).")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training slices.")] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.1, help="Time budget, instead of --epochs; validation and preparation count.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="default (ours) or paper (the paper's settings).")] = "default",
    prompt: Annotated[str | None, typer.Option(help="none, box or points.")] = None,
    device: Device = "auto",
    precision: Annotated[str | None, typer.Option(help="fp32, bf16, or auto; see 'bundles show'.")] = None,
    low_memory: Annotated[
        bool | None, typer.Option("--low-memory", help="Train in less memory, with more time a step.")
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(min=1, help="GPUs that train together; with --device cpu, processes.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed.")] = None,
    classes: Annotated[str | None, typer.Option(help="Classes to learn, as in liver,spleen.")] = None,
    fold: Annotated[int | None, typer.Option(help="Fold held out in a cross-validation, counted from 0.")] = None,
    folds: Annotated[int | None, typer.Option(help="Number of folds, where --split-file gives none.")] = None,
    split_file: Annotated[Path | None, typer.Option(help="Splits made by 'data split'.", show_default=False)] = None,
    cache_dir: Annotated[Path | None, typer.Option(help="Folder of the slice cache.", show_default=False)] = None,
    start: Annotated[
        Path | None,
        typer.Option("--from", help="Continue from this run's weights and settings on other data."),
    ] = None,
    repeat: Annotated[Path | None, typer.Option(help="Take data, bundle and settings from this run.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the run in --output; start it if there is none yet.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and exit.")] = False,
    trust_bundle: Annotated[bool, typer.Option("--trust-bundle", help=TRUST_HELP)] = False,
    sets: Annotated[list[str] | None, typer.Option("--set", help="key=value; see 'bundles show'.")] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Fine-tune SAM to labelled volumes."""
    started = time.monotonic()
    if as_json and not dry_run:
        raise InputError("--json: it prints the plan of --dry-run. Add --dry-run, or leave out --json.")
    only_json(as_json)
    if minutes is not None and epochs is not None:
        raise InputError("--minutes: it chooses the number of epochs. Leave out --epochs.")
    options = {
        "layout": layout,
        "backbone": backbone,
        "checkpoint": checkpoint,
        "image_size": image_size,
        "epochs": epochs,
        "minutes": minutes,
        "prompt": prompt,
        "precision": precision,
        "low_memory": low_memory,
        "seed": seed,
        "fold": fold,
        "folds": folds,
        "split_file": None if split_file is None else plain_path(split_file),
        "cache_dir": None if cache_dir is None else plain_path(cache_dir),
        "classes": None if classes is None else [name.strip() for name in classes.split(",") if name.strip()],
    }
    given = {key: value for key, value in options.items() if value is not None} | parse_sets(sets or [])
    if output is None and not dry_run:
        raise InputError("train needs --output, the folder of the run to make.")
    if start is not None and (repeat is not None or resume):
        raise InputError("--from starts a separate run: leave out --repeat and --resume.")
    if start is not None:
        bundle, knobs = _of_start(start, bundle, given)
    elif repeat is not None:
        record = read_run(repeat)
        bundle, data = same_origin(record, bundle, repeat), data or data_of(record, repeat)
        knobs = run_knobs(record.bundle, **{"input_scaling": record.input_scaling, **record.knobs, **given})
    elif resume and output is not None and ((output / RUN_FILE).is_file() or data is None):
        bundle, data, knobs = _of_interrupted(output, bundle, given, data)
        if is_finished(output):
            say(f"{output} is finished: there is nothing to continue.")
            return
    else:
        bundle = bundle or DEFAULT_BUNDLE
        knobs = resolve_knobs(bundle, recipe, sets=given)
    if data is None:
        raise InputError("train needs --data, the folder of the labelled volumes.")
    require_trust(bundle, trust_bundle)
    if dry_run:
        with borrowed_cache(knobs.cache_dir) as cache:
            borrowed = knobs.model_copy(update={"cache_dir": str(cache)})
            if minutes is not None:
                borrowed = planned(bundle, data, borrowed, device, started, trust_bundle)
            # An output too: MONAI's TensorBoard handler writes as soon as it is made.
            plan = plan_of(_prepare(bundle, data, cache / "run", borrowed, device, trust_bundle=trust_bundle))
        if as_json:
            print_json(plan)
        tell_plan(plan)
        return
    assert output is not None
    begun = resume and (output / RUN_FILE).is_file()
    count = count_processes(gpus, device, output if begun else repeat, begun)
    if is_main_process():
        FolderLock.refuse_if_held(output)
        if not (begun or is_false_start(output)):
            check_output(output, overwrite, RUN_FILE)
    if minutes is not None and not begun:
        knobs = planned(bundle, data, knobs, device, started, trust_bundle)
    if count == 1:
        run_training(bundle, data, output, knobs, device, resume, overwrite, trust_bundle, started)
    else:
        order = {"bundle": bundle, "data": str(data), "knobs": knobs.model_dump(), "device": device, "resume": resume}
        order["trust_bundle"] = trust_bundle
        with _kept_or_restored(output, overwrite and not resume):
            train_together(count, output, **order)
    say(f"Trained: {output}\nNext: medsam-adapt evaluate {output}, or medsam-adapt predict {output} -i SCAN -o MASKS")


def run_training(
    bundle: str,
    data: Path,
    output: Path,
    knobs: Knobs,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    trust_bundle: bool = False,
    started: float | None = None,
) -> None:
    """Train a bundle, with notes and a progress bar; raises InputError before anything is written.

    A time budget (``knobs.minutes``) counts from ``started`` (`time.monotonic`), or from now.
    """
    started = time.monotonic() if started is None else started
    console.quiet = not is_main_process()
    flow = _prepare(bundle, data, output, knobs, device, resume, trust_bundle)
    deadline = None
    if knobs.minutes is not None:
        from medsam_adapt.training.time_budget import Deadline

        deadline = Deadline.of(knobs.minutes, started, output, resume)
    with explain_training_errors(output, knobs.model_dump()):
        _do_frozen_work(flow)
    with _kept_or_restored(output, overwrite and not resume and is_main_process()):
        _run(flow, output, knobs, deadline)
        if is_main_process():
            require_trained(output)
    if resume and is_main_process():  # the kill may have come while it replaced another run
        forget_replaced(output)


@contextmanager
def _kept_or_restored(output: Path, overwrite: bool) -> Iterator[None]:
    """Make the folder anew in the block; one that fails brings the folder back, unless it can be gone on with."""
    failure: BaseException | None = None
    with folder_replaced(output) if overwrite else nullcontext():
        try:
            yield
        except BaseException as error:
            if not has_checkpoint(output):
                raise
            failure = error  # raised again outside: what can be gone on with replaces what was there
    if isinstance(failure, Stopped) and not is_one_of_several():
        warn(f"stopped; 'medsam-adapt train --resume --output {output}' continues from here.")
    if failure is not None:
        raise failure


def planned(bundle: str, data: Path, knobs: Knobs, device: str, started: float, trust_bundle: bool = False) -> Knobs:
    """The settings with as many epochs as ``knobs.minutes`` buy from ``started`` on, and one validation at the end."""
    from medsam_adapt.training.time_budget import Deadline, measure

    assert knobs.minutes is not None
    with tempfile.TemporaryDirectory() as folder:
        flow = _prepare(bundle, data, Path(folder) / "run", knobs, device, trust_bundle=trust_bundle)
        times, steps = measure(flow), len(flow.trainer.data_loader)
    epochs = times.epochs(Deadline(60 * knobs.minutes, started).left, steps)
    say(f"{knobs.minutes:g} min: {epochs} epochs of {steps} steps, {times.step:.3f} s each.")
    return knobs.model_copy(update={"epochs": epochs, "val_interval": epochs})


def _run(flow: ConfigWorkflow, output: Path, knobs: Knobs, deadline: Deadline | None = None) -> None:
    with stopped_by_signals(), explain_training_errors(output, knobs.model_dump()), progress_bar() as progress:
        trainer = flow.trainer  # made in here, for MONAI's TensorBoard handler begins its file at once
        Display(progress, knobs.epochs).attach(trainer, flow.evaluator)
        if deadline is not None:
            deadline.attach(trainer)
        flow.run()
        flow.finalize()


def _of_interrupted(
    output: Path, bundle: str | None, given: Mapping[str, Any], data: Path | None
) -> tuple[str, Path, Knobs]:
    """Bundle, data and settings of the run to resume; rejects different settings."""
    record = read_run(output)
    if not record.dataset_dir:
        raise InputError(f"{output} was pulled and cannot be resumed: begin another run with --from {output}.")
    if record.bundle_sha256 is None and bundle not in (None, record.bundle):
        raise InputError(f"{output} was begun with the bundle {record.bundle}: resume it without --bundle {bundle}.")
    if changed := changed_setting(record, given):
        longer = f", or begin another run with --from {output} to train longer" * (changed == "epochs")
        raise InputError(f"{output} was begun with another {changed}: resume it without that option{longer}.")
    how = {name: value for name, value in given.items() if name != "layout"}
    # A run from before this setting keeps the scaling that it was trained with, whatever its checkpoint expects.
    knobs = run_knobs(record.bundle, **{"input_scaling": record.input_scaling, **record.knobs, **how})
    return same_origin(record, bundle, output), data or Path(record.dataset_dir), knobs


def _of_start(start: Path, bundle: str | None, given: Mapping[str, Any]) -> tuple[str, Knobs]:
    """Bundle and settings of a run to start from; the layout and the split of its data are not those of the new."""
    record = read_run(start)
    require_trained(start)
    kept = {key: value for key, value in record.knobs.items() if key not in ("layout", "split_file", "fold")}
    knobs = run_knobs(record.bundle, **{**kept, **given, "from_run": str(start.resolve())})
    return same_origin(record, bundle, start), knobs


def _prepare(
    bundle: str,
    data: Path,
    output: Path,
    knobs: Knobs,
    device: str,
    resume: bool = False,
    trust_bundle: bool = False,
) -> ConfigWorkflow:
    """The workflow with its data found, checked and sliced; all input errors are reported here."""
    from medsam_adapt.data.datasets.cases import find_cases, select_classes

    start = resolve(knobs.checkpoint, knobs.backbone)
    found = find_cases(data, knobs.layout)
    if knobs.classes and not knobs.from_run:
        select_classes(found, knobs.classes)
    if knobs.layout == "auto":
        say(f"{data} looks like the layout '{found.layout}'.")
    say("Checking labels …")

    import logging

    from medsam_adapt.core.devices import process_device, select_device
    from medsam_adapt.training.setup import compiles, load_start

    logging.getLogger().setLevel(logging.WARNING)
    # The progress bar shows what MONAI would log, and the launcher reports which process failed and why.
    silence_logs(logging.CRITICAL if is_one_of_several() else logging.INFO)
    chosen = process_device(device) if is_one_of_several() else select_device(device)
    compiles(knobs, chosen)  # raises where it should and cannot, before slices are made
    values = {
        "knobs": {
            "_target_": "medsam_adapt.bundle.settings.run_knobs",
            "bundle": base_bundle(bundle),
            **knobs.model_dump(),
        },
        "dataset_dir": plain_path(data),
        "output_dir": plain_path(output),
        "device": chosen,
        "resume": resume,
    }
    overlay = "multi_gpu_train" if is_one_of_several() else None
    flow = workflow(bundle, "train", values, overlay=overlay, trusted=trust_bundle)
    training_data: TrainingData = flow.parser.get_parsed_content("data")
    if knobs.from_run and not resume:
        load_start(flow.parser.get_parsed_content("network_def"), knobs.from_run)
    say(f"Preparing slices: about {decimal(training_data.store_bytes())} in {cache_folder(knobs.cache_dir)} …")
    with progress_bar() as progress:
        task = progress.add_task("slicing", total=len(training_data.split.train), detail="")
        training_data.store(lambda case: progress.update(task, advance=1))
    tell_data(bundle, training_data)
    tell_start(start, knobs)
    if knobs.precision != "fp32":
        tell_precision(flow)
    if (frozen := frozen_work_of(flow)) is not None:
        say(frozen.describe())
    return flow


def _do_frozen_work(flow: ConfigWorkflow) -> None:
    frozen = frozen_work_of(flow)
    if frozen is None or frozen.views is None:
        return
    flow.parser.get_parsed_content("network")  # moves it to the device
    with progress_bar() as progress:
        task = progress.add_task("frozen work", total=frozen.steps, detail="slices and views")
        frozen.fill(lambda count: progress.update(task, advance=count))
