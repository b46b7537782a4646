"""``medsam-adapt train``: fine-tune SAM to a folder of labelled volumes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.filesize import decimal

from medsam_adapt.bundle import parse_sets, read_config, resolve_knobs, run_knobs, workflow
from medsam_adapt.config import Knobs
from medsam_adapt.data.cache import cache_folder
from medsam_adapt.errors import InputError
from medsam_adapt.files import folder_replaced
from medsam_adapt.networks.variants import encoder_is_tuned
from medsam_adapt.runs import RUN_FILE, STATE_FILE, read_run, require_trained
from medsam_adapt.weights.store import resolve

from .console import Device, Overwrite, check_output, progress_bar, say, warn

if TYPE_CHECKING:
    from ignite.engine import Engine
    from monai.bundle import ConfigWorkflow

    from medsam_adapt.data import TrainingData


def train(
    data: Annotated[Path | None, typer.Option(help="Folder of the labelled volumes.", show_default=False)] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the run to make.", show_default=False)] = None,
    bundle: Annotated[str, typer.Option(help="Method to train; see 'bundles list'.")] = "blosam",
    layout: Annotated[str | None, typer.Option(help="Layout of the data on disk; recognised when not given.")] = None,
    backbone: Annotated[str | None, typer.Option(help="vit_nano, vit_b, vit_l or vit_h.")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="Name from 'weights list', a file, or random.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of a slice in pixels, a multiple of 16.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training slices.")] = None,
    recipe: Annotated[str, typer.Option(help="default (ours) or paper (the paper's settings).")] = "default",
    prompt: Annotated[str | None, typer.Option(help="none, box or points.")] = None,
    device: Device = "auto",
    seed: Annotated[int | None, typer.Option(help="Decides every random draw.")] = None,
    classes: Annotated[str | None, typer.Option(help="Classes to learn, as in liver,spleen.")] = None,
    fold: Annotated[int | None, typer.Option(help="Fold held out in a cross-validation, counted from 0.")] = None,
    folds: Annotated[int | None, typer.Option(help="Number of folds, where --split-file gives none.")] = None,
    split_file: Annotated[Path | None, typer.Option(help="Splits made by 'data split'.", show_default=False)] = None,
    cache_dir: Annotated[Path | None, typer.Option(help="Folder of the slice cache.", show_default=False)] = None,
    start: Annotated[
        Path | None,
        typer.Option("--from", help="Go on from this run's weights, with its settings, on other data."),
    ] = None,
    repeat: Annotated[Path | None, typer.Option(help="Take data, bundle and settings from this run.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --output.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be done, and do nothing.")] = False,
    sets: Annotated[list[str] | None, typer.Option("--set", help="key=value; see 'bundles show'.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Fine-tune SAM to labelled volumes."""
    options = {
        "layout": layout,
        "backbone": backbone,
        "checkpoint": checkpoint,
        "image_size": image_size,
        "epochs": epochs,
        "prompt": prompt,
        "seed": seed,
        "fold": fold,
        "folds": folds,
        "split_file": None if split_file is None else str(split_file),
        "cache_dir": None if cache_dir is None else str(cache_dir),
        "classes": None if classes is None else [name.strip() for name in classes.split(",") if name.strip()],
    }
    given = {key: value for key, value in options.items() if value is not None} | parse_sets(sets or [])
    if output is None and not dry_run:
        raise InputError("train needs --output, the folder of the run to make.")
    if start is not None and (repeat is not None or resume):
        raise InputError("--from begins a run of its own: leave out --repeat and --resume.")
    if start is not None:
        bundle, knobs = _of_start(start, given)
    elif repeat is not None:
        record = read_run(repeat)
        bundle, data = record.bundle, data or Path(record.dataset_dir)
        knobs = run_knobs(bundle, **{**record.knobs, **given})
    elif resume and output is not None:
        bundle, data, knobs = _of_interrupted(output, given, data)
    else:
        knobs = resolve_knobs(bundle, recipe, sets=given)
    if data is None:
        raise InputError("train needs --data, the folder of the labelled volumes.")
    if dry_run:
        with tempfile.TemporaryDirectory() as nowhere:  # MONAI's TensorBoard handler writes as soon as it is made
            _tell_plan(_prepare(bundle, data, Path(nowhere), knobs, device))
        return
    assert output is not None
    if not resume:
        check_output(output, overwrite, RUN_FILE)
    run_training(bundle, data, output, knobs, device, resume, overwrite)
    say(f"Trained: {output}\nNext: medsam-adapt evaluate {output}, or medsam-adapt predict {output} -i SCAN -o MASKS")


