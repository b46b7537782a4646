"""``medsam-adapt train``: fine-tune SAM on a folder of labelled volumes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from medsam_adapt.bundle.catalogue import DEFAULT_BUNDLE, parse_sets
from medsam_adapt.bundle.untrusted import TRUST_HELP
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.text import counted
from medsam_adapt.workflows.train import plan_training
from medsam_adapt.workflows.train import train as workflow

from .console import only_json, print_json, say
from .options import (
    DATA,
    DEVICES,
    MODEL,
    SCHEDULE,
    Backbone,
    CacheDir,
    Checkpoint,
    Classes,
    DeviceInPanel,
    Epochs,
    ImageSize,
    Json,
    LowMemory,
    Overwrite,
    Precision,
    Prompt,
    Recipe,
)
from .reporter import TERMINAL

_data = partial(typer.Option, rich_help_panel=DATA)
_model = partial(typer.Option, rich_help_panel=MODEL)
_schedule = partial(typer.Option, rich_help_panel=SCHEDULE)
_earlier = partial(typer.Option, rich_help_panel="Continue or repeat a run")

EPILOG = """Examples:

medsam-adapt train --data scans --output runs/liver --dry-run
medsam-adapt train --data scans --output runs/liver --minutes 30
medsam-adapt train --output runs/liver --resume
medsam-adapt train --from runs/liver --data more --output runs/liver2"""


def train(
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the labelled volumes; required, unless --repeat or --resume takes it from a run.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the run; required, except with --dry-run.", show_default=False)
    ] = None,
    bundle: Annotated[
        str | None,
        typer.Option(help="Method, or the folder of a changed copy; see 'bundles list'.", show_default=DEFAULT_BUNDLE),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and exit.")] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    layout: Annotated[
        str | None, _data(help="Layout of the data on disk; auto recognises it.", show_default="auto")
    ] = None,
    classes: Classes = None,
    unlabelled: Annotated[
        Path | None, _data(help="Folder of scans without labels, to learn from as well.", show_default=False)
    ] = None,
    split_file: Annotated[Path | None, _data(help="Splits made by 'data split'.", show_default=False)] = None,
    fold: Annotated[
        int | None, _data(help="Fold held out in a cross-validation, counted from 0.", show_default=False)
    ] = None,
    folds: Annotated[
        int | None, _data(help="Number of folds for --fold, where --split-file gives none.", show_default="5")
    ] = None,
    cache_dir: CacheDir = None,
    recipe: Recipe = "default",
    backbone: Backbone = None,
    checkpoint: Checkpoint = None,
    image_size: ImageSize = None,
    prompt: Prompt = None,
    sets: Annotated[
        list[str] | None, _model("--set", help="Any other setting, key=value; see 'bundles show'.", show_default=False)
    ] = None,
    trust_bundle: Annotated[bool, _model("--trust-bundle", help=TRUST_HELP)] = False,
    epochs: Epochs = None,
    minutes: Annotated[
        float | None,
        _schedule(
            min=0.1,
            help="Total time budget, including preparation and validation; replaces --epochs.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int | None, _schedule(help="Random seed.", show_default="0")] = None,
    device: DeviceInPanel = "auto",
    gpus: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of GPUs that train together; with --device cpu, of processes.",
            show_default="1",
            rich_help_panel=DEVICES,
        ),
    ] = None,
    precision: Precision = None,
    low_memory: LowMemory = None,
    resume: Annotated[
        bool, _earlier("--resume", help="Continue the interrupted run in --output; start it if there is none yet.")
    ] = False,
    from_run: Annotated[
        Path | None,
        _earlier("--from", help="Start another run from this run's weights and settings, on the data of --data."),
    ] = None,
    repeat: Annotated[
        Path | None, _earlier(help="Train this run again from the beginning: same data, bundle and settings.")
    ] = None,
) -> None:
    """Fine-tune SAM on labelled volumes.

    A setting that is not given has the value of the bundle and the recipe, or with --resume, --from and --repeat that
    of the run.
    """
    if as_json and not dry_run:
        raise InputError("--json: it prints the plan of --dry-run. Add --dry-run, or leave out --json.")
    only_json(as_json)
    action: Callable[..., Any] = plan_training if dry_run else workflow
    plan = action(
        data,
        output,
        bundle=bundle,
        layout=layout,
        backbone=backbone,
        checkpoint=checkpoint,
        image_size=image_size,
        epochs=epochs,
        minutes=minutes,
        unlabelled=unlabelled,
        recipe=recipe,
        prompt=prompt,
        device=device,
        precision=precision,
        low_memory=low_memory,
        gpus=gpus,
        seed=seed,
        classes=classes,
        fold=fold,
        folds=folds,
        split_file=split_file,
        cache_dir=cache_dir,
        from_run=from_run,
        repeat=repeat,
        resume=resume,
        trust_bundle=trust_bundle,
        sets=parse_sets(sets or []),
        overwrite=overwrite,
        reporter=TERMINAL,
    )
    if dry_run and plan:
        if as_json:
            print_json(plan)
        _print_plan(plan)


def _print_plan(plan: Mapping[str, Any]) -> None:
    """Print a plan."""
    say(f"held out: {', '.join(plan['held_out']) or 'nothing'}")
    if plan["unlabelled"]:
        say(f"scans without labels: {plan['unlabelled']}")
    say(f"training slices: {plan['training_slices']}, {counted(plan['steps'], 'step')} of {plan['batch_size']}")
    say(f"trainable values: {', '.join(f'{part} {count:,}' for part, count in plan['trainable'].items())}")
    if plan["frozen_work_seconds"] is not None:
        say(f"estimated frozen work: {plan['frozen_work_seconds'] / 60:.1f} min before the first step")
    minutes, memory = plan["training_seconds"] / 60, plan["memory_bytes"] / 2**30
    say(f"estimated from one step: {minutes:.1f} min of training, {memory:.1f} GiB of memory")
