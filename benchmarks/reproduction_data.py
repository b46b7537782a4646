"""The data sets of ``reproduction.py``: patients of ``real_patients.py``, of whom few slices are kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from real_patients import split_of, training_patients

from medsam_adapt.core.files import write_json


@dataclass(frozen=True)
class Source:
    """What is taken from a data set of ``real_patients.py``.

    Attributes:
        patients: training patients that a seed draws from the pool.
        slices: slices that are kept of each training patient.
        middle: side in voxels of the square in the middle of each slice that is kept; None: whole slices.
        intensity: the setting of that name.
        few: whether anything is learned without prompts from few slices in so few steps, so that (c) is worth its time.
        other: name, folder with ``image.nii.gz`` and so on, and names of the structures there, of another domain.
    """

    patients: int
    slices: int
    middle: int | None = None
    intensity: str = "auto"
    few: bool = True
    other: tuple[str, str, Mapping[str, str]] | None = None


TEST = "test patients"
SCORED, SCORED_SLICES = 3, 6  # test patients, and slices of each
SOURCES = {
    # The head of every patient lies in the middle half of its slices; the rest is air and shoulders.
    "headneck_ct": Source(patients=5, slices=7, middle=64, few=False),
    # Percentiles, so that one policy reads MR and CT.
    "abdomen_mr": Source(
        patients=3,
        slices=10,
        intensity="percentile",
        other=(
            "CT",
            "ct_abdomen",
            {"liver": "liver", "right kidney": "kidney_right", "left kidney": "kidney_left", "spleen": "spleen"},
        ),
    ),
}


@dataclass(frozen=True)
class DataSet:
    """Folders in the `folder` layout: what is trained on, and what is scored on, by name."""

    name: str
    train: Path
    tests: Mapping[str, Path]
    settings: Mapping[str, str] = field(default_factory=dict)


def real_set(folder: Path, root: Path, name: str, seed: int) -> DataSet:
    """The training patients of a seed, the first test patients, and the other domain if there is one."""
    shutil.rmtree(folder, ignore_errors=True)
    source, parts = SOURCES[name], split_of(root / name)
    names: dict[str, str] = json.loads((root / name / "labels.json").read_text(encoding="utf-8"))
    of_part = {
        "train": (training_patients(parts["pool"], source.patients, seed), source.slices),
        "test": (parts["test"][:SCORED], SCORED_SLICES),
    }
    for part, (patients, slices) in of_part.items():
        for patient in patients:
            image, label = (_canonical(root / name / kind / f"{patient}.nii.gz") for kind in ("images", "labels"))
            _write_case(folder / part, patient, names, *_thinned(image, label, slices, source.middle))
    tests = {TEST: folder / "test"}
    if source.other is not None:
        other, where, theirs = source.other
        numbers = {each: int(n) for n, each in json.loads((root / where / "labels.json").read_text("utf-8")).items()}
        image, label = (_canonical(root / where / f"{kind}.nii.gz") for kind in ("image", "labels"))
        label = _relabelled(label, {int(number): numbers[theirs[ours]] for number, ours in names.items()})
        _write_case(folder / other, where, names, *_thinned(image, label, SCORED_SLICES))
        tests[other] = folder / other
    return DataSet(name, folder / "train", tests, {"intensity": source.intensity})


def few_slices(source: DataSet, count: int, folder: Path) -> DataSet:
    """``count`` labelled slices, each a case: spread over the training slices with at least half the structures."""
    shutil.rmtree(folder, ignore_errors=True)
    names = json.loads((source.train / "labels.json").read_text(encoding="utf-8"))
    slices = []
    for path in sorted((source.train / "labels").iterdir()):
        shown = _structures(_canonical(path))
        slices += [(path.name, index) for index, number in enumerate(shown) if number >= len(names) / 2]
    for place in np.linspace(0, len(slices) - 1, count).round().astype(int):
        name, index = slices[place]
        volumes = [_canonical(source.train / kind / name) for kind in ("images", "labels")]
        case = f"{name.removesuffix('.nii.gz')}_{index:02d}"
        _write_case(folder, case, names, *(volume.slicer[:, :, index : index + 1] for volume in volumes))
    return replace(source, train=folder, tests={TEST: source.tests[TEST]})


def put_together(folders: Iterable[Path], target: Path) -> dict[Path, list[str]]:
    """One data set of several that have the same structures; the case ids of each."""
    shutil.rmtree(target, ignore_errors=True)
    ids = {}
    for folder in folders:
        ids[folder] = [path.name.removesuffix(".nii.gz") for path in sorted((folder / "images").iterdir())]
        shutil.copytree(folder, target, dirs_exist_ok=True)
    return ids


def filled_boxes(folder: Path) -> float:
    """DSC of the filled box around each structure in each slice, as `mean_over_classes`."""
    cases = []
    for path in sorted((folder / "labels").iterdir()):
        label = np.asarray(_canonical(path).dataobj)
        cases.append({str(number): _dsc_of_boxes(label == number) for number in np.unique(label) if number})
    return mean_over_classes(cases)


def _dsc_of_boxes(mask: np.ndarray) -> float:
    """DSC of a structure (X, Y, Z) and the boxes around it in its axial slices."""
    drawn = np.zeros(mask.shape, bool)
    for index in np.flatnonzero(mask.any((0, 1))):
        xs, ys = (np.flatnonzero(mask[:, :, index].any(axis)) for axis in (1, 0))
        drawn[xs[0] : xs[-1] + 1, ys[0] : ys[-1] + 1, index] = True
    return float(2 * mask.sum() / (mask.sum() + drawn.sum()))


def mean_over_classes(cases: Iterable[Mapping[str, float | None]]) -> float:
    """Mean over the classes, of each the mean over the cases that have a score."""
    of_class: dict[str, list[float]] = {}
    for scores in cases:
        for name, dsc in scores.items():
            if dsc is not None:
                of_class.setdefault(name, []).append(dsc)
    return float(np.mean([np.mean(values) for values in of_class.values()]))


def _canonical(path: Path) -> nib.Nifti1Image:
    return nib.as_closest_canonical(nib.load(path))


def _structures(label: nib.Nifti1Image) -> list[int]:
    """How many structures each axial slice shows."""
    return [len(np.unique(plane)) - 1 for plane in np.moveaxis(np.asarray(label.dataobj), 2, 0)]


def _thinned(
    image: nib.Nifti1Image, label: nib.Nifti1Image, slices: int, middle: int | None = None
) -> Iterable[nib.Nifti1Image]:
    """At most ``slices`` axial slices at equal distances, from the first to the last that shows two structures."""
    shown = np.flatnonzero(np.array(_structures(label)) >= 2)
    step = -(-(shown[-1] - shown[0]) // (slices - 1))
    cut = [slice(None) if middle is None else slice((n - middle) // 2, (n + middle) // 2) for n in image.shape[:2]]
    for volume in (image, label):
        yield volume.slicer[cut[0], cut[1], shown[0] : shown[-1] + 1 : step]


def _relabelled(volume: nib.Nifti1Image, ids: Mapping[int, int]) -> nib.Nifti1Image:
    """Structures numbered anew (new number -> old), the rest background."""
    old = np.asarray(volume.dataobj)
    new = np.zeros(old.shape, np.uint8)
    for number, before in ids.items():
        new[old == before] = number
    return nib.Nifti1Image(new, volume.affine)


def _write_case(
    folder: Path, name: str, names: Mapping[str, str], image: nib.Nifti1Image, label: nib.Nifti1Image
) -> None:
    for kind, volume in (("images", image), ("labels", label)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        nib.save(volume, folder / kind / f"{name}.nii.gz")
    write_json(folder / "labels.json", dict(names))
