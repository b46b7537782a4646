"""Phantoms: the same from the same seed, anatomically oriented, complete, and not solvable by intensity alone."""

from __future__ import annotations

import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.phantom.phantom import (
    PHANTOM_CLASSES,
    Phantom,
    case_seed,
    make_phantom,
    nearest_intensity_dice,
    write_phantoms,
)

SMALL = (48, 44, 14)
NUMBER = {name: number for number, name in PHANTOM_CLASSES.items()}


def in_ras(phantom: Phantom, array: np.ndarray) -> nib.Nifti1Image:
    return nib.as_closest_canonical(nib.Nifti1Image(array, phantom.affine))


def centroid(phantom: Phantom, name: str) -> np.ndarray:
    """Centre of the class in RAS millimetres."""
    voxel = np.argwhere(phantom.label == NUMBER[name]).mean(axis=0)
    return nib.affines.apply_affine(phantom.affine, voxel)


def test_same_seed_same_volume_and_other_seed_another_patient():
    first, again, other = make_phantom(7), make_phantom(7), make_phantom(8, shape=make_phantom(7).image.shape)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.label, again.label)
    np.testing.assert_array_equal(first.affine, again.affine)
    assert (first.label != other.label).mean() > 0.01


@pytest.mark.parametrize("seed", range(4))
def test_every_class_is_large_and_types_are_those_promised(seed):
    phantom = make_phantom(seed)
    counts = np.bincount(phantom.label.ravel(), minlength=6)
    assert counts.size == 6
    assert counts[1:].min() >= 1500
    assert (phantom.image.dtype, phantom.label.dtype, phantom.affine.dtype) == (np.int16, np.uint8, np.float64)
    assert phantom.image.shape == phantom.label.shape


@pytest.mark.parametrize("orientation", ["LPS", "SPL", "AIR"])
def test_orientation_changes_the_storage_and_not_the_patient(orientation):
    reference, turned = make_phantom(3, orientation="RAS"), make_phantom(3, orientation=orientation)
    assert "".join(nib.aff2axcodes(turned.affine)) == orientation
    for one, other in ((reference.image, turned.image), (reference.label, turned.label)):
        one, other = in_ras(reference, one), in_ras(turned, other)
        np.testing.assert_array_equal(one.get_fdata(), other.get_fdata())
        np.testing.assert_allclose(one.affine, other.affine)


@pytest.mark.parametrize("seed", range(6))
def test_organs_lie_on_their_sides_in_world_space(seed):
    phantom = make_phantom(seed)
    assert centroid(phantom, "liver")[0] > centroid(phantom, "aorta")[0] > centroid(phantom, "spleen")[0]
    assert centroid(phantom, "right kidney")[0] > centroid(phantom, "left kidney")[0]
    assert centroid(phantom, "liver")[1] > centroid(phantom, "spleen")[1]  # the spleen lies behind
    assert centroid(phantom, "liver")[2] > centroid(phantom, "right kidney")[2]  # the kidney lies below


def test_shape_and_spacing_follow_the_stored_axes_and_keep_the_anatomy():
    coarse = make_phantom(5, shape=(20, 64, 60), orientation="SPL")
    assert coarse.image.shape == (20, 64, 60)
    fine = make_phantom(5, spacing=(2.5, 2.0, 3.0), orientation="PLS")
    np.testing.assert_allclose(nib.affines.voxel_sizes(fine.affine), (2.5, 2.0, 3.0))
    litres = [(p.label == NUMBER["liver"]).sum() * abs(np.linalg.det(p.affine)) / 1e6 for p in (coarse, fine)]
    assert litres[0] == pytest.approx(litres[1], rel=0.05)


def test_intensity_alone_does_not_segment():
    phantoms = [make_phantom(seed) for seed in range(6)]
    assert 0.05 < nearest_intensity_dice(phantoms[:4], phantoms[4:]) <= 0.5


def test_nearest_intensity_dice_is_one_where_intensity_decides_and_skips_absent_classes():
    label = np.arange(6).reshape(6, 1, 1)
    training = Phantom(np.int16(100 * label), np.uint8(label), np.eye(4))
    without_aorta = Phantom(training.image[:5], training.label[:5], np.eye(4))
    assert nearest_intensity_dice([training], [training, without_aorta]) == 1.0
    shifted = Phantom(np.int16(100 * label + 100), np.uint8(label), np.eye(4))  # each class looks like the next
    assert nearest_intensity_dice([training], [shifted]) == pytest.approx(
        2 / 3 / 5
    )  # the aorta is found, with one voxel too many


def test_written_files_reload_as_made(tmp_path):
    folder = write_phantoms(tmp_path / "new" / "phantoms", 2, seed=4, shape=SMALL)
    assert sorted(path.name for path in folder.iterdir()) == ["images", "labels", "labels.json"]
    assert json.loads((folder / "labels.json").read_text()) == {str(k): name for k, name in PHANTOM_CLASSES.items()}
    for index in range(2):
        expected = make_phantom(case_seed(4, index), shape=SMALL)
        for part, array in (("images", expected.image), ("labels", expected.label)):
            nifti = nib.load(folder / part / f"phantom_{index:03d}.nii.gz")
            stored = np.asanyarray(nifti.dataobj)
            assert stored.dtype == array.dtype
            np.testing.assert_array_equal(stored, array)
            np.testing.assert_allclose(nifti.affine, expected.affine, atol=1e-4)
            np.testing.assert_allclose(nifti.get_qform(), expected.affine, atol=1e-3)
            assert (nifti.header["sform_code"], nifti.header["qform_code"]) == (1, 1)
            assert nifti.header.get_xyzt_units()[0] == "mm"


def test_a_longer_folder_begins_with_the_shorter_one(tmp_path):
    one, two = write_phantoms(tmp_path / "one", 1, shape=SMALL), write_phantoms(tmp_path / "two", 2, shape=SMALL)
    images = [np.asanyarray(nib.load(folder / "images" / "phantom_000.nii.gz").dataobj) for folder in (one, two)]
    np.testing.assert_array_equal(*images)


def test_refuses_a_folder_in_use_and_leaves_it_alone(tmp_path):
    (tmp_path / "precious.txt").write_text("keep")
    with pytest.raises(InputError, match=r"not an empty folder. Name one that is new or empty"):
        write_phantoms(tmp_path, 1, shape=SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


@pytest.mark.parametrize(
    "options", [{"shape": (64, 64)}, {"shape": (64, 0, 16)}, {"spacing": (2.0, -1.0, 3.0)}, {"orientation": "RLS"}]
)
def test_wrong_options_are_named(options):
    (name,) = options
    with pytest.raises(InputError, match=name):
        make_phantom(0, **options)


def test_import_does_not_load_torch():
    check = "import sys, medsam_adapt.data.phantom.phantom; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
