"""``medsam-adapt cache info|clear``: the slices that training keeps on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal

from medsam_adapt.data.cache import cache_info, clear_cache

from .console import say

app = typer.Typer(help="Show and empty the cache of slices.", no_args_is_help=True)
CacheDir = Annotated[Path | None, typer.Option(help="Folder of the slice cache, where it is not the usual one.")]


@app.command()
def info(
    cache_dir: CacheDir = None, as_json: Annotated[bool, typer.Option("--json", help="Print JSON alone.")] = False
) -> None:
    """Tell where the cache is and how much it holds."""
    held = cache_info(cache_dir)
    if as_json:
        facts = {"folder": str(held.folder), "bytes": held.bytes, "cases": len(held.cases)}
        leftovers = {"leftovers": len(held.leftovers), "leftover_bytes": sum(held.leftovers.values())}
        say(json.dumps({**facts, **leftovers, "datasets": held.datasets}, indent=2))
        return
    count = len(held.cases)
    say(f"{held.folder}: {decimal(sum(held.cases.values()))} in {count} sliced case{'s' * (count != 1)}.")
    for dataset, number in held.datasets.items():
        say(f"{number:>8}  {dataset}")
    if held.leftovers:
        size = decimal(sum(held.leftovers.values()))
        say(f"Killed runs left {size} behind; 'medsam-adapt cache clear' removes it too.")


@app.command()
def clear(cache_dir: CacheDir = None) -> None:
    """Remove all cached slices; the next training makes its own again."""
    removed = clear_cache(cache_dir)
    count = len(removed.cases)
    left = f" and {len(removed.leftovers)} that killed runs left unfinished" if removed.leftovers else ""
    say(f"Removed {count} sliced case{'s' * (count != 1)}{left} from {removed.folder}: {decimal(removed.bytes)}.")
