"""Labels of the same grid in another order or extent, and NIfTI headers that contradict themselves."""

import itertools

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from nibabel import orientations

from medsam_adapt.cli.main import main
from medsam_adapt.core.errors import InputError
from medsam_adapt.data.datasets.cases import find_cases
from medsam_adapt.data.datasets.survey import survey
from medsam_adapt.data.slices.intensity import IntensityPolicy
from medsam_adapt.data.slices.slice_store import SliceSettings, store_cases
from medsam_adapt.data.volumes import io
from medsam_adapt.data.volumes.same_grid import align, common_grid
from medsam_adapt.scoring.mask_pairs import find_labels, match_masks, score_masks
from medsam_adapt.scoring.metrics import MetricRules

SHAPE = (7, 6, 5)
TILT = np.deg2rad(20)
# oblique, anisotropic
AFFINE = np.array(
    [
        [-0.8 * np.cos(TILT), 1.1 * np.sin(TILT), 0, 40],
        [-0.8 * np.sin(TILT), -1.1 * np.cos(TILT), 0, 30],
        [0, 0, 2.5, -100],
        [0, 0, 0, 1.0],
    ]
)
LABEL = np.random.default_rng(0).integers(0, 4, SHAPE).astype(np.uint8)
ORDERS = [
    orientations.axcodes2ornt(codes)
    for axes in itertools.permutations(("RL", "AP", "SI"))
    for codes in itertools.product(*axes)
]


