"""DICOM segmentations, written with highdicom, and structure sets, on the grid of their series."""

import sys

import numpy as np
import pytest
from pydicom import uid

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.volumes import io
from medsam_adapt.data.volumes.dicom_labels import open_dicom_labels, read_dicom_labels, structure_names
from tests.data.dicom_files import AXIAL, BIRTH, IDENTIFIER, OBLIQUE, SECRET, save, segmentation, series, structure_set

MASKS = np.zeros((6, 5, 4, 2), np.uint8)  # slices, rows, columns, structures
MASKS[1:4, 1:3, 2, 0] = 1
MASKS[3:5, 3:, 1:, 1] = 1
LABEL = (MASKS[..., 0] + 2 * MASKS[..., 1]).transpose(2, 1, 0)
NAMES = {1: "liver", 2: "spleen"}


def refused(path, folder, sentence):
    with pytest.raises(InputError, match=f"(?i){sentence}") as reported:
        read_dicom_labels(path, folder)
    assert reported.value.__cause__ is None
    assert not [word for word in (SECRET, IDENTIFIER, BIRTH, "1.2.826") if word in str(reported.value)]


@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE, (0, -1, 0, 1, 0, 0)])
@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_a_segmentation_lands_on_its_series(tmp_path, orientation, kind):
    slices = series(orientation=orientation)
    folder = save(tmp_path / "ct", slices)
    masks = {"BINARY": MASKS, "FRACTIONAL": MASKS * np.float32(0.6), "LABELMAP": LABEL.transpose(2, 1, 0)}[kind]
    path = tmp_path / "seg.dcm"
    segmentation(slices, masks, NAMES.values(), kind).save_as(path)
    label, names = read_dicom_labels(path, folder)
    np.testing.assert_array_equal(label, LABEL)
    assert (label.dtype, names, structure_names(path)) == (np.uint8, NAMES, NAMES)
    image = io.read_header(folder)
    again, header = io.read_label(path, like=image)
    np.testing.assert_array_equal(again, LABEL)
    np.testing.assert_array_equal(header.affine, image.affine)


def test_a_segmentation_of_reversed_slices_and_of_every_second_slice(tmp_path):
    slices = series()
    folder = save(tmp_path / "ct", slices)
    segmentation(slices[::-1], MASKS[::-1], NAMES.values()).save_as(tmp_path / "reversed.dcm")
    np.testing.assert_array_equal(read_dicom_labels(tmp_path / "reversed.dcm", folder)[0], LABEL)
    some = MASKS * (np.arange(6) % 2 == 1)[:, None, None, None]
    segmentation(slices, some.astype(np.uint8), NAMES.values()).save_as(tmp_path / "some.dcm")
    expected = LABEL * (np.arange(6) % 2 == 1)
    np.testing.assert_array_equal(read_dicom_labels(tmp_path / "some.dcm", folder)[0], expected)


def test_a_segmentation_lands_on_the_nifti_copy_of_its_series(tmp_path):
    import nibabel as nib

    slices = series()
    folder = save(tmp_path / "ct", slices)
    segmentation(slices, MASKS, NAMES.values()).save_as(tmp_path / "seg.dcm")
    image, header = io.read_volume(folder)
    turned, affine = io.to_ras(image, header.affine)
    nib.save(nib.Nifti1Image(turned.transpose(2, 0, 1), affine[:, [2, 0, 1, 3]]), tmp_path / "copy.nii")
    expected = io.to_ras(LABEL, header.affine)[0].transpose(2, 0, 1)
    np.testing.assert_array_equal(read_dicom_labels(tmp_path / "seg.dcm", tmp_path / "copy.nii")[0], expected)


def test_structures_that_overlap_are_masks_by_name(tmp_path):
    slices = series()
    folder = save(tmp_path / "ct", slices)
    both = np.maximum(MASKS, MASKS[..., ::-1])
    segmentation(slices, both, NAMES.values()).save_as(tmp_path / "seg.dcm")
    masks, names = read_dicom_labels(tmp_path / "seg.dcm", folder)
    assert (set(masks), names) == ({"liver", "spleen"}, NAMES)
    np.testing.assert_array_equal(masks["spleen"], LABEL > 0)
    with pytest.raises(InputError, match=r"overlap.*Export each"):
        io.read_label(tmp_path / "seg.dcm", like=folder)


