"""Print what box-prompted runs reach against their own prompts, and what following one box reaches.

    MEDSAM_ADAPT_REAL_DATA=FOLDER python benchmarks/prompted_runs.py --output FOLDER [--seeds 2]

Real CT (FOLDER/adome_one_case): cut into blocks of 8 slices, of which every other one is trained on; each organ gets
the tight box of its label on each slice. The run's mask is compared with those boxes filled, on the whole volume and on
the slices that were not trained on (the same patient, so this shows how well an organ is drawn between slices that are
known, not how well that carries over). Phantoms: a quarter is held out, and there the masks from the tight box on every
slice are compared with those from one box, on the middle slice of each organ, followed to its neighbours.

A run that is there already is scored again without being trained again.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from pretrained_start import BLOCK, phantoms, real_blocks

from medsam_adapt import load_run
from medsam_adapt.data.datasets.splits import load_split
from medsam_adapt.data.prompts.file import Prompt
from medsam_adapt.data.prompts.simulated import tight_box
from medsam_adapt.inference.predictor import Predictor
from medsam_adapt.workflows.train import train

Boxes = dict[int, tuple[int, int, int, int]]  # slice -> x0, y0, x1, y1: first and last voxel
LARGE = 1000  # voxels from which an organ counts
COLUMNS = ("voxels", "filled box", "run", "filled box, held out", "run, held out")


def trained(
    bundle: str, data: Path, split: Path, run: Path, seed: int, epochs: int, rate: float, size: int | None
) -> Predictor:
    """The predictor of a box-prompted run from ``sam_nano``, trained unless it is there."""
    if not (run / "models" / "model.pt").is_file():
        sets = {
            "checkpoint": "sam_nano",
            "prompt": "box",
            "split_file": str(split),
            "seed": seed,
            "epochs": epochs,
            "learning_rate": rate,
            "image_size": size,
            "val_interval": epochs + 1,  # never: nothing is chosen on the slices that are scored
        }
        train(data, run, bundle=bundle, sets=sets, overwrite=run.exists())
    return load_run(run, merge=True)


def boxes_of(mask: np.ndarray) -> Boxes:
    """The tight box of a mask (X, Y, Z) on each of its slices along the last axis."""
    found: Boxes = {}
    for index in np.flatnonzero(mask.any(axis=(0, 1))).tolist():
        box = tight_box(mask[:, :, index].T)
        assert box is not None, "the slice shows the structure"
        x0, y0, x1, y1 = (int(side) for side in box)
        found[index] = (x0, y0, x1, y1)
    return found


def filled(boxes: Boxes, shape: Sequence[int]) -> np.ndarray:
    """The boxes themselves as a mask (X, Y, Z)."""
    mask = np.zeros(shape, bool)
    for index, (x0, y0, x1, y1) in boxes.items():
        mask[x0 : x1 + 1, y0 : y1 + 1, index] = True
    return mask


def prompts_of(label_id: int, boxes: Boxes) -> Iterator[Prompt]:
    """A prompt for each box."""
    for index, (x0, y0, x1, y1) in boxes.items():
        yield Prompt(label=label_id, units="voxel", box=((x0, y0, index), (x1, y1, index)))


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    """DSC of two masks."""
    total = int(mask.sum()) + int(truth.sum())
    return 2 * int((mask & truth).sum()) / total if total else float("nan")


def volume(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and affine of a file."""
    image = nib.load(path)
    return np.asarray(image.dataobj), image.affine


def real_scores(predictor: Predictor, source: Path) -> dict[str, list[float]]:
    """`COLUMNS` of each organ of the real CT."""
    (image, affine), (label, _) = (volume(next((source / kind).glob("*.nii.gz"))) for kind in ("images", "labels"))
    names = dict(zip(predictor.record.label_ids, predictor.record.class_names, strict=True))
    boxes = {label_id: found for label_id in names if (found := boxes_of(label == label_id))}
    held_out = np.arange(label.shape[2]) // BLOCK % 2 == 1
    scores = {}
    for label_id, places in boxes.items():
        # Each organ by itself, as its box is: where boxes overlap, one mask would else take from another.
        mask = predictor(image, affine, prompts=list(prompts_of(label_id, places))) == label_id
        truth, box = label == label_id, filled(places, label.shape)
        row = [float(truth.sum()), dice(box, truth), dice(mask, truth)]
        row += [dice(each[..., held_out], truth[..., held_out]) for each in (box, mask)]
        scores[names[label_id]] = row
    return scores


