"""``medsam-adapt cache info|clear``: the slices that training keeps on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal

from medsam_adapt.core.cache import cache_info, clear_cache
from medsam_adapt.core.text import counted

from .console import print_json, say
from .options import Json

app = typer.Typer(help="Show and empty the slice cache.", no_args_is_help=True)
CacheDir = Annotated[Path | None, typer.Option(help="Folder of the slice cache, if not the default one.")]


@app.command()
def info(cache_dir: CacheDir = None, as_json: Json = False) -> None:
    """Show the location and the size of the cache."""
    held = cache_info(cache_dir)
    if as_json:
        facts = {"folder": str(held.folder), "bytes": held.bytes, "cases": len(held.cases), "labels": len(held.labels)}
        facts["features"] = len(held.features)
        leftovers = {"leftovers": len(held.leftovers), "leftover_bytes": sum(held.leftovers.values())}
        print_json({**facts, **leftovers, "datasets": held.datasets})
        return
    count = len(held.cases)
    say(f"{held.folder}: {decimal(sum(held.cases.values()))} in {counted(count, 'sliced case')}.")
    for dataset, number in held.datasets.items():
        say(f"{number:>8}  {dataset}")
    if held.labels:
        size, count = decimal(sum(held.labels.values())), len(held.labels)
        say(f"Beside it {size} in {counted(count, 'label')} that {'were' if count != 1 else 'was'} DICOM.")
    if held.features:
        size = decimal(sum(held.features.values()))
        say(f"Beside it {size} of what frozen networks make of slices, for {counted(len(held.features), 'training')}.")
    if held.leftovers:
        size = decimal(sum(held.leftovers.values()))
        say(f"Killed runs left {size} behind; 'medsam-adapt cache clear' removes it too.")


@app.command()
def clear(cache_dir: CacheDir = None) -> None:
    """Remove all cached slices, frozen features and converted labels; the next training makes its own again."""
    removed = clear_cache(cache_dir)
    count = len(removed.cases)
    labels = f", {counted(len(removed.labels), 'converted label')}" if removed.labels else ""
    labels += f", {len(removed.features)} of frozen features" if removed.features else ""
    left = f" and {len(removed.leftovers)} that killed runs left unfinished" if removed.leftovers else ""
    cases = f"{counted(count, 'sliced case')}{labels}{left}"
    say(f"Removed {cases} from {removed.folder}: {decimal(removed.bytes)}.")
