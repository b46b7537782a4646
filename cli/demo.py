"""``medsam-adapt demo``: the whole path on synthetic scans, in a few minutes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from medsam_adapt.bundle.catalogue import resolve_knobs
from medsam_adapt.runs.record import RUN_FILE, read_run

from .console import Device, Overwrite, check_output, say
from .evaluate import run_evaluation
from .predict import run_prediction
from .train import run_training

CASES = 15
SETTINGS = {"held_out": 0.2, "average": 0.98}  # 400 steps are few for the usual average


def demo(
    output: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("medsam-adapt-demo"),
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training slices.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the scans and of the training.")] = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Make synthetic CT scans, train on them, score it on scans held out, and segment one."""
    check_output(output, overwrite, f"run/{RUN_FILE}")
    started = time.monotonic()
    data, run = _make_data(output, seed), output / "run"
    # One validation, after the last epoch, is enough.
    knobs = resolve_knobs("detail", sets={**SETTINGS, "epochs": epochs, "seed": seed, "val_interval": epochs})
    run_training("detail", data, run, knobs, device)
    summary = run_evaluation(run, device=device)
    record = read_run(run)
    patient = data / "images" / f"{record.held_out[0]}.nii.gz"
    (mask,) = run_prediction(run, patient, output / "masks", device)
    say(
        f"\nMean DSC on {len(record.held_out)} scans that it did not train on: {summary['mean']['dsc']:.3f} "
        f"(seed {seed}); nearest mean intensity scores {_baseline(record.train, record.held_out, seed):.3f} on them.\n"
        f"{time.monotonic() - started:.0f} s. Results in {output}: run/ (the model), run/pictures/ (best, median and "
        f"worst case), run/metrics.csv, {mask.relative_to(output)}\n"
        f"Next, with your own scans: medsam-adapt train --data FOLDER --output runs/mine"
    )


def _make_data(output: Path, seed: int) -> Path:
    import shutil

    from medsam_adapt.data.phantom.phantom import write_phantoms

    if output.is_dir():
        shutil.rmtree(output)
    say(f"Making {CASES} synthetic abdominal CT scans …")
    return write_phantoms(output / "data", CASES, seed)


def _baseline(train: list[str], held_out: list[str], seed: int) -> float:
    """Mean DSC of giving every voxel the class of the nearest mean intensity."""
    from medsam_adapt.data.phantom.phantom import case_seed, make_phantom, nearest_intensity_dice

    training, test = ([make_phantom(case_seed(seed, int(case[-3:]))) for case in cases] for cases in (train, held_out))
    return nearest_intensity_dice(training, test)
