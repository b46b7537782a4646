"""``medsam-adapt adapters push|pull|show``: a run's adapter to a folder or a model hub, and back to a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.output_folder import check_output
from medsam_adapt.core.text import counted
from medsam_adapt.hub.places import ORIGIN_FILE, LocalFolder, place_of
from medsam_adapt.runs.record import MODEL_FILE
from medsam_adapt.weights.registry import WEIGHTS

from .console import say, warn
from .options import Overwrite, RunFolder

app = typer.Typer(help="Publish a run's adapter, or make a run from a published one.", no_args_is_help=True)
Source = Annotated[
    str, typer.Argument(help="A folder, or hf://OWNER/NAME or hf://OWNER/NAME@REVISION.", show_default=False)
]
Checkpoint = Annotated[
    str | None, typer.Option(help="The base weights, if they are not published or have moved.", show_default=False)
]


@app.command("push")
def push_adapter(
    run: RunFolder,
    destination: Source,
    license_: Annotated[
        str | None, typer.Option("--license", help="SPDX identifier of the adapter's licence; default: none.")
    ] = None,
    checkpoint: Checkpoint = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a run's adapter with a model card, without information about the patients."""
    from medsam_adapt.hub.repository import push

    place = place_of(destination)
    if isinstance(place, LocalFolder):
        check_output(place.path, overwrite=True, marker=ORIGIN_FILE)
    place.refuse_other_files(overwrite)
    origin = push(run, place, license_, checkpoint)
    base = origin.base
    say(f"Written: {place}. It belongs to {base.name or base.file_name}; with these weights it gives {run} bit by bit.")
    if base.name is None:
        warn(f"{base.file_name} is no published file: whoever pulls the adapter needs it from you.")
    if origin.licence is None:
        warn("no licence is stated; --license names one.")
    if not isinstance(place, LocalFolder):
        say("A repository that was made for it is private: look at its card, then make it public on its page.")


@app.command("pull")
def pull_adapter(
    source: Source,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the new run.", show_default=False)],
    checkpoint: Checkpoint = None,
    overwrite: Overwrite = False,
) -> None:
    """Make a run from a published adapter and the base weights on this machine; nothing in the adapter is executed."""
    from medsam_adapt.core.folder_lock import FolderLock
    from medsam_adapt.hub.repository import pull

    check_output(output, overwrite, MODEL_FILE)
    FolderLock.refuse_if_held(output)
    place = place_of(source)
    if isinstance(place, LocalFolder) and place.path.resolve() == output.resolve():
        raise InputError(f"{output}: it is the folder of the adapter itself. Name another --output.")
    if not pull(place, output, checkpoint):
        warn(
            "the weights are not bit-identical to those that were pushed: this torch or this CPU rounds "
            "differently (voxels on a border may differ), or run.json was changed."
        )
    say(f"Made: {output}\nNext: medsam-adapt predict {output} -i SCAN -o MASKS")


@app.command("show")
def show_adapter(source: Source) -> None:
    """Show what an adapter segments, what it needs, and how large it is."""
    from medsam_adapt.hub.repository import opened

    place = place_of(source)
    with opened(place) as (_, repository):
        origin, record = repository.origin, repository.record
    base = origin.base
    known = WEIGHTS.get(base.name or "")
    about = f"{known.name}, {known.licence}" if known else f"{base.file_name}, not published: needs --checkpoint FILE"
    rows = {
        "segments": ", ".join(record.class_names),
        "method": f"{record.bundle}, by {record.adapter.name.rpartition('.')[2]}",
        "base weights": f"{record.backbone}, {about}; SHA-256 {base.sha256}",
        "prompt": record.prompt,
        "slices": f"{record.axis}, {record.image_size} pixels",
        "trained on": f"{counted(len(record.train), 'case')}, {len(record.held_out)} held out",
        "licence": origin.licence or "none stated",
        "size": decimal(repository.adapter_bytes),
    }
    for name, value in rows.items():
        say(f"{name + ':':<14}{value}")
