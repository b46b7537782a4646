"""The whole path on synthetic scans: make them, train, evaluate, predict."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsam_adapt.core.output_folder import check_output
from medsam_adapt.runs.record import RUN_FILE, read_run
from medsam_adapt.workflows.arguments import PathLike
from medsam_adapt.workflows.evaluate import evaluate_run
from medsam_adapt.workflows.predict import predict
from medsam_adapt.workflows.reporter import SILENT, Reporter
from medsam_adapt.workflows.train import train

CASES = 15
SETTINGS = {"held_out": 0.2, "average": 0.98}  # 400 steps are few for the usual average


@dataclass(frozen=True)
class DemoResult:
    """What the demo made, and how good it is.

    Attributes:
        run: the run's folder.
        mask: of one held-out scan.
        held_out: scans that were not trained on.
        mean_dsc: on them.
        baseline_dsc: of giving every voxel the class of the nearest mean intensity.
        seconds: that all took.
    """

    run: Path
    mask: Path
    held_out: tuple[str, ...]
    mean_dsc: float
    baseline_dsc: float
    seconds: float


def demo(
    output: PathLike = "medsam-adapt-demo",
    *,
    epochs: int = 4,
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> DemoResult:
    """Make synthetic CT scans, train on them, score the run on scans held out, and segment one of these.

    Args:
        output: folder of the results.
        epochs: passes over the training slices.
        seed: of the scans and of the training.
        device: auto, cpu, cuda, cuda:N or mps.
        overwrite: replace an earlier demo in ``output``.
        reporter: receives notes and progress.

    Raises:
        InputError: ``output`` exists, or cannot be written.
    """
    folder = Path(output)
    check_output(folder, overwrite, f"run/{RUN_FILE}")
    started = time.monotonic()
    data, run = _make_data(folder, seed, reporter), folder / "run"
    # One validation, after the last epoch, is enough.
    sets: dict[str, Any] = {**SETTINGS, "val_interval": epochs}
    how: dict[str, Any] = {"bundle": "detail", "backbone": "vit_nano", "epochs": epochs, "seed": seed, "device": device}
    train(data, run, sets=sets, reporter=reporter, **how)
    summary = evaluate_run(run, device=device, reporter=reporter)
    record = read_run(run)
    patient = data / "images" / f"{record.held_out[0]}.nii.gz"
    (mask,) = predict(run, patient, folder / "masks", device=device, reporter=reporter)
    baseline = _baseline(record.train, record.held_out, seed)
    seconds = time.monotonic() - started
    return DemoResult(run, mask, tuple(record.held_out), summary["mean"]["dsc"], baseline, seconds)


def _make_data(output: Path, seed: int, reporter: Reporter) -> Path:
    from medsam_adapt.data.phantom.phantom import write_phantoms

    if output.is_dir():
        shutil.rmtree(output)
    reporter.note(f"Making {CASES} synthetic abdominal CT scans …")
    return write_phantoms(output / "data", CASES, seed)


def _baseline(train: list[str], held_out: list[str], seed: int) -> float:
    """Mean DSC of giving every voxel the class of the nearest mean intensity."""
    from medsam_adapt.data.phantom.phantom import case_seed, make_phantom, nearest_intensity_dice

    training, test = ([make_phantom(case_seed(seed, int(case[-3:]))) for case in cases] for cases in (train, held_out))
    return nearest_intensity_dice(training, test)
