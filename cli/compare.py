"""``medsam-adapt compare``: train methods on the same splits, or take finished runs, and report which is better."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from medsam_adapt.bundle.catalogue import parse_sets
from medsam_adapt.comparison.tables import class_table, cost_table, score_table
from medsam_adapt.core.errors import InputError
from medsam_adapt.workflows.compare import compare as workflow

from .console import console, only_json, print_json, say, show_table
from .options import (
    DATA,
    MODEL,
    PROTOCOL_HELP,
    Backbone,
    CacheDir,
    Checkpoint,
    Classes,
    Cluster,
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

_comparison = partial(typer.Option, rich_help_panel="Comparison")

EPILOG = """Examples:

medsam-adapt compare --bundles blosam,lora --data scans --output comparison
medsam-adapt compare --from runs/a runs/b --output comparison"""


def compare(
    more_runs: Annotated[list[Path] | None, typer.Argument(help="More runs for --from.", show_default=False)] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the comparison; required.", show_default=False)] = None,
    bundles: Annotated[
        str | None,
        typer.Option(help="Methods to train, as in blosam,infosam,lora; required without --from.", show_default=False),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the labelled volumes; required without --from.", show_default=False)
    ] = None,
    from_runs: Annotated[
        list[Path] | None,
        typer.Option("--from", help="Compare finished runs instead: --from RUN RUN …", show_default=False),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    folds: Annotated[int, _comparison(min=1, help="Folds of a cross-validation; 1 holds out one part.")] = 1,
    seeds: Annotated[int, _comparison(min=1, help="Trainings of each method and fold, with seeds from 0.")] = 1,
    protocol: Annotated[str, _comparison(help=PROTOCOL_HELP)] = "default",
    layout: Annotated[
        str, typer.Option(help="Layout of the data on disk; auto recognises it.", rich_help_panel=DATA)
    ] = "auto",
    classes: Classes = None,
    cache_dir: CacheDir = None,
    recipe: Recipe = "default",
    backbone: Backbone = None,
    checkpoint: Checkpoint = None,
    image_size: ImageSize = None,
    prompt: Prompt = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="key=value for all methods, or method.key=value for one.",
            show_default=False,
            rich_help_panel=MODEL,
        ),
    ] = None,
    epochs: Epochs = None,
    device: DeviceInPanel = "auto",
    precision: Precision = None,
    low_memory: LowMemory = None,
    cluster: Cluster = None,
) -> None:
    """Compare methods on the same cases: scores, significance, parameters, time and memory.

    Trains what is not trained yet (the same command continues after an interruption), or compares finished runs with
    --from. Writes compare.md, compare.csv, compare_cases.csv and compare.json.
    """
    only_json(as_json)
    if more_runs and not from_runs:
        raise InputError(f"{more_runs[0]}: runs are compared with --from. Put --from before them.")
    compared = workflow(
        [*(from_runs or []), *(more_runs or [])],
        output=output,
        bundles=bundles,
        data=data,
        layout=layout,
        backbone=backbone,
        checkpoint=checkpoint,
        image_size=image_size,
        epochs=epochs,
        prompt=prompt,
        precision=precision,
        low_memory=low_memory,
        classes=classes,
        cache_dir=cache_dir,
        folds=folds,
        seeds=seeds,
        recipe=recipe,
        protocol=protocol,
        cluster=cluster,
        device=device,
        sets=parse_sets(sets or []),
        overwrite=overwrite,
        reporter=TERMINAL,
    )
    if as_json:
        print_json(compared.content)
    _print(compared.content)
    say(f"Written: {', '.join(map(str, compared.files))}")


def _print(content: Mapping[str, Any]) -> None:
    for heads, rows in (score_table(content, narrow=True), cost_table(content), class_table(content)):
        table = Table(*map(escape, heads), box=None)
        for row in rows:
            table.add_row(*map(escape, row))
        show_table(table)
        console.print()
    say("± standard deviation over cases; p: DSC against the best, Wilcoxon's test over cases, Holm's correction.")
