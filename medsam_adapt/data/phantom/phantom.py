"""Abdomen-like CT volumes made from a seed, for the demo, the tests and teaching: no patient, no download.

A phantom is painted, not simulated. A patient is a list of `Structure`s (superquadrics with a CT number), painted one
over the other in a smoothly deformed space, then blurred and made noisy as a scanner would. All coordinates are
millimetres in RAS: x grows towards the patient's right, y to the front (anterior), z to the head (superior).

Intensity alone does not solve it: bowel, vessels and muscle share the organs' CT numbers, and the contrast phase
differs from patient to patient. `nearest_intensity_dice` measures how far intensity alone gets.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel import orientations
from scipy import ndimage

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.phantom.anatomy import AIR, FAT, PHANTOM_CLASSES, TRUNK, Patient, Structure, draw_patient

# What scanners and converters write most, and some that permute the axes.
ORIENTATIONS = ("RAS", "LPS", "LAS", "RPS", "LPI", "RAI", "SPL", "PIR", "ASL", "IRP")


@dataclass(frozen=True)
class Phantom:
    """One volume and its answer.

    Attributes:
        image: (X, Y, Z) int16, Hounsfield units.
        label: (X, Y, Z) uint8, 0 for background and the keys of `PHANTOM_CLASSES`.
        affine: (4, 4) float64, from voxel index to RAS millimetres.
    """

    image: np.ndarray
    label: np.ndarray
    affine: np.ndarray


# ---- Painting a patient on a grid -------------------------------------------------------------------------------


def paint(patient: Patient, axes: Sequence[np.ndarray], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Paint all structures in order, the later over the earlier.

    Args:
        patient: what to paint.
        axes: three increasing 1D arrays, the voxel centres along x, y and z, mm.
        rng: draws the mottling.

    Returns:
        (X, Y, Z) float32 in HU, without noise, and (X, Y, Z) uint8 classes.
    """
    axes = [np.asarray(axis / scale, np.float32) for axis, scale in zip(axes, patient.scale, strict=True)]
    points = _deform(np.stack(np.meshgrid(*axes, indexing="ij")), patient.waves)
    mottle = ndimage.gaussian_filter(rng.standard_normal(points.shape[1:], np.float32), (1.5, 1.5, 0.8))
    mottle /= mottle.std()
    cavity = patient.cavity.distance(points) < -2
    hu = np.full(cavity.shape, AIR, np.float32)
    label = np.zeros(cavity.shape, np.uint8)
    for structure in patient.structures:
        box = _bounding_box(structure, axes, margin=structure.capsule + np.abs(patient.waves[..., 4]).sum(axis=0).max())
        distance = np.minimum.reduce([shape.distance(points[(slice(None), *box)]) for shape in structure.shapes])
        allowed = {"all": True, "cavity": cavity[box], "label": label[box] == structure.label}[structure.inside]
        if structure.capsule:
            rim = (distance < structure.capsule) & allowed
            hu[box][rim], label[box][rim] = FAT, 0
        body = (distance < 0) & allowed
        hu[box][body] = structure.hu + structure.texture * mottle[box][body]
        label[box][body] = structure.label
    return hu, label


def _deform(points: np.ndarray, waves: np.ndarray) -> np.ndarray:
    """Move each point (3, ...) along each axis by the sum of that axis's sine waves."""
    moved = points.copy()
    for wave in waves.astype(np.float32):
        for axis, (*vector, phase, amplitude) in enumerate(wave):
            moved[axis] += amplitude * np.sin(np.tensordot(np.array(vector), points, 1) + phase)
    return moved


def _bounding_box(structure: Structure, axes: Sequence[np.ndarray], margin: float) -> tuple[slice, ...]:
    """The part of the grid that the structure can touch: painting only there is what makes many structures cheap."""
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for shape in structure.shapes:
        reach = np.abs(shape.rotation) @ np.asarray(shape.radii) + margin
        low, high = np.minimum(low, shape.centre - reach), np.maximum(high, shape.centre + reach)
    return tuple(slice(*np.searchsorted(axis, bounds)) for axis, *bounds in zip(axes, low, high, strict=True))