def place(header, *voxels):
    """DICOM's mm of voxels (i, j, k)."""
    points = np.c_[np.array(voxels, float), np.ones(len(voxels))] @ header.affine.T
    return points[:, :3] * (-1, -1, 1)


def square(header, low, high, k):
    return place(header, *((i, j, k) for i, j in ((low, low), (high, low), (high, high), (low, high))))


@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE])
def test_contours_hold_the_voxels_whose_centres_they_surround_and_cut_holes(tmp_path, orientation):
    stored = np.zeros((4, 9, 8), np.int16)
    slices = series(stored, orientation=orientation)
    folder = save(tmp_path / "ct", slices)
    header = io.read_header(folder)
    ring = [square(header, 0.5, 6.5, 1), square(header, 2.5, 4.5, 1)]
    structure_set(slices, {"ring": ring, "box": [square(header, 2.6, 4.4, 2)], "none": []}).save_as(
        tmp_path / "rt.dcm", implicit_vr=False, little_endian=True, enforce_file_format=True
    )
    expected = np.zeros((8, 9, 4), np.uint8)
    expected[1:7, 1:7, 1] = 1
    expected[3:5, 3:5, 1] = 0
    expected[3:5, 3:5, 2] = 2
    label, names = read_dicom_labels(tmp_path / "rt.dcm", folder)
    np.testing.assert_array_equal(label, expected)
    assert names == {1: "ring", 2: "box", 3: "none"}


def test_labels_of_another_series_or_place_are_refused(tmp_path):
    slices, others = series(), series()
    folder = save(tmp_path / "ct", slices)
    header = io.read_header(folder)
    path = tmp_path / "a.dcm"
    segmentation(others, MASKS, NAMES.values()).save_as(path)
    refused(path, folder, "drawn on another series.*Give the label")
    for shift, sentence in (((0.3, 0, 0), "another grid.*Resample"), ((2 * 0.9, 0, 0), "reaches beyond.*Give")):
        moved = series(origin=np.array((-30.0, -40.0, 100.0)) + shift)
        for item in moved:
            item.FrameOfReferenceUID = slices[0].FrameOfReferenceUID
        segmentation(moved, MASKS, NAMES.values()).save_as(path)
        refused(path, folder, sentence)
    for contour, sentence in (
        (square(header, 0, 2, 1.5), "between the slices"),
        (square(header, 0, 2, 9), "reaches beyond"),
        (place(header, (0, 0, 0), (3, 0, 3), (3, 3, 3)), "or across them"),
    ):
        structure_set(slices, {"a": [contour]}).save_as(path, enforce_file_format=True)
        refused(path, folder, sentence)


def test_files_that_are_no_labels_are_refused(tmp_path):
    slices = series()
    folder = save(tmp_path / "ct", slices)
    refused(tmp_path / "none.dcm", folder, "does not exist")
    slices[0].save_as(tmp_path / "ct.dcm")
    refused(tmp_path / "ct.dcm", folder, r"neither a DICOM segmentation \(SEG\)")
    twice = structure_set(slices, {"a": [], "b": []})
    twice.StructureSetROISequence[1].ROINumber = 1
    twice.save_as(tmp_path / "twice.dcm", enforce_file_format=True)
    refused(tmp_path / "twice.dcm", folder, "two structures have the same number.*Export")
    damaged = structure_set(slices, {"a": [square(io.read_header(folder), 0, 2, 1)]})
    damaged.ROIContourSequence[0].ContourSequence[0].ContourData = ["1", "2"]
    damaged.save_as(tmp_path / "bad.dcm", enforce_file_format=True)
    refused(tmp_path / "bad.dcm", folder, "structure 1 has damaged contours")


def test_a_segmentation_without_highdicom_is_told_what_to_install(tmp_path, monkeypatch):
    slices = series()
    folder = save(tmp_path / "ct", slices)
    segmentation(slices, MASKS, NAMES.values()).save_as(tmp_path / "seg.dcm")
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(InputError, match=r"pip install 'medsam-adapt\[dicom\]'"):
        read_dicom_labels(tmp_path / "seg.dcm", folder)


# ------------------------------------------------------------------------------------------- what structure sets hold


