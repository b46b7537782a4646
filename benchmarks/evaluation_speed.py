"""Print how much faster a volume is scored than by MONAI's metric classes, called as their documentation shows.

    python benchmarks/evaluation_speed.py [--shape 512 512 100] [--classes 13] [--seed 0]

Both get the same two label maps of ellipsoids; MONAI gets them one-hot, and the encoding is not timed. The values are
compared as well: the last column is the greatest difference over the classes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from monai.metrics import DiceMetric, HausdorffDistanceMetric, MeanIoU, SurfaceDiceMetric

from medsam_adapt.scoring.metrics import MetricRules, score_volume

SPACING = (0.8, 0.8, 2.5)  # mm


def ellipsoids(shape: tuple[int, int, int], classes: int, random: np.random.Generator, jitter: float) -> np.ndarray:
    """A label map (X, Y, Z) of ellipsoids of the sizes of organs, on a ring; ``jitter`` is a share of their size."""
    label = np.zeros(shape, np.uint8)
    for number in range(1, classes + 1):
        angle = 2 * np.pi * number / classes
        around = np.array([0.5 + 0.3 * np.cos(angle), 0.5 + 0.3 * np.sin(angle), 0.5])
        radius = np.array([0.11, 0.08, 0.3]) * (0.3 + 0.7 * number / classes)
        centre = (around + jitter * radius * random.normal(size=3)) * shape
        radius = radius * (1 + jitter * random.normal(size=3)) * shape
        box = tuple(
            slice(max(0, int(middle - half)), int(middle + half) + 1)
            for middle, half in zip(centre, radius, strict=True)
        )
        axes = np.ogrid[tuple(slice(part.start, min(part.stop, side)) for part, side in zip(box, shape, strict=True))]
        distance = sum(((axis - middle) / half) ** 2 for axis, middle, half in zip(axes, centre, radius, strict=True))
        label[box][np.asarray(distance) < 1] = number
    return label


def one_hot(label: np.ndarray, classes: int) -> torch.Tensor:
    """(1, C + 1, X, Y, Z) float32."""
    return torch.from_numpy(np.stack([label == number for number in range(classes + 1)])).float()[None]


def timed(function: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """Seconds and result."""
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


def main() -> None:
    """Score one pair of volumes in both ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 100), help="voxels")
    parser.add_argument("--classes", type=int, default=13, help="structures")
    parser.add_argument("--seed", type=int, default=0, help="of the ellipsoids")
    options = parser.parse_args()
    torch.set_num_threads(1)
    shape, classes = tuple(options.shape), options.classes
    prediction, reference = (
        ellipsoids(shape, classes, np.random.default_rng((options.seed, index)), 0.08) for index in range(2)
    )
    names = [str(number) for number in range(1, classes + 1)]
    masks = [one_hot(label, classes) for label in (prediction, reference)]

    def ours(metric: str) -> np.ndarray:
        rules = MetricRules(metrics=("hd95", "nsd")) if metric in ("hd95", "nsd") else MetricRules(metrics=())
        return np.array(
            [score[metric] for score in score_volume(prediction, reference, names, SPACING, rules).values()]
        )

    surface = {"include_background": False, "reduction": "none"}
    theirs: dict[str, Callable[[], torch.Tensor]] = {
        "dsc": lambda: DiceMetric(include_background=False, reduction="none")(*masks),
        "iou": lambda: MeanIoU(include_background=False, reduction="none")(*masks),
        "hd95": lambda: HausdorffDistanceMetric(percentile=95, **surface)(*masks, spacing=SPACING),
        "nsd": lambda: SurfaceDiceMetric([1.0] * classes, **surface)(*masks, spacing=SPACING),
    }
    print(f"{' x '.join(map(str, shape))} voxels, {classes} classes, one thread\n")
    print("| metric | MONAI, s | ours, s | ratio | greatest difference |\n|---|---:|---:|---:|---:|")
    spent = {"overlap": [0.0, 0.0], "surface": [0.0, 0.0]}
    for metric, function in theirs.items():
        slow, expected = timed(lambda function=function: function()[0].numpy())
        fast, found = timed(lambda metric=metric: ours(metric))
        kind = spent["surface" if metric in ("hd95", "nsd") else "overlap"]
        kind[0], kind[1] = kind[0] + slow, fast  # ours computes both of a kind at once
        print(f"| {metric} | {slow:.2f} | | | {np.abs(found - expected).max():.1e} |")
    for kind_name, (slow, fast) in spent.items():
        print(f"| {kind_name} | {slow:.2f} | {fast:.2f} | {slow / fast:.1f} | |")


if __name__ == "__main__":
    main()