def scan(hu: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a scanner makes of the painted (X, Y, Z) HU: blur, a smooth bias and noise; int16 HU."""
    blurred = ndimage.gaussian_filter(hu, (0.5, 0.5, 0.35))
    ramps = np.meshgrid(*(np.linspace(-1, 1, size, dtype=np.float32) for size in hu.shape), indexing="ij")
    bias = sum(rng.uniform(-6, 6) * ramp + rng.uniform(-6, 6) * ramp**2 for ramp in ramps)
    noise = ndimage.gaussian_filter(rng.standard_normal(hu.shape, np.float32), (0.5, 0.5, 0))
    noise *= rng.uniform(12, 20) / noise.std()
    return np.clip(np.rint(blurred + bias + noise), -1024, 3071).astype(np.int16)


# ---- Volumes and folders ----------------------------------------------------------------------------------------


def make_phantom(
    seed: int,
    *,
    shape: Sequence[int] | None = None,
    spacing: Sequence[float] | None = None,
    orientation: str | None = None,
) -> Phantom:
    """One patient, scanned once; the same seed and options give the same volume, bit for bit.

    The anatomy follows from the seed alone: another shape, spacing or orientation scans the same patient again.

    Args:
        seed: any integer ≥ 0.
        shape: voxels along each axis of the stored array (X, Y, Z), in its own order whatever its orientation; None
            takes what covers the trunk at `spacing`, or draws 96 to 128 in plane and 28 to 40 slices.
        spacing: millimetres along each axis of the stored array; None takes what makes `shape` cover the trunk (by
            default about 2.1 to 3.1 mm in plane, 2.6 to 5 mm between slices). Given both, the trunk may be cut off.
        orientation: axis codes of the stored array, such as "LPS" or "SPL"; None draws one of `ORIENTATIONS`.

    Raises:
        InputError: for a shape or spacing that is not three positive numbers, or for unknown axis codes.
    """
    _check_options(shape, spacing, orientation)
    patient_rng, grid_rng, mottle_rng, scan_rng = np.random.default_rng(seed).spawn(4)
    patient = draw_patient(patient_rng)

    drawn_orientation = str(grid_rng.choice(ORIENTATIONS))
    to_stored = orientations.ornt_transform(
        orientations.axcodes2ornt("RAS"), orientations.axcodes2ornt(orientation or drawn_orientation)
    )
    stored_axis = to_stored[:, 0].astype(int)  # which axis of the stored array runs along x, y and z
    ras_shape, ras_spacing = _choose_grid(
        grid_rng,
        patient,
        None if shape is None else np.asarray(shape)[stored_axis],
        None if spacing is None else np.asarray(spacing)[stored_axis],
    )
    first = -(ras_shape - 1) / 2 * ras_spacing + grid_rng.uniform(-4, 4, 3)
    axes = [first[axis] + np.arange(ras_shape[axis]) * ras_spacing[axis] for axis in range(3)]
    hu, label = paint(patient, axes, mottle_rng)

    affine = np.diag([*ras_spacing, 1.0])
    affine[:3, 3] = first + grid_rng.uniform(-150, 150, 3)  # the scanner's origin, anywhere
    return Phantom(
        image=np.ascontiguousarray(orientations.apply_orientation(scan(hu, scan_rng), to_stored)),
        label=np.ascontiguousarray(orientations.apply_orientation(label, to_stored)),
        affine=affine @ orientations.inv_ornt_aff(to_stored, ras_shape),
    )


def _check_options(shape: Sequence[int] | None, spacing: Sequence[float] | None, orientation: str | None) -> None:
    for name, value in (("shape", shape), ("spacing", spacing)):
        if value is not None and (len(value) != 3 or not all(number > 0 for number in value)):
            raise InputError(f"{name}: {value!r} is not three positive numbers. Give one for each axis of the volume.")
    if orientation is not None and sorted(orientation.translate(str.maketrans("LPI", "RAS"))) != ["A", "R", "S"]:
        raise InputError(f"orientation: {orientation!r} is not three axis codes. Give three, such as 'RAS' or 'LPS'.")


def _choose_grid(
    rng: np.random.Generator, patient: Patient, shape: np.ndarray | None, spacing: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Complete shape (3,) and spacing (3,), both along x, y, z, so that the field of view covers the trunk."""
    width = rng.integers(104, 129)
    drawn_shape = np.array([width, rng.integers(96, width + 1), rng.integers(28, 41)])
    field_of_view = np.array([*(2.2 * TRUNK * patient.scale[:2]), rng.uniform(105, 140)])  # mm
    if shape is None:
        shape = drawn_shape if spacing is None else np.ceil(field_of_view / spacing).astype(int)
    if spacing is None:
        spacing = field_of_view / shape
        spacing[:2] = spacing[:2].max()  # CT pixels are square
    return shape, spacing


def case_seed(seed: int, index: int) -> int:
    """The seed of case `index` in the folder that `write_phantoms` writes for `seed`: independent of all others."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0])


def write_phantoms(
    folder: Path,
    count: int,
    seed: int = 0,
    *,
    shape: Sequence[int] | None = None,
    spacing: Sequence[float] | None = None,
    orientation: str | None = None,
) -> Path:
    """Write `count` phantoms in the `folder` layout and return the folder.

    The files are `images/phantom_000.nii.gz`, `labels/phantom_000.nii.gz` and so on, and `labels.json`, the class
    names. Options are those of `make_phantom`. Nothing appears in the folder before everything is written.

    Raises:
        InputError: if the folder exists and is not empty, or if `count` or an option of `make_phantom` is wrong.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: it is not an empty folder. Name one that is new or empty.")
    if count < 1:
        raise InputError(f"count: it is {count}. Ask for one phantom or more.")
    _check_options(shape, spacing, orientation)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder) as staging_name:
        staging = Path(staging_name)
        (staging / "images").mkdir()
        (staging / "labels").mkdir()
        for index in range(count):
            phantom = make_phantom(case_seed(seed, index), shape=shape, spacing=spacing, orientation=orientation)
            name = f"phantom_{index:03d}.nii.gz"
            _write_nifti(staging / "images" / name, phantom.image, phantom.affine)
            _write_nifti(staging / "labels" / name, phantom.label, phantom.affine)
        (staging / "labels.json").write_text(json.dumps(PHANTOM_CLASSES, indent=2) + "\n", encoding="utf-8")
        for part in ("images", "labels", "labels.json"):
            (staging / part).rename(folder / part)
    return folder


