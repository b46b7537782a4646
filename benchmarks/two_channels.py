"""A synthetic data set whose answer needs two images of a case: their difference, which neither of them shows alone.

Image A holds blobs of random places and sizes. Image B holds the same blobs and one more of the same kind, which is the
lesion. Whoever sees B alone cannot know which of its blobs is the lesion.

    python benchmarks/two_channels.py --output WORK --seeds 3

The command prints the DSC on the held-out cases, trained on both images and on each alone. A training that is finished
leaves its DSC in WORK, and the same command continues where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE, BLOBS, CASES = (48, 48, 6), 7, 40
MOST_TRIES = 20_000  # places for the blobs of a case
CHOICES = ("both", "A", "B")


def main() -> None:
    """Make the data, train and score each choice with each seed, and print the DSC."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument("--choices", nargs="+", default=list(CHOICES), choices=CHOICES)
    arguments = parser.parse_args()
    for seed in range(arguments.seeds):
        root = arguments.output / f"seed_{seed}"
        write_cases(root, arguments.cases, seed)
        for choice in arguments.choices:
            result = root / f"{choice}_{arguments.cases}_cases_{arguments.epochs}_epochs.json"
            if not result.is_file():
                result.write_text(json.dumps(train_and_score(root, choice, seed, arguments.epochs)))
            print(f"seed {seed}, {choice}: DSC {json.loads(result.read_text()):.3f}", flush=True)


def write_cases(root: Path, count: int, seed: int) -> None:
    """The cases with both images, and with each alone, in layout `folder`."""
    random = np.random.default_rng(seed)
    for number in range(count):
        first, second, label = make_case(random)
        name = f"case_{number:02d}"
        for path, voxels in {
            f"both/images/{name}/A.nii.gz": first,
            f"both/images/{name}/B.nii.gz": second,
            f"A/images/{name}.nii.gz": first,
            f"B/images/{name}.nii.gz": second,
            **{f"{choice}/labels/{name}.nii.gz": label for choice in CHOICES},
        }.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(voxels, np.diag([1.0, 1.0, 2.0, 1.0])), root / path)
    for choice in CHOICES:
        (root / choice / "labels.json").write_text('{"1": "lesion"}\n')


def make_case(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image A, image B and the label of one case: blobs that do not touch, of which B alone has the last."""
    places = np.stack(np.meshgrid(*map(np.arange, SHAPE[:2]), indexing="ij"), axis=-1)
    free, blobs = np.ones(SHAPE[:2], bool), []
    tries = 0
    while len(blobs) < BLOBS + 1:
        tries += 1
        if tries > MOST_TRIES:  # the first blobs left no room for another one
            free, blobs, tries = np.ones(SHAPE[:2], bool), [], 0
        centre, radius = random.uniform(6, SHAPE[0] - 6, 2), random.uniform(3.5, 5.5)
        distance = np.linalg.norm(places - centre, axis=-1)
        if free[distance <= radius + 2].all():
            free &= distance > radius + 2
            blobs.append(distance <= radius)
    grey = random.uniform(60, 100, BLOBS + 1)
    first = sum(level * blob for level, blob in zip(grey[:-1], blobs, strict=False))
    second = first + grey[-1] * blobs[-1]
    images = [np.repeat(image[..., None], SHAPE[2], axis=2) + random.normal(100, 5, SHAPE) for image in (first, second)]
    label = np.repeat(blobs[-1][..., None], SHAPE[2], axis=2).astype(np.uint8)
    return images[0].astype(np.float32), images[1].astype(np.float32), label


def train_and_score(root: Path, choice: str, seed: int, epochs: int) -> float:
    """The mean DSC on the held-out cases of a run with the default bundle."""
    run = root / f"run_{choice}"
    settings = ["--epochs", epochs, "--seed", seed, "--image-size", 64, "--device", "cpu", "--overwrite"]
    settings += ["--set", f"val_interval={epochs}", "--set", f"cache_dir={root / 'cache'}"]
    for command in (
        ["train", "--data", root / choice, "--output", run, *settings],
        ["evaluate", run, "--device", "cpu", "--overwrite"],
    ):
        subprocess.run([sys.executable, "-m", "medsam_adapt.cli", *map(str, command), "--quiet"], check=True)
    return float(json.loads((run / "metrics.json").read_text())["mean"]["dsc"])


if __name__ == "__main__":
    main()
