"""``medsam-adapt train``: fine-tune SAM to a folder of labelled volumes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from medsam_adapt.bundle.catalogue import parse_sets
from medsam_adapt.bundle.untrusted import TRUST_HELP
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.text import counted
from medsam_adapt.workflows.train import plan_training
from medsam_adapt.workflows.train import train as workflow

from .console import only_json, print_json, say
from .options import (
    Backbone,
    CacheDir,
    Checkpoint,
    Classes,
    Data,
    Device,
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


def train(
    data: Data = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the new run.", show_default=False)] = None,
    bundle: Annotated[
        str | None, typer.Option(help="Method, or the folder of a changed copy; see 'bundles list'.  [default: detail]")
    ] = None,
    layout: Annotated[str | None, typer.Option(help="Layout of the data on disk; recognised when not given.")] = None,
    backbone: Backbone = None,
    checkpoint: Checkpoint = None,
    image_size: ImageSize = None,
    epochs: Epochs = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.1, help="Time budget instead of --epochs, with preparation and validation.")
    ] = None,
    unlabelled: Annotated[
        Path | None,
        typer.Option(help="Folder of scans without labels, to learn from as well.", show_default=False),
    ] = None,
    recipe: Recipe = "default",
    prompt: Prompt = None,
    device: Device = "auto",
    precision: Precision = None,
    low_memory: LowMemory = None,
    gpus: Annotated[
        int | None, typer.Option(min=1, help="Number of GPUs that train together; with --device cpu, of processes.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed.")] = None,
    classes: Classes = None,
    fold: Annotated[int | None, typer.Option(help="Fold held out in a cross-validation, counted from 0.")] = None,
    folds: Annotated[int | None, typer.Option(help="Number of folds, where --split-file gives none.")] = None,
    split_file: Annotated[Path | None, typer.Option(help="Splits made by 'data split'.", show_default=False)] = None,
    cache_dir: CacheDir = None,
    from_run: Annotated[
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