def _write_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    nifti = nib.Nifti1Image(array, affine)
    nifti.set_sform(affine, code=1)
    nifti.set_qform(affine, code=1)
    nifti.header.set_xyzt_units("mm")
    nib.save(nifti, path)


def nearest_intensity_dice(training: Sequence[Phantom], test: Sequence[Phantom]) -> float:
    """The mean DSC of a segmenter that knows intensity only: what a network must beat to have learned anatomy.

    Each class's mean HU, and that of everything unlabelled, is measured on `training`; each voxel of `test` gets the
    class of the nearest mean. DSC = 2|A∩B| / (|A| + |B|) per volume, then the mean over volumes, then over classes; a
    class that is absent from both A and B is not counted.
    """
    classes = np.array([0, *PHANTOM_CLASSES])
    image = np.concatenate([phantom.image.ravel() for phantom in training])
    label = np.concatenate([phantom.label.ravel() for phantom in training])
    means = ndimage.mean(image, label, classes)
    order = np.argsort(means)
    borders = (means[order][1:] + means[order][:-1]) / 2
    dice = []
    for phantom in test:
        predicted = classes[order][np.searchsorted(borders, phantom.image)]
        pairs = [(predicted == number, phantom.label == number) for number in PHANTOM_CLASSES]
        dice.append([2 * (a & b).sum() / total if (total := a.sum() + b.sum()) else np.nan for a, b in pairs])
    return float(np.mean(np.nanmean(dice, axis=0)))