def run_training(
    bundle: str,
    data: Path,
    output: Path,
    knobs: Knobs,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
) -> None:
    """Train a bundle, with notes and a progress bar; raises InputError before anything is written."""
    flow = _prepare(bundle, data, output, knobs, device, resume)
    with folder_replaced(output) if overwrite and not resume else nullcontext(), progress_bar() as progress:
        trainer = flow.trainer  # made in here, for MONAI's TensorBoard handler begins its file at once
        _Display(progress, knobs.epochs).attach(trainer, flow.evaluator)
        flow.run()
        flow.finalize()
        require_trained(output)


def _of_interrupted(output: Path, given: Mapping[str, Any], data: Path | None) -> tuple[str, Path, Knobs]:
    """Bundle, data and settings of the run to go on with; refuses settings other than its own."""
    record = read_run(output)
    if not (output / STATE_FILE).is_file():
        raise InputError(f"{output} has no training state to resume from: train it anew with --overwrite.")
    changed = [key for key, value in given.items() if record.knobs.get(key, record.layout) != value and key != "epochs"]
    if changed:
        raise InputError(f"{output} was begun with another {changed[0]}: resume it without that option.")
    epochs = {"epochs": given["epochs"]} if "epochs" in given else {}
    return record.bundle, data or Path(record.dataset_dir), run_knobs(record.bundle, **{**record.knobs, **epochs})


def _of_start(start: Path, given: Mapping[str, Any]) -> tuple[str, Knobs]:
    """Bundle and settings of a run to start from; the layout and the split of its data are not those of the new."""
    record = read_run(start)
    require_trained(start)
    kept = {key: value for key, value in record.knobs.items() if key not in ("layout", "split_file", "fold")}
    return record.bundle, run_knobs(record.bundle, **{**kept, **given, "from_run": str(start.resolve())})


def _prepare(bundle: str, data: Path, output: Path, knobs: Knobs, device: str, resume: bool = False) -> ConfigWorkflow:
    """The workflow with its data found, checked and sliced; everything that can be wrong is told here."""
    from medsam_adapt.data.cases import find_cases, select_classes

    start = resolve(knobs.checkpoint, knobs.backbone)
    found = find_cases(data, knobs.layout)
    if knobs.classes and not knobs.from_run:
        select_classes(found, knobs.classes)
    if knobs.layout == "auto":
        say(f"{data} looks like the layout '{found.layout}'.")
    say("Checking labels …")

    import logging

    from medsam_adapt.engine import load_start, select_device

    logging.getLogger().setLevel(logging.WARNING)
    logging.disable(logging.INFO)  # the progress bar tells what MONAI would log
    values = {
        "knobs": {"_target_": "medsam_adapt.bundle.run_knobs", "bundle": bundle, **knobs.model_dump()},
        "dataset_dir": str(data),
        "output_dir": str(output),
        "device": select_device(device),
        "resume": resume,
    }
    flow = workflow(bundle, "train", values)
    training_data: TrainingData = flow.parser.get_parsed_content("data")
    if knobs.from_run and not resume:
        load_start(flow.parser.get_parsed_content("network_def"), knobs.from_run)
    say(f"Preparing slices: about {decimal(training_data.store_bytes())} in {cache_folder(knobs.cache_dir)} …")
    with progress_bar() as progress:
        task = progress.add_task("slicing", total=len(training_data.split.train), detail="")
        training_data.store(lambda case: progress.update(task, advance=1))
    _tell_data(bundle, training_data)
    _tell_start(start, knobs)
    return flow


