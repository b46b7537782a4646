"""Train every method from one backbone on each data set for a few steps, by our command and by MONAI's.

    MEDSAM_ADAPT_REAL_DATA=FOLDER python benchmarks/backbone_matrix.py --output FOLDER [--backbone lite_medsam]
        [--image-size 64] [--steps 8] [--patients 2] [--sets …] [--bundles …] [--ways cli monai]
        [--masks]

*cli* is the entry of ``medsam-adapt train``, *monai* that of ``python -m monai.bundle run``, both in this process. The
patients are from the pool of benchmarks/real_patients.py. Prints the mean loss of the first and of the last quarter of
the steps, and where both ways ran, how far they differ: the largest difference of a loss and of a trained value; with
``--masks`` also the voxels of the masks of the first development patient, made by ``medsam-adapt predict`` and by the
run's ``inference.json``. Each result is a JSON file, and the same command goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.bundle import run as bundle_run
from real_patients import SETS, link_cases, split_of, training_patients, write_json
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from medsam_adapt.bundle.contents import bundle_folder
from medsam_adapt.cli.main import main as command
from medsam_adapt.runs.record import LOG_FOLDER, MODEL_FILE

HEADER = (
    "| set | bundle | first losses | last losses | s | loss differs by | weights differ by | voxels differ |",
    "|---|---|---:|---:|---:|---:|---:|---:|",
)
BUNDLES = ("blosam", "infosam", "samcobot", "samparser", "lora", "adaptformer", "decoder", "detail")


def trained(way: str, bundle: str, data: Path, run: Path, options: argparse.Namespace) -> None:
    """One training of ``options.steps`` steps of two slices, in one epoch."""
    steps = options.steps
    settings = {"epochs": 1, "min_steps": steps, "max_steps": steps, "batch_size": 2, "image_size": options.image_size}
    settings |= {"backbone": options.backbone, "num_workers": 0, "cached_views": 1, "held_out": 0.0}
    if way == "cli":
        words = [f"--set={name}={value}" for name, value in settings.items()]
        with suppress(SystemExit):
            command(["train", "--data", str(data), "--output", str(run), "--bundle", bundle, "--device", "cpu", *words])
    else:
        folder = bundle_folder(bundle)
        bundle_run(
            config_file=str(folder / "configs" / "train.json"),
            bundle_root=str(folder),
            logging_file=False,
            dataset_dir=str(data),
            output_dir=str(run),
            **{f"knobs#{name}": value for name, value in settings.items()},
        )
    assert (run / MODEL_FILE).is_file(), f"{run} has no weights"


def losses(run: Path) -> list[float]:
    """Of each step."""
    events = EventAccumulator(str(run / LOG_FOLDER)).Reload()
    (name,) = (tag for tag in events.Tags()["scalars"] if tag == "loss" or tag.endswith("/loss"))
    return [event.value for event in events.Scalars(name)]


def segmented(way: str, run: Path, images: Path, masks: Path) -> np.ndarray:
    """The mask of the one volume in ``images``."""
    if way == "cli":
        with suppress(SystemExit):
            command(["predict", str(run), "-i", str(images), "-o", str(masks), "--device", "cpu", "--quiet"])
    else:
        folders = {"bundle_root": str(run), "dataset_dir": str(images), "output_dir": str(masks)}
        bundle_run(config_file=str(run / "configs" / "inference.json"), logging_file=False, **folders)
    (mask,) = masks.glob("*_seg.nii.gz")
    return np.asarray(nib.load(mask).dataobj)


def masks_of(runs: Mapping[str, Path], images: Path, masks: Path) -> dict[str, int]:
    """Voxels of a structure in the mask of the first run, and those in which the other run's mask differs."""
    first, second = (segmented(way, run, images, masks / way) for way, run in runs.items())
    return {"foreground": int((first > 0).sum()), "differ": int((first != second).sum())}


def main() -> None:
    """Train what is missing, and print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of runs and results")
    parser.add_argument("--backbone", default="lite_medsam")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--patients", type=int, default=2, help="to train on")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--bundles", nargs="+", default=list(BUNDLES))
    parser.add_argument("--ways", nargs="+", default=["cli", "monai"])
    parser.add_argument("--masks", action="store_true", help="also compare masks")
    options = parser.parse_args()
    root = Path(os.environ["MEDSAM_ADAPT_REAL_DATA"]).resolve()
    for line in HEADER:
        print(line, flush=True)
    for name in options.sets:
        parts = split_of(root / name)
        data, scan = options.output / name / "data", options.output / name / "scan"
        for folder, ids in ((data, training_patients(parts["pool"], options.patients, 0)), (scan, parts["dev"][:1])):
            if not folder.is_dir():
                link_cases(root / name, ids, folder)
        for bundle in options.bundles:
            runs = {way: options.output / name / f"{bundle}-{way}" for way in options.ways}
            for way, run in runs.items():
                if not run.with_suffix(".json").is_file():
                    begun = time.process_time()
                    trained(way, bundle, data, run, options)
                    content = {"losses": losses(run), "seconds": time.process_time() - begun}
                    write_json(run.with_suffix(".json"), content)
            masks = options.output / name / f"{bundle}-masks"
            if options.masks and len(runs) == 2 and not masks.with_suffix(".json").is_file():
                write_json(masks.with_suffix(".json"), masks_of(runs, scan / "images", masks))
            print(row(name, bundle, list(runs.values()), masks.with_suffix(".json")), flush=True)


def row(name: str, bundle: str, runs: Sequence[Path], masks: Path) -> str:
    """A line of the table, of runs that are there."""
    found = [json.loads(run.with_suffix(".json").read_text(encoding="utf-8")) for run in runs]
    steps = np.array([each["losses"] for each in found])
    part = max(1, steps.shape[1] // 4)
    cells = [name, f"`{bundle}`", f"{steps[0, :part].mean():.3f}", f"{steps[0, -part:].mean():.3f}"]
    cells += [f"{found[0]['seconds']:.0f}", "", "", ""]
    if len(runs) == 2:
        first, second = (torch.load(run / MODEL_FILE, map_location="cpu", weights_only=True) for run in runs)
        assert first.keys() == second.keys()
        cells[-3] = f"{np.ptp(steps, axis=0).max():.1g}"
        cells[-2] = f"{max(float((first[key] - second[key]).abs().max()) for key in first if first[key].numel()):.1g}"
        if masks.is_file():
            counts = json.loads(masks.read_text(encoding="utf-8"))
            cells[-1] = f"{counts['differ']} of {counts['foreground']}"
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