def phantom_scores(predictor: Predictor, folder: Path, cases: Sequence[str]) -> dict[str, list[float]]:
    """DSC of each organ over phantoms: filled boxes, boxes on every slice, one box followed."""
    rows: dict[str, list[list[float]]] = {}
    for case in cases:
        image, affine = volume(next((folder / "images").glob(f"{case}*")))
        label, _ = volume(next((folder / "labels").glob(f"{case}*")))
        for label_id, name in zip(predictor.record.label_ids, predictor.record.class_names, strict=True):
            truth = label == label_id
            boxes = boxes_of(truth)
            slices = sorted(boxes)
            middle = slices[len(slices) // 2]
            one = list(prompts_of(label_id, {middle: boxes[middle]}))
            masks = (
                filled(boxes, label.shape),
                predictor(image, affine, prompts=list(prompts_of(label_id, boxes))) == label_id,
                predictor(image, affine, prompts=one, propagate=True) == label_id,
            )
            rows.setdefault(name, []).append([dice(mask, truth) for mask in masks])
    return {name: np.mean(scores, axis=0).tolist() for name, scores in rows.items()}


def real_table(runs: Sequence[dict[str, list[float]]]) -> str:
    """Organ by organ, the mean over runs, and how many of the large organs are better than their boxes in all runs."""
    lines = [f"| organ | {' | '.join(COLUMNS)} |", "|---|---:|---:|---:|---:|---:|"]
    better, large = [0, 0], 0
    for name in runs[0]:
        every = np.array([scores[name] for scores in runs])
        voxels, *mean = every.mean(axis=0)
        lines.append(f"| {name} | {voxels:.0f} | " + " | ".join(f"{score:.3f}" for score in mean) + " |")
        if voxels > LARGE:
            large += 1
            for index, (box, run) in enumerate(((1, 2), (3, 4))):
                better[index] += not (every[:, run] <= every[:, box]).any()
    lines += ["", f"Better than the filled box in every run: {better[0]} of {large} organs above {LARGE} voxels on the"]
    lines[-1] += f" whole volume, {better[1]} on the slices held out."
    return "\n".join(lines)


def phantom_table(runs: Sequence[dict[str, list[float]]]) -> str:
    """Organ by organ, the mean over runs."""
    lines = ["| organ | filled box | box on every slice | one box followed | share |", "|---|---:|---:|---:|---:|"]
    means = {name: np.mean([scores[name] for scores in runs], axis=0) for name in runs[0]}
    for name, (box, every, one) in {**means, "**mean**": np.mean(list(means.values()), axis=0)}.items():
        lines.append(f"| {name} | {box:.3f} | {every:.3f} | {one:.3f} | {one / every:.0%} |")
    return "\n".join(lines)


def main() -> None:
    """Train what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of data and runs")
    parser.add_argument("--bundle", default="samcobot", help="the method")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each kind")
    parser.add_argument("--epochs", type=int, default=20, help="passes over the structures on the training slices")
    parser.add_argument("--learning-rate", type=float, default=5e-4, help="low, since sam_nano knows boxes already")
    parser.add_argument("--image-size", type=int, help="side of a slice in pixels; the backbone's own when left out")
    parser.add_argument("--data", default="phantoms,real", help="phantoms, real, or both")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="processor threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    steps = (options.epochs, options.learning_rate, options.image_size)
    real = os.environ.get("MEDSAM_ADAPT_REAL_DATA")
    if "phantoms" in options.data:
        data, split = phantoms(options.output / "phantoms")
        predictors = [
            trained(options.bundle, data, split, options.output / f"phantoms_{seed}", seed, *steps)
            for seed in range(options.seeds)
        ]
        held_out = load_split(split).held_out
        print(phantom_table([phantom_scores(each, data, held_out) for each in predictors]), end="\n\n")
    if "real" in options.data and real:
        source = Path(real) / "adome_one_case"
        data, split = real_blocks(options.output / "blocks", source)
        predictors = [
            trained(options.bundle, data, split, options.output / f"real_{seed}", seed, *steps)
            for seed in range(options.seeds)
        ]
        print(real_table([real_scores(each, source) for each in predictors]))


if __name__ == "__main__":
    main()
