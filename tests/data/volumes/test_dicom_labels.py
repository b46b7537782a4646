"""DICOM segmentations, written with highdicom, and structure sets, on the grid of their series."""

import sys

import numpy as np
import pytest
from pydicom import uid

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.volumes import io
from medsam_adapt.data.volumes.dicom_labels import read_dicom_labels, structure_names
from tests.data.dicom_files import AXIAL, BIRTH, IDENTIFIER, OBLIQUE, SECRET, save, segmentation, series, structure_set

MASKS = np.zeros((6, 5, 4, 2), np.uint8)  # slices, rows, columns, structures
MASKS[1:4, 1:3, 2, 0] = 1
MASKS[3:5, 3:, 1:, 1] = 1
LABEL = (MASKS[..., 0] + 2 * MASKS[..., 1]).transpose(2, 1, 0)
NAMES = {1: "liver", 2: "spleen"}


def refused(path, folder, sentence):
    with pytest.raises(InputError, match=sentence) as told:
        read_dicom_labels(path, folder)
    assert told.value.__cause__ is None
    assert not [word for word in (SECRET, IDENTIFIER, BIRTH, "1.2.826") if word in str(told.value)]


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
    with pytest.raises(InputError, match=r"overlap.*export each"):
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
    refused(path, folder, "drawn on another series.*give the label")
    for shift, sentence in (((0.3, 0, 0), "another grid.*resample"), ((2 * 0.9, 0, 0), "reaches beyond.*give")):
        moved = series(origin=np.array((-30.0, -40.0, 100.0)) + shift)
        for item in moved:
            item.FrameOfReferenceUID = slices[0].FrameOfReferenceUID
        segmentation(moved, MASKS, NAMES.values()).save_as(path)
        refused(path, folder, sentence)
    for contour, sentence in (
        (square(header, 0, 2, 1.5), "between the slices"),
        (square(header, 0, 2, 9), "reaches beyond"),
        (square(header, 0, 90, 1), "reaches beyond"),
        (place(header, (0, 0, 0), (3, 0, 3), (3, 3, 3)), "or across them"),
    ):
        structure_set(slices, {"a": [contour]}).save_as(path, enforce_file_format=True)
        refused(path, folder, sentence)


def test_files_that_are_no_labels_are_refused(tmp_path):
    slices = series()
    folder = save(tmp_path / "ct", slices)
    refused(tmp_path / "none.dcm", folder, "does not exist")
    slices[0].save_as(tmp_path / "ct.dcm")
    refused(tmp_path / "ct.dcm", folder, r"no DICOM segmentation \(SEG\)")
    twice = structure_set(slices, {"a": [], "b": []})
    twice.StructureSetROISequence[1].ROIName = "a"
    twice.save_as(tmp_path / "twice.dcm", enforce_file_format=True)
    refused(tmp_path / "twice.dcm", folder, "two structures of the same name.*give")
    damaged = structure_set(slices, {"a": [square(io.read_header(folder), 0, 2, 1)]})
    damaged.ROIContourSequence[0].ContourSequence[0].ContourData = ["1", "2"]
    damaged.save_as(tmp_path / "bad.dcm", enforce_file_format=True)
    refused(tmp_path / "bad.dcm", folder, "damaged perhaps")
    odd = structure_set(slices, {"a": []})
    odd.ROIContourSequence[0].ReferencedROINumber = 77
    odd.ROIContourSequence[0].ContourSequence = damaged.ROIContourSequence[0].ContourSequence
    odd.file_meta.MediaStorageSOPInstanceUID = uid.generate_uid()
    odd.save_as(tmp_path / "odd.dcm", enforce_file_format=True)
    refused(tmp_path / "odd.dcm", folder, "damaged perhaps")


def test_a_segmentation_without_highdicom_is_told_what_to_install(tmp_path, monkeypatch):
    slices = series()
    folder = save(tmp_path / "ct", slices)
    segmentation(slices, MASKS, NAMES.values()).save_as(tmp_path / "seg.dcm")
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(InputError, match=r"pip install \"medsam-adapt\[dicom\]\""):
        read_dicom_labels(tmp_path / "seg.dcm", folder)
