"""``medsam-adapt weights list|download|import|verify``: pretrained SAM weights on this machine."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from medsam_adapt.core.errors import RunError
from medsam_adapt.core.files import home
from medsam_adapt.weights.registry import WEIGHTS, Weights, get_weights
from medsam_adapt.weights.store import download, import_file, local_path, verify

from .console import download_bar, print_json, say, show_table
from .options import Json, Overwrite

app = typer.Typer(help="List, download and verify pretrained SAM weights.", no_args_is_help=True)


@app.command("list")
def list_weights(as_json: Json = False) -> None:
    """List the pretrained weights, and which are on this machine."""
    rows = [_describe(weights) for weights in WEIGHTS.values()]
    if as_json:
        print_json(rows)
        return
    table = Table("name", "backbone", "size", "licence", "state", box=None)
    for row in rows:
        size = "" if row["size"] is None else f"{row['size'] / 1e6:,.0f} MB"
        table.add_row(row["name"], row["backbone"], size, row["licence"], row["state"])
    show_table(table)


@app.command("download")
def download_weights(
    name: Annotated[str, typer.Argument(help="Name of the weights; see 'weights list'.", show_default=False)],
    overwrite: Overwrite = False,
) -> None:
    """Download weights; continues a download that was interrupted."""
    weights = get_weights(name)
    if (path := local_path(name)) and (weights.shipped or not overwrite):
        say(f"{name} is here already: {path}")
        return
    say(f"Licence: {weights.licence} ({weights.page})")
    with download_bar(name) as advance:
        path = download(name, advance, overwrite)
    say(f"Downloaded: {path}\n{_next(weights)}")


@app.command("import")
def import_weights(
    file: Annotated[Path, typer.Argument(help="Weights file that was downloaded manually.", show_default=False)],
    name: Annotated[str | None, typer.Option(help="Name of the weights, if the file name does not contain it.")] = None,
) -> None:
    """Import a weights file that was downloaded manually, for a machine without internet."""
    path = import_file(file, name)
    weights = next(weights for weights in WEIGHTS.values() if weights.file_name == path.name)
    say(f"Imported {weights.name} (licence: {weights.licence}): {path}\n{_next(weights)}")


@app.command("verify")
def verify_weights(
    name: Annotated[str | None, typer.Argument(help="Name of the weights; default: all on this machine.")] = None,
) -> None:
    """Compare weights with the SHA-256 that was published, or recorded when they were first used."""
    damaged = []
    for each in [name] if name else [each for each in WEIGHTS if local_path(each)]:
        try:
            sha256, source = verify(each)
        except RunError as error:
            damaged.append(str(error))
            continue
        outcome = "recorded now, because none is published" if source == "new" else f"as {source}"
        say(f"{each}: SHA-256 {sha256}, {outcome}")
    if damaged:
        raise RunError(" ".join(damaged))


def _describe(weights: Weights) -> dict[str, Any]:
    """A row of the list, as data."""
    path = local_path(weights.name)
    state = "not here" if path is None else "shipped" if weights.shipped else "downloaded"
    if path is not None and weights.distribution and path != home() / "weights" / weights.file_name:
        state = "installed"
    return {**asdict(weights), "state": state, "path": None if path is None else str(path)}


def _next(weights: Weights) -> str:
    return f"Next: medsam-adapt train --backbone {weights.backbone} --checkpoint {weights.name} --data … --output …"