def _tell_data(bundle: str, data: TrainingData) -> None:
    split = data.split
    say(
        f"{len(split.train)} case{'s' * (len(split.train) != 1)} to train on, {len(split.held_out)} held out; "
        f"classes: {', '.join(data.class_names)}; slices of {data.image_size} pixels."
    )
    if not split.held_out:
        warn("fewer than three patients: nothing is held out, so scores will be on the training cases.")
    if "second_dataset" in read_config(bundle, "train")["train"] and data.split_by == "slices":
        warn("fewer than four training patients: the bi-level halves are contiguous blocks of slices, not patients.")
    for name in sorted(set(data.check.absent_classes(split.train)) - set(data.absent)):
        warn(f"class '{name}' has no voxel in these training labels: where it lies, background is trained.")
    if partial := data.check.partial_warning(split.train):
        warn(partial)
    for name in data.absent:
        warn(f"class '{name}' has no voxel in any training label: it is kept in the label map and never predicted.")


def _tell_start(start: Path | None, knobs: Knobs) -> None:
    if knobs.from_run:
        say(f"{knobs.backbone} starts from the weights of {knobs.from_run}.")
        return
    tuned = encoder_is_tuned(knobs.tune_encoder, knobs.backbone, start is not None)
    encoder = ", and its whole image encoder is trained too." if tuned else "; its image encoder stays frozen."
    if start is not None:
        say(f"{knobs.backbone} starts from {start.name}{encoder}")
        return
    warn(
        f"{knobs.backbone} starts from random weights{encoder}"
        + (
            f" 'medsam-adapt weights download sam_{knobs.backbone}' gives pretrained ones."
            * (knobs.backbone != "vit_nano")
        )
    )


def _tell_plan(flow: ConfigWorkflow) -> None:
    """The dry run: one real step is timed, nothing is written."""
    import resource

    import torch

    from medsam_adapt.networks import count_trainable

    data: TrainingData = flow.parser.get_parsed_content("data")
    trainer, segmenter = flow.trainer, flow.parser.get_parsed_content("network_def")
    batch = next(iter(trainer.data_loader))
    for _ in range(2):  # the first step also allocates
        started = time.perf_counter()
        trainer._process_function(trainer, batch)
        seconds = time.perf_counter() - started
    steps = trainer.state.max_epochs * len(trainer.data_loader)
    on_gpu = trainer.state.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    beside = [flow.parser.get_parsed_content("distillation_def")] if "distillation_def" in flow.parser else []
    counts = count_trainable(segmenter, *beside)
    say(f"held out: {', '.join(data.split.held_out) or 'nothing'}")
    say(f"training slices: {len(data.samples())}, {steps} steps of {trainer.data_loader.batch_size}")
    say(f"trainable values: {', '.join(f'{part} {count:,}' for part, count in counts.items())}")
    say(f"estimated from one step: {steps * seconds / 60:.1f} min of training, {peak / 2**30:.1f} GiB of memory")


class _Display:
    """Progress of a training: epoch, loss, time left; validation scores as lines above the bar."""

    def __init__(self, progress: Any, epochs: int) -> None:
        self.progress, self.epochs = progress, epochs

    def attach(self, trainer: Engine, validator: Engine | None) -> None:
        from ignite.engine import Events

        self.task = self.progress.add_task("training", total=self.epochs * len(trainer.data_loader), detail="")
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        if validator is not None:
            validator.add_event_handler(Events.COMPLETED, self._validated, trainer)

    def _step(self, trainer: Engine) -> None:
        detail = f"epoch {trainer.state.epoch} loss {trainer.state.output[0]['loss']:.4f}"
        self.progress.update(self.task, completed=trainer.state.iteration, detail=detail)

    def _validated(self, validator: Engine, trainer: Engine) -> None:
        (score,) = validator.state.metrics.values()
        self.progress.console.print(f"epoch {trainer.state.epoch}: mean DSC {score:.3f} on the held-out volumes")