def drawn(slices, path, structures, edit=None):
    """A structure set of {name: [(type of contour, points)]}."""
    dataset = structure_set(slices, {name: [points for _, points in contours] for name, contours in structures.items()})
    for item, contours in zip(dataset.ROIContourSequence, structures.values(), strict=True):
        for contour, (kind, _) in zip(item.ContourSequence, contours, strict=True):
            contour.ContourGeometricType = kind
    if edit is not None:
        edit(dataset)
    dataset.save_as(path, implicit_vr=False, little_endian=True, enforce_file_format=True)
    return path


@pytest.fixture
def ct(tmp_path):
    """A series of 12 x 12 x 4 voxels: its data sets, folder and header."""
    slices = series(np.zeros((4, 12, 12), np.int16))
    folder = save(tmp_path / "ct", slices)
    return slices, folder, io.read_header(folder)


def voxels_of(path, folder):
    return int(np.count_nonzero(read_dicom_labels(path, folder)[0]))


@pytest.mark.parametrize(
    ("kind", "voxels"),
    [
        ("CLOSED_PLANAR", 25),
        ("CLOSEDPLANAR_XOR", 25),
        ("INTERPOLATED_PLANAR", 25),
        ("closed_planar", 25),
        ("SOMETHING_ELSE", 25),
        ("POINT", 0),
        ("OPEN_PLANAR", 0),
        ("OPEN_NONPLANAR", 0),
    ],
)
def test_no_type_of_contour_vanishes_without_a_word(tmp_path, ct, kind, voxels):
    slices, folder, header = ct
    path = drawn(slices, tmp_path / "rt.dcm", {"a": [(kind, square(header, 2, 6, 1))]})
    assert voxels_of(path, folder) == voxels
    notes = open_dicom_labels(path, folder).notes
    assert bool(notes) == (voxels == 0 or kind == "SOMETHING_ELSE")
    assert all(sentence.startswith(f"{path}: structure 1 has") for sentence in notes.get(1, ()))


