"""A real case of several images through every command, by the command line and by MONAI's: the MNI152 atlas.

nilearn ships the ICBM152 atlas (2009a): the mean T1-weighted brain of 152 people, and the probabilities of grey and
white matter on the same grid. This makes two cases of it, the left and the right hemisphere. The first image, T1, has
every second voxel (2 mm), so that the two others (1 mm) are resampled to it. The label is computed: inside the brain,
what is neither grey nor white matter, which no image shows alone.

    python benchmarks/atlas_images.py --atlas FOLDER --output WORK

FOLDER holds ``mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz`` and the same of ``gm`` and ``wm``, as
``nilearn/datasets/data`` does. The command prints what each step printed, and the DSC of both ways.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

FILE = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
IMAGES = {"T1": "t1", "grey matter": "gm", "white matter": "wm"}
SLAB = slice(60, 120)  # axial slices through the ventricles
SIDES = {"left": slice(0, 98), "right": slice(98, 196)}
BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "detail"


def main() -> None:
    """Make the cases, take them through every command, and print what these print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atlas", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=2)
    arguments = parser.parse_args()
    data, root = arguments.output / "atlas", arguments.output
    write_cases(arguments.atlas, data)
    command("data", "check", data)
    command("train", "--data", data, "--output", root / "run", *settings(arguments.epochs), "--overwrite")
    command("evaluate", root / "run", "--device", "cpu", "--overwrite")
    command("predict", root / "run", "-i", data / "images", "-o", root / "masks", "--device", "cpu", "--overwrite")
    knobs = {"epochs": arguments.epochs, "image_size": 128, "held_out": 0.5, "seed": 0}
    overrides = [word for name, value in knobs.items() for word in (f"--knobs#{name}", value)]
    monai("train", BUNDLE, "--dataset_dir", data, "--output_dir", root / "run_monai", *overrides)
    monai("evaluate", root / "run_monai", "--output_dir", root / "scores_monai")
    monai("inference", root / "run_monai", "--dataset_dir", data / "images", "--output_dir", root / "masks_monai")
    for run, scores, masks in (("run", "run", "masks"), ("run_monai", "scores_monai", "masks_monai")):
        dsc = json.loads((root / scores / "metrics.json").read_text())["mean"]["dsc"]
        written = sorted(path.name for path in (root / masks).glob("*.nii.gz"))
        print(f"{run}: DSC {dsc:.3f} on the hemisphere that was held out; masks: {', '.join(written)}", flush=True)


def write_cases(atlas: Path, data: Path) -> None:
    """Both hemispheres in the layout `folder`, a folder of three images for each."""
    loaded = {name: nib.load(atlas / FILE.format(key)) for name, key in IMAGES.items()}
    whole = {name: np.asarray(image.dataobj)[..., SLAB] for name, image in loaded.items()}
    affine = loaded["T1"].affine
    for side, across in SIDES.items():
        moved = affine.copy()
        moved[:3, 3] = (affine @ [across.start, 0, SLAB.start, 1])[:3]
        coarse = moved @ np.diag([2, 2, 2, 1])
        parts = {name: voxels[across] for name, voxels in whole.items()}
        tissue = parts["grey matter"].astype(np.float32) + parts["white matter"]
        label = ((parts["T1"] > 0) & (tissue < 0.5 * 255)).astype(np.uint8)
        save(data / f"images/{side}/T1.nii.gz", parts["T1"][::2, ::2, ::2], coarse)
        save(data / f"labels/{side}.nii.gz", label[::2, ::2, ::2], coarse)
        for name in ("grey matter", "white matter"):
            save(data / f"images/{side}/{name}.nii.gz", parts[name], moved)
    (data / "labels.json").write_text('{"1": "cerebrospinal fluid"}\n')


def save(path: Path, voxels: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.ascontiguousarray(voxels), affine), path)


def settings(epochs: int) -> list[str]:
    """Options of the training."""
    options = ["--epochs", str(epochs), "--image-size", "128", "--device", "cpu", "--seed", "0"]
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
