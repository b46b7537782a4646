"""A real case of several images through every command, by the command line and by MONAI's: the MNI152 atlas.

nilearn ships the ICBM152 atlas (2009a): the mean T1-weighted brain of 152 people, and the probabilities of grey and
white matter on the same grid. This makes four cases of it, quarters of the brain. Their images are T1, of which every
second voxel is taken (2 mm), and white matter (1 mm), which is resampled to it; the label is grey matter, where its
probability is above a half.

    python benchmarks/atlas_images.py --atlas FOLDER --output WORK

FOLDER holds ``mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz`` and the same of ``gm`` and ``wm``, as
``nilearn/datasets/data`` does. The command prints what each step printed, and the DSC of both ways.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

FILE = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
KEYS = ("t1", "gm", "wm")
SLAB = slice(70, 110)  # axial slices
SIDES = {"left": slice(0, 98), "right": slice(98, 196)}
ENDS = {"posterior": slice(0, 116), "anterior": slice(116, 232)}
BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "detail"


def main() -> None:
    """Make the cases, take them through every command, and print what these print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atlas", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()
    data, root = arguments.output / "atlas", arguments.output
    write_cases(arguments.atlas, data)
    command("data", "check", data)
    command("train", "--data", data, "--output", root / "run", *settings(arguments.epochs), "--overwrite")
    command("evaluate", root / "run", "--device", "cpu", "--overwrite")
    command("predict", root / "run", "-i", data / "images", "-o", root / "masks", "--device", "cpu", "--overwrite")
    knobs = {"epochs": arguments.epochs, "image_size": 64, "held_out": 0.5, "seed": 0}
    overrides = [word for name, value in knobs.items() for word in (f"--knobs#{name}", value)]
    monai("train", BUNDLE, "--dataset_dir", data, "--output_dir", root / "run_monai", *overrides)
    monai("evaluate", root / "run_monai", "--output_dir", root / "scores_monai")
    monai("inference", root / "run_monai", "--dataset_dir", data / "images", "--output_dir", root / "masks_monai")
    for run, scores, masks in (("run", "run", "masks"), ("run_monai", "scores_monai", "masks_monai")):
        dsc = json.loads((root / scores / "metrics.json").read_text())["mean"]["dsc"]
        written = sorted(path.name for path in (root / masks).glob("*.nii.gz"))
        print(f"{run}: DSC {dsc:.3f} on the quarters that were held out; masks: {', '.join(written)}", flush=True)


def write_cases(atlas: Path, data: Path) -> None:
    """Four quarters in the layout `folder`, a folder of two images for each."""
    loaded = {key: nib.load(atlas / FILE.format(key)) for key in KEYS}
    affine = loaded["t1"].affine
    for (side, across), (end, along) in itertools.product(SIDES.items(), ENDS.items()):
        case = f"{side}_{end}"
        part = {key: np.asarray(image.dataobj)[across, along, SLAB] for key, image in loaded.items()}
        fine = affine.copy()
        fine[:3, 3] = (affine @ [across.start, along.start, SLAB.start, 1])[:3]
        coarse = fine @ np.diag([2, 2, 2, 1])
        save(data / f"images/{case}/T1.nii.gz", part["t1"][::2, ::2, ::2], coarse)
        save(data / f"images/{case}/white matter.nii.gz", part["wm"], fine)
        save(data / f"labels/{case}.nii.gz", (part["gm"][::2, ::2, ::2] > 127).astype(np.uint8), coarse)
    (data / "labels.json").write_text('{"1": "grey matter"}\n')


def save(path: Path, voxels: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.ascontiguousarray(voxels), affine), path)


def settings(epochs: int) -> list[str]:
    """Options of the training."""
    options = ["--epochs", str(epochs), "--image-size", "64", "--device", "cpu", "--seed", "0"]
    return [*options, "--set", "held_out=0.5"]


def command(*words: object) -> None:
    """Run one of our commands."""
    call(["-m", "medsam_adapt.cli", *map(str, words)])


def monai(config: str, bundle: Path, *words: object) -> None:
    """Run a configuration of a bundle, or of a run, with MONAI's command."""
    files = ["--config_file", bundle / f"configs/{config}.json", "--bundle_root", bundle]
    call(["-m", "monai.bundle", "run", *map(str, [*files, *words])])


def call(words: list[str]) -> None:
    print("$ python", " ".join(words), flush=True)
    subprocess.run([sys.executable, *words], check=True)


if __name__ == "__main__":
    main()