def test_holes_by_the_standards_word_and_by_nesting(tmp_path, ct):
    slices, folder, header = ct
    outer, inner = square(header, 1.6, 9.4, 1), square(header, 3.6, 6.4, 1)
    for kinds in (("CLOSEDPLANAR_XOR",) * 2, ("CLOSED_PLANAR",) * 2, ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")):
        path = drawn(slices, tmp_path / "rt.dcm", {"a": [*zip(kinds, (outer, inner), strict=True)]})
        assert voxels_of(path, folder) == 64 - 9


def test_contours_stored_twice_count_once(tmp_path, ct):
    slices, folder, header = ct
    once = [("CLOSED_PLANAR", square(header, 2, 6, k)) for k in (1, 2)]
    for copies in (once, [(kind, points[::-1]) for kind, points in once], [(k, np.round(p, 1)) for k, p in once]):
        assert voxels_of(drawn(slices, tmp_path / "rt.dcm", {"a": [*once, *copies]}), folder) == 50


def test_what_reaches_beyond_the_image_is_cut_off_with_a_note(tmp_path, ct):
    slices, folder, header = ct
    structures = {
        "couch": [("CLOSED_PLANAR", square(header, -5, 2, 1))],
        "head": [("CLOSED_PLANAR", square(header, 2, 4, k)) for k in (3, 4, 5)],
        "elsewhere": [("CLOSED_PLANAR", square(header, 20, 25, 1))],
    }
    labels = open_dicom_labels(drawn(slices, tmp_path / "rt.dcm", structures), folder)
    assert [int(labels.mask(number).sum()) for number in (1, 2, 3)] == [9, 9, 0]
    assert not labels.problems
    assert ["cut off" in labels.notes[number][0] for number in (1, 2, 3)] == [True, True, False]
    assert "lies outside the image" in labels.notes[3][0]


def no_points(dataset):
    dataset.ROIContourSequence[1].ContourSequence[0].ContourData = None


def orphan(dataset):
    dataset.ROIContourSequence[1].ReferencedROINumber = 77


def odd_points(dataset):
    dataset.ROIContourSequence[1].ContourSequence[0].ContourData = ["1", "2"]


def other_frame(dataset):
    dataset.StructureSetROISequence[1].ReferencedFrameOfReferenceUID = uid.generate_uid()


def without_name(dataset):
    dataset.StructureSetROISequence[1].ROIName = ""


FAULTS = {
    "no points": (no_points, 1, False),
    "an orphan": (orphan, 1, False),
    "no name": (without_name, 1, False),
    "half a point": (odd_points, 1, True),
    "another frame of reference": (other_frame, 1, True),
    "between slices": (None, 1.5, True),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_one_structure_stops_only_who_asks_for_it(tmp_path, ct, fault):
    slices, folder, header = ct
    edit, place, is_problem = FAULTS[fault]
    contours = {"liver": [("CLOSED_PLANAR", square(header, 2, 6, 1))]}
    contours["bad"] = [("CLOSED_PLANAR", square(header, 2, 6, place))]
    path = drawn(slices, tmp_path / "rt.dcm", contours, edit)
    label, names = read_dicom_labels(path, folder, lambda name: name == "liver")
    assert (int(label.sum()), names) == (25, {1: "liver"})
    assert bool(open_dicom_labels(path, folder).problems) == is_problem
    if is_problem:
        refused(path, folder, "structure 2 ")


def test_structures_of_one_name_are_joined_and_empty_ones_do_no_harm(tmp_path, ct):
    slices, folder, header = ct

    def rename(dataset):
        for item in dataset.StructureSetROISequence:
            item.ROIName = "tumour"

    parts = {name: [("CLOSED_PLANAR", square(header, low, low + 2, 1))] for name, low in (("a", 1), ("b", 2))}
    path = drawn(slices, tmp_path / "rt.dcm", {**parts, "c": [], "d": []}, rename)
    assert voxels_of(path, folder) == 9 + 9 - 4
    masks = np.zeros((4, 12, 12, 2), np.uint8)
    masks[1, 2:4, 2:4, 0] = masks[2, 3:5, 3:5, 1] = 1
    segmentation(slices, masks, ["lesion", "lesion"]).save_as(tmp_path / "seg.dcm")
    assert voxels_of(tmp_path / "seg.dcm", folder) == 8


def test_any_number_of_a_structure_is_taken(tmp_path, ct):
    slices, folder, header = ct

    def renumber(dataset):
        for sequence, name in (("StructureSetROISequence", "ROINumber"), ("ROIContourSequence", "ReferencedROINumber")):
            for item, number in zip(dataset[sequence].value, (70000, 0), strict=True):
                setattr(item, name, number)

    contours = {"a": [("CLOSED_PLANAR", square(header, 1, 2, 1))], "b": [("CLOSED_PLANAR", square(header, 5, 7, 1))]}
    label, names = read_dicom_labels(drawn(slices, tmp_path / "rt.dcm", contours, renumber), folder)
    assert names == {1: "b", 2: "a"}
    assert np.bincount(label.ravel()).tolist() == [576 - 13, 9, 4]


def test_single_voxels_as_points_and_lines_of_a_closed_contour(tmp_path, ct):
    slices, folder, header = ct
    point, line = place(header, (3, 4, 1)), place(header, (3, 7, 2), (6, 7, 2))
    path = drawn(slices, tmp_path / "rt.dcm", {"a": [("CLOSED_PLANAR", point), ("CLOSED_PLANAR", line)]})
    found = np.argwhere(read_dicom_labels(path, folder)[0]).tolist()
    assert found == [[3, 4, 1], [3, 7, 2], [4, 7, 2], [5, 7, 2], [6, 7, 2]]


def test_positions_and_directions_may_be_rounded(tmp_path):
    """As scanners write them: three decimals of a millimetre, six of a direction."""
    angle = np.deg2rad(17.3)
    slices = series(np.zeros((30, 12, 12), np.int16), orientation=(np.cos(angle), np.sin(angle), 0, 0, 0, -1))
    exact = io.read_header(save(tmp_path / "exact", slices))
    contours = [("CLOSED_PLANAR", square(exact, 2, 6, k)) for k in range(30)]
    for item in slices:
        item.ImagePositionPatient = [f"{float(value):.3f}" for value in item.ImagePositionPatient]
        item.ImageOrientationPatient = [f"{float(value):.6f}" for value in item.ImageOrientationPatient]
    folder = save(tmp_path / "ct", slices)
    assert voxels_of(drawn(slices, tmp_path / "rt.dcm", {"a": contours}), folder) == 25 * 30
    masks = np.ones((30, 12, 12), np.uint8)
    segmentation(slices, masks, ["a"]).save_as(tmp_path / "seg.dcm")
    assert voxels_of(tmp_path / "seg.dcm", folder) == 30 * 144