def save(path, array, affine=AFFINE, sform=1, qform=1, other=None):
    """A NIfTI file; ``other`` is its qform where that is not the affine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, sform)
    image.set_qform(affine if other is None else other, qform)
    fields = image.header
    fields["vox_offset"], fields["magic"], fields["scl_slope"], fields["scl_inter"] = 352, b"n+1", 1, 0
    with nib.openers.Opener(path, "wb") as file:  # nibabel itself would give codes of 0 an orientation
        file.write(fields.binaryblock.ljust(352, b"\0") + array.tobytes(order="F"))
    return path


def turned(array, affine, order):
    """The same grid stored in another order of axes."""
    turn = orientations.ornt_transform(orientations.io_orientation(affine), order)
    return orientations.apply_orientation(array, turn), affine @ orientations.inv_ornt_aff(turn, array.shape)


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: "".join(orientations.ornt2axcodes(order)))
def test_a_label_in_any_axis_order_is_the_same_label(tmp_path, order):
    image = save(tmp_path / "image.nii.gz", LABEL.astype(np.int16))
    label = save(tmp_path / "label.nii.gz", *turned(LABEL, AFFINE, order))
    read, header = io.read_label(label, image)
    np.testing.assert_array_equal(read, LABEL)
    assert (header.shape, header.path) == (SHAPE, label)
    np.testing.assert_array_equal(header.affine, io.read_header(image).affine)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nii"])
def test_the_order_is_found_across_formats(tmp_path, suffix):
    image = save(tmp_path / "image.nii.gz", LABEL.astype(np.int16))
    array, affine = turned(LABEL, AFFINE, orientations.axcodes2ornt("SAR"))
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    volume = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose()))
    volume.SetSpacing(spacing.tolist())
    volume.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    volume.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(volume, str(tmp_path / f"label{suffix}"))
    np.testing.assert_array_equal(io.read_label(tmp_path / f"label{suffix}", image)[0], LABEL)


def test_a_turned_label_is_checked_sliced_and_scored_as_the_plain_one(tmp_path):
    for number in range(2):
        save(tmp_path / f"data/images/c{number}.nii.gz", LABEL.astype(np.int16) + number)
        save(tmp_path / f"data/labels/c{number}.nii.gz", LABEL)
    turned_label = turned(LABEL, AFFINE, orientations.axcodes2ornt("IPR"))
    plain = find_cases(tmp_path / "data")
    settings = SliceSettings(16, "coronal", IntensityPolicy(kind="percentile"), [1, 2, 3])
    before = store_cases(plain.cases, settings, tmp_path / "cache")["c0"].labels
    save(tmp_path / "data/labels/c0.nii.gz", *turned_label)
    seen = survey(tmp_path / "data")
    assert (seen.problems, seen.check.notes) == ((), ())
    assert seen.check.voxels["c0"] == dict(enumerate(np.bincount(LABEL.ravel())[1:].tolist(), start=1))
    after = store_cases(find_cases(tmp_path / "data").cases, settings, tmp_path / "cache")["c0"].labels
    assert len(before) == len(after) == SHAPE[1]
    for index in range(SHAPE[1]):
        np.testing.assert_array_equal(before[index], after[index])
    save(tmp_path / "pred/c1.nii.gz", *turned_label)
    save(tmp_path / "ref/c1.nii.gz", LABEL)
    pairs = match_masks(tmp_path / "pred", tmp_path / "ref").pairs
    assert find_labels(pairs) == {"c1": {1, 2, 3}}
    scores, _ = score_masks(pairs, {1: "one", 2: "two"}, MetricRules())
    assert [scores["c1"][name]["dsc"] for name in ("one", "two")] == [1, 1]
    assert scores["c1"]["one"]["hd95"] == 0


def test_structures_in_files_of_their_own_may_have_orders_of_their_own(tmp_path):
    for name, order in (("Larynx", "RAS"), ("Eye_L", "PIR")):
        save(
            tmp_path / f"pred/a/{name}.nii.gz",
            *turned((LABEL == 1).astype(np.uint8), AFFINE, orientations.axcodes2ornt(order)),
        )
        save(tmp_path / f"ref/a/{name}.nii.gz", (LABEL == 1).astype(np.uint8))
    pairs = match_masks(tmp_path / "pred", tmp_path / "ref").pairs
    assert find_labels(pairs) == {"a": {"Larynx", "Eye_L"}}
    scores, _ = score_masks(pairs, {"Larynx": "Larynx", "Eye_L": "Eye_L"}, MetricRules())
    assert scores["a"]["Larynx"]["dsc"] == scores["a"]["Eye_L"]["dsc"] == 1


def test_two_images_of_a_case_may_have_orders_of_their_own(tmp_path):
    plain, contrast = (np.random.default_rng(seed).integers(0, 99, SHAPE).astype(np.int16) for seed in (1, 2))
    save(tmp_path / "case/image.nii.gz", plain)
    save(tmp_path / "case/image_contrast.nii.gz", *turned(contrast, AFFINE, orientations.axcodes2ornt("ASR")))
    files = [tmp_path / "case/image.nii.gz", tmp_path / "case/image_contrast.nii.gz"]
    voxels, _ = io.read_volume(files)
    np.testing.assert_array_equal(voxels[..., 0], plain)
    np.testing.assert_array_equal(voxels[..., 1], contrast)
    save(tmp_path / "case/image_contrast.nii.gz", contrast[1:], AFFINE @ _shift(1, 0, 0))
    header = io.read_header(files)
    assert any("image_contrast.nii.gz" in note for note in header.notes)  # it is resampled, which is reported


# ------------------------------------------------------------------------------------------------------------- extents


def _shift(*voxels):
    moved = np.eye(4)
    moved[:3, 3] = voxels
    return moved


def test_a_cropped_label_is_placed(tmp_path):
    image = save(tmp_path / "image.nii.gz", LABEL.astype(np.int16))
    part = np.zeros_like(LABEL)
    part[2:6, 1:5, 1:4] = LABEL[2:6, 1:5, 1:4]
    for order in ("RAS", "SLP"):
        stored = turned(LABEL[2:6, 1:5, 1:4], AFFINE @ _shift(2, 1, 1), orientations.axcodes2ornt(order))
        label = save(tmp_path / "label.nii.gz", *stored)
        np.testing.assert_array_equal(io.read_label(label, image)[0], part)


def test_a_label_beyond_its_image_is_refused_only_where_it_has_voxels(tmp_path):
    image = save(tmp_path / "image.nii.gz", LABEL.astype(np.int16))
    wide = np.pad(LABEL, 2)
    label = save(tmp_path / "label.nii.gz", wide, AFFINE @ _shift(-2, -2, -2))
    np.testing.assert_array_equal(io.read_label(label, image)[0], LABEL)
    wide[0, 0, 0] = 1
    save(label, wide, AFFINE @ _shift(-2, -2, -2))
    with pytest.raises(InputError, match="labelled voxels lie outside its image"):
        io.read_label(label, image)


@pytest.mark.parametrize("missing", [1, 2])
def test_a_label_that_lacks_the_last_slices_is_refused(tmp_path, missing):
    image = save(tmp_path / "image.nii.gz", LABEL.astype(np.int16))
    label = save(tmp_path / "label.nii.gz", LABEL[:, :, :-missing])
    with pytest.raises(InputError, match=rf"7 × 6 × {5 - missing} voxels and its image image.nii.gz 7 × 6 × 5"):
        io.read_label(label, image)


def test_two_masks_are_compared_on_the_larger_grid(tmp_path):
    whole, part = (
        save(tmp_path / "whole.nii.gz", LABEL),
        save(tmp_path / "part.nii.gz", LABEL[2:6], AFFINE @ _shift(2, 0, 0)),
    )
    headers = [io.read_header(path) for path in (whole, part)]
    assert common_grid(*headers).path == common_grid(*headers[::-1]).path == whole


@pytest.mark.parametrize(
    ("moved", "apart"),
    [
        (AFFINE @ _shift(0.5, 0, 0), "0.4 mm"),  # between the voxels
        (AFFINE @ np.diag([1.05, 1, 1, 1]), "0.24 mm"),  # of another spacing
        (AFFINE @ _shift(50, 0, 0), "40 mm"),  # of the same lattice, and elsewhere
    ],
)
def test_another_grid_is_refused_with_the_distance(tmp_path, moved, apart):
    image, label = save(tmp_path / "image.nii.gz", LABEL), save(tmp_path / "label.nii.gz", LABEL, moved)
    with pytest.raises(InputError, match=rf"lies up to {apart} from its image image.nii.gz. Resample the label"):
        align(io.read_header(image), io.read_header(label))


# ----------------------------------------------------------------------------------- headers that contradict themselves

MIRRORED = np.diag([-1.0, 1, 1, 1]) @ AFFINE


def itk_label(image, path):
    """A label that SimpleITK writes on its own reading of an image."""
    label = sitk.GetImageFromArray(np.ascontiguousarray(LABEL.transpose()))
    label.CopyInformation(sitk.ReadImage(str(image)))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(label, str(path))
    return path


@pytest.mark.parametrize(
    ("codes", "by_itk"), [((1, 1), "sform"), ((2, 1), "qform"), ((4, 2), "qform"), ((1, 0), None), ((0, 1), None)]
)
def test_forms_that_disagree_are_named_in_the_survey(tmp_path, codes, by_itk):
    for number in range(2):
        image = save(tmp_path / f"images/c{number}.nii.gz", LABEL.astype(np.int16), AFFINE, *codes, other=MIRRORED)
        nib.save(nib.Nifti1Image(LABEL, nib.load(image).affine), tmp_path / f"c{number}.nii.gz")
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / f"c{number}.nii.gz").rename(tmp_path / f"labels/c{number}.nii.gz")
    seen = survey(tmp_path)
    assert not seen.problems
    np.testing.assert_allclose(io.read_header(image).affine, nib.load(image).affine, atol=1e-5)
    if by_itk is None:
        assert seen.check.notes == ()
        return
    assert len(seen.check.notes) == 2
    assert all("one a mirror image of the other" in text for text in seen.check.notes)
    itk = "ITK (SimpleITK, 3D Slicer, ITK-SNAP)"
    assert (f"and {itk} the qform" in seen.check.notes[0]) == (by_itk == "qform")
    origin = np.diag([-1, -1, 1]) @ sitk.ReadImage(str(image)).GetOrigin()
    np.testing.assert_allclose(origin, (AFFINE if by_itk == "sform" else MIRRORED)[:3, 3], atol=1e-4)
    assert seen.as_json()["notes"] == list(seen.check.notes)


def test_rounding_between_the_forms_is_no_contradiction(tmp_path):
    near = AFFINE.copy()
    near[:3, 3] += 0.01
    assert io.read_header(save(tmp_path / "a.nii.gz", LABEL, AFFINE, 2, 1, other=near)).notes == ()


@pytest.mark.parametrize(
    ("codes", "phrase"), [((2, 1), "by the qform, which is what ITK"), ((0, 0), "by the place that ITK")]
)
def test_the_contradiction_is_named_as_the_cause_of_a_label_that_does_not_fit(tmp_path, codes, phrase):
    image = save(tmp_path / "images/c.nii.gz", LABEL.astype(np.int16), AFFINE, *codes, other=MIRRORED)
    label = itk_label(image, tmp_path / "labels/c.nii.gz")
    with pytest.raises(InputError, match=r"lies up to .* mm from its image c.nii.gz, since c.nii.gz has") as refused:
        io.read_label(label, image)
    assert f"fit voxel for voxel {phrase}" in str(refused.value)
    assert "Do not resample" in str(refused.value)
    (problem,) = survey(tmp_path).problems
    assert problem == str(refused.value)
    # the fix that the sentence gives
    geometry = nib.load(label).affine
    save(image, LABEL.astype(np.int16), geometry)
    np.testing.assert_array_equal(io.read_label(label, image)[0], LABEL)


def test_metres_are_millimetres_in_what_is_compared(tmp_path):
    metres = nib.Nifti1Image(LABEL, np.diag([1e-3, 1e-3, 1e-3, 1]) @ AFFINE)
    metres.header.set_xyzt_units("meter")
    metres.set_qform(np.diag([1e-3, 1e-3, 1e-3, 1]) @ MIRRORED, 1)
    nib.save(metres, tmp_path / "metres.nii.gz")
    header = io.read_header(tmp_path / "metres.nii.gz")
    (other,) = header.other_affines.values()
    np.testing.assert_allclose(other, MIRRORED, atol=1e-4)
    np.testing.assert_array_equal(io.read_label(header.path, save(tmp_path / "mm.nii.gz", LABEL))[0], LABEL)


def test_the_commands_print_the_warning_and_the_cause(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    image = save(tmp_path / "d/images/c.nii.gz", LABEL.astype(np.int16), AFFINE, 2, 1, other=MIRRORED)
    save(tmp_path / "d/labels/c.nii.gz", LABEL)
    with pytest.raises(SystemExit) as stopped:
        main(["data", "check", "d"])
    assert not stopped.value.code
    assert "No problems, but 1 warning." in capsys.readouterr().out
    itk_label(image, tmp_path / "pred/c.nii.gz")
    (tmp_path / "ref").mkdir()
    save(image, LABEL, AFFINE, 2, 1, other=MIRRORED).rename(tmp_path / "ref/c.nii.gz")
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "--pred", "pred", "--ref", "ref", "--output", "scores"])
    assert stopped.value.code == 2
    printed = " ".join(capsys.readouterr().err.split())
    assert "from the reference ref/c.nii.gz, since c.nii.gz has an sform (code 2) and a qform (code 1)" in printed
