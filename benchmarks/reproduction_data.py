"""The data sets of ``reproduction.py``: phantoms and another scanner's, the real CT in blocks and an MR beside it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage

from medsam_adapt.core.files import write_json
from medsam_adapt.data.datasets.layouts.adome import CLASSES
from medsam_adapt.data.phantom.phantom import write_phantoms

TRAIN, HELD_OUT, SHAPE = 6, 4, (64, 64, 24)
BLOCK = 8  # slices
# Structures that the real CT and the real MR both have: name of FLARE22 -> name in the MR's labels.json.
SHARED = {
    "liver": "liver",
    "right kidney": "kidney_right",
    "spleen": "spleen",
    "pancreas": "pancreas",
    "aorta": "aorta",
    "inferior vena cava": "inferior_vena_cava",
    "gallbladder": "gallbladder",
    "stomach": "stomach",
    "duodenum": "duodenum",
    "left kidney": "kidney_left",
}


@dataclass(frozen=True)
class DataSet:
    """Folders in the `folder` layout: what is trained on, and what is scored on, by name.

    With prompts an epoch goes through all structures of all slices; the settings then make it about 150 steps in all.
    Without prompts an epoch has 50 steps of few slices.
    """

    name: str
    train: Path
    tests: Mapping[str, Path]
    prompted: Mapping[str, Any]
    unprompted: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)


def phantom_set(folder: Path, seed: int) -> DataSet:
    """Phantoms of one seed, the last ones held out, and the held-out patients as another scanner shows them."""
    shutil.rmtree(folder, ignore_errors=True)
    train = write_phantoms(folder / "train", TRAIN, seed=1000 + seed, shape=SHAPE)
    same = write_phantoms(folder / "held_out", HELD_OUT, seed=2000 + seed, shape=SHAPE)
    other = shutil.copytree(same, folder / "other_scanner")
    rng = np.random.default_rng(seed)
    for path in sorted((other / "images").iterdir()):
        image = nib.load(path)
        changed = other_scanner(np.asarray(image.dataobj, np.float32), rng)
        nib.save(nib.Nifti1Image(changed, image.affine, image.header), path)
    prompted = {"epochs": 1, "held_out": 0.5}  # three of six are enough
    return DataSet("phantoms", train, {"held out": same, "other scanner": other}, prompted, {"epochs": 4})


def other_scanner(hu: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(X, Y, Z) HU with 0.7 of the contrast, more blur, twice the noise and a slope of ±25 HU; int16."""
    dimmed = ndimage.gaussian_filter(40 + 0.7 * (hu - 40), 0.7)
    noise = ndimage.gaussian_filter(rng.standard_normal(hu.shape), 0.5)
    slope = np.linspace(-25, 25, hu.shape[0])[:, None, None]
    return np.rint(dimmed + 30 * noise / noise.std() + slope).astype(np.int16)


def real_set(folder: Path, source: Path) -> DataSet:
    """The real CT in blocks of slices, every other one held out, and the real MR; the structures that both have."""
    shutil.rmtree(folder, ignore_errors=True)
    (image,) = sorted((source / "adome_one_case" / "images").glob("*.nii.gz"))
    (label,) = sorted((source / "adome_one_case" / "labels").glob("*.nii.gz"))
    ct = [nib.load(image), _relabelled(label, {name: number for number, name in CLASSES.items()})]
    for index, first in enumerate(range(0, ct[0].shape[2], BLOCK)):
        part = folder / ("held_out" if index % 2 else "train")
        _write_case(part, f"block_{index:02d}", *(volume.slicer[:, :, first : first + BLOCK] for volume in ct))
    names = {name: int(number) for number, name in json.loads((source / "mr_abdomen/labels.json").read_text()).items()}
    mr = _relabelled(source / "mr_abdomen/labels.nii.gz", {ours: names[theirs] for ours, theirs in SHARED.items()})
    _write_case(folder / "mr", "mr", nib.load(source / "mr_abdomen/image.nii.gz"), mr)
    tests = {"held out": folder / "held_out", "MR": folder / "mr"}
    # Percentiles, so that one policy reads both modalities.
    return DataSet("real CT", folder / "train", tests, {"epochs": 3}, {"epochs": 6}, {"intensity": "percentile"})


def few_slices(source: DataSet, count: int, folder: Path) -> DataSet:
    """``count`` labelled slices, each a case: spread over the training slices with at least half the structures."""
    shutil.rmtree(folder, ignore_errors=True)
    structures = len(json.loads((source.train / "labels.json").read_text()))
    slices = []
    for path in sorted((source.train / "labels").iterdir()):
        label = nib.as_closest_canonical(nib.load(path))
        shown = [len(np.unique(plane)) - 1 for plane in np.moveaxis(np.asarray(label.dataobj), 2, 0)]
        slices += [(path.name, index) for index, number in enumerate(shown) if number >= structures / 2]
    for place in np.linspace(0, len(slices) - 1, count).round().astype(int):
        name, index = slices[place]
        volumes = [nib.as_closest_canonical(nib.load(source.train / kind / name)) for kind in ("images", "labels")]
        case = f"{name.removesuffix('.nii.gz')}_{index:02d}"
        _write_case(folder, case, *(volume.slicer[:, :, index : index + 1] for volume in volumes))
    shutil.copy(source.train / "labels.json", folder)
    return replace(source, train=folder)


def _relabelled(path: Path, ids: Mapping[str, int]) -> nib.Nifti1Image:
    """The structures of `SHARED` numbered from 1, the rest background."""
    volume = nib.load(path)
    old = np.asarray(volume.dataobj)
    new = np.zeros(old.shape, np.uint8)
    for number, name in enumerate(SHARED, 1):
        new[old == ids[name]] = number
    return nib.Nifti1Image(new, volume.affine)


def _write_case(folder: Path, name: str, image: nib.Nifti1Image, label: nib.Nifti1Image) -> None:
    for kind, volume in (("images", image), ("labels", label)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        nib.save(volume, folder / kind / f"{name}.nii.gz")
    write_json(folder / "labels.json", {str(number): structure for number, structure in enumerate(SHARED, 1)})
