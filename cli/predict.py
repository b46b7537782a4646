"""``medsam-adapt predict``: segment new volumes with a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medsam_adapt.data.io import FORMATS, read_header, read_volume, volume_files, volume_stem, write_label
from medsam_adapt.errors import InputError
from medsam_adapt.runs import read_run, require_trained

from .console import Device, Overwrite, RunFolder, progress_bar, say, warn


def predict(
    run: RunFolder,
    inputs: Annotated[Path, typer.Option("--input", "-i", help="A volume, or a folder of them.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the masks.", show_default=False)],
    device: Device = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Slices at a time.")] = 8,
    overwrite: Overwrite = False,
) -> None:
    """Segment volumes; each gives OUTPUT/<name>_seg.nii.gz in its own geometry."""
    files = run_prediction(run, inputs, output, device, batch_size, overwrite)
    say(f"Written: {files[0] if len(files) == 1 else f'{len(files)} masks in {output}'}")


def run_prediction(
    run: Path, inputs: Path, output: Path, device: str = "auto", batch_size: int = 8, overwrite: bool = False
) -> list[Path]:
    """Segment every volume of ``inputs``; returns the files written."""
    record = read_run(run)
    require_trained(run)
    if record.prompt != "none":
        raise InputError(
            f"{run} was trained with a {record.prompt} prompt and cannot segment without one: train with --prompt none."
        )
    targets = _targets(inputs, output)
    for source, target in targets.items():
        read_header(source)
        if target.exists() and not overwrite:
            raise InputError(f"{target} already exists: name another --output, or add --overwrite.")

    from medsam_adapt.predictor import load_run

    predictor = load_run(run, device, batch_size)
    output.mkdir(parents=True, exist_ok=True)
    with progress_bar() as progress:
        task = progress.add_task("segmenting", total=len(targets), detail="")
        for source, target in targets.items():
            progress.update(task, detail=source.name)
            volume, header = read_volume(source)
            if warning := record.policy.warning_for(volume):
                warn(f"{source.name}: {warning}; do not trust its mask.")
            write_label(target, predictor(volume, header.affine), source)
            progress.update(task, advance=1)
    return list(targets.values())


def _targets(inputs: Path, output: Path) -> dict[Path, Path]:
    """The mask to write for each volume."""
    if not inputs.exists():
        raise InputError(f"{inputs} does not exist: give a volume or a folder of volumes.")
    if output.is_file():
        raise InputError(f"{output} is a file: name a folder for the masks.")
    sources = [inputs] if inputs.is_file() else volume_files(inputs)
    if not sources:
        raise InputError(f"{inputs} holds no volume ({', '.join(FORMATS)}): give a volume or a folder of volumes.")
    targets = {source: output / f"{volume_stem(source)}_seg.nii.gz" for source in sources}
    if len(set(targets.values())) < len(targets):
        raise InputError(f"{inputs} holds two volumes of the same name: rename one of them.")
    return targets
