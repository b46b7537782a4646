"""Every output format, opened again by a reader that is not ours."""

import re
from itertools import product

import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from matplotlib.path import Path as Polygon
from pydicom.sr._concepts_dict import concepts

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.volumes.io import read_header
from medsam_adapt.outputs import Segmentation, format_names, get_format
from medsam_adapt.outputs._anatomy import _TABLE, SIDES, describe
from medsam_adapt.outputs._label_file import write_label_file
from tests.data.dicom_files import save, series
from tests.data.slices.test_geometry import affine_of

NAMES, IDS = ["liver", "right kidney", "Left Kidney", "thingamajig"], [1, 2, 700, 4]
OBLIQUE = np.array([[-0.8, 0.1, 0, 40], [0.1, -0.8, 0.3, 30], [0.05, 0.2, 2.5, -100], [0, 0, 0, 1.0]])
SHAPE = (9, 8, 7)


def blocks():
    """Three structures of different size, the last one absent, in (X, Y, Z)."""
    voxels = np.zeros(SHAPE, np.uint16)
    voxels[1:6, 2:7, 1:5], voxels[2, 3, 2], voxels[7, 1:3, 6] = 1, 2, 700
    return voxels


def exclusive():
    return Segmentation(blocks(), NAMES, IDS)


def overlapping():
    masks = np.stack([blocks() == label_id for label_id in IDS]).astype(np.uint8)
    masks[3, 4:8, 4:8, 2:6] = 1
    return Segmentation(masks, NAMES, IDS)


def image_with(affine, folder):
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.int16), affine), folder / "image.nii.gz")
    return read_header(folder / "image.nii.gz")


@pytest.fixture
def dicom(tmp_path):
    """The header of a DICOM series of SHAPE."""
    stored = np.zeros(SHAPE[::-1], np.int16)
    return read_header(save(tmp_path / "series", series(stored, orientation=(0.6, 0.8, 0, -0.8, 0.6, 0))))


def as_ras(image):
    """Array (X, Y, Z) and RAS affine of a SimpleITK image."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), np.diag([-1, -1, 1, 1]) @ matrix


@pytest.mark.parametrize("affine", [OBLIQUE, affine_of("SPL", (2, 1, 3))], ids=["oblique", "SPL"])
@pytest.mark.parametrize("name", ["nifti", "nrrd", "mha", "seg-nrrd"])
def test_a_label_map_lies_where_the_image_lies(tmp_path, name, affine):
    chosen = get_format(name)
    path = tmp_path / f"case{chosen.SUFFIX}"
    chosen.write(path, exclusive(), image_with(affine, tmp_path))
    if name == "nifti":
        found = nib.load(path)
        voxels, placed = np.asarray(found.dataobj), found.affine
    else:
        voxels, placed = as_ras(sitk.ReadImage(str(path)))
    np.testing.assert_array_equal(voxels, blocks())
    np.testing.assert_allclose(placed, affine, atol=1e-4)
    assert not list(tmp_path.glob(".*"))


def test_slicers_file_names_colours_and_codes_its_segments(tmp_path):
    path = tmp_path / "case.seg.nrrd"
    get_format("seg-nrrd").write(path, exclusive(), image_with(np.eye(4), tmp_path))
    image = sitk.ReadImage(str(path))
    fields = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
    assert [fields[f"Segment{i}_Name"] for i in range(4)] == NAMES
    assert [fields[f"Segment{i}_LabelValue"] for i in range(4)] == [str(i) for i in IDS]
    assert fields["Segment0_Extent"] == "1 5 2 6 1 4"
    assert fields["Segment3_Extent"] == "0 -1 0 -1 0 -1"
    assert (
        len({fields[f"Segment{i}_ID"] for i in range(4)}) == len({fields[f"Segment{i}_Color"] for i in range(4)}) == 4
    )
    assert "SCT^10200004^Liver~^^" in fields["Segment0_Tags"]
    assert "SCT^64033007^Kidney~SCT^7771000^Left" in fields["Segment2_Tags"]
    assert fields["Segmentation_MasterRepresentation"] == "Binary labelmap"
    assert "Segment4_Name" not in fields


def test_slicers_file_holds_overlapping_segments_in_layers(tmp_path):
    path = tmp_path / "case.seg.nrrd"
    get_format("seg-nrrd").write(path, overlapping(), image_with(OBLIQUE, tmp_path))
    image = sitk.ReadImage(str(path))
    assert image.GetNumberOfComponentsPerPixel() == 2
    layers = sitk.GetArrayFromImage(image).transpose(2, 1, 0, 3)
    for index, (_, _, mask) in enumerate(overlapping().structures()):
        layer, value = (int(image.GetMetaData(f"Segment{index}_{key}")) for key in ("Layer", "LabelValue"))
        np.testing.assert_array_equal(layers[..., layer] == value, mask)
    kinds = re.search(rb"\nkinds: (.*)\n", path.read_bytes())[1]
    assert kinds == b"list domain domain domain"


def test_itk_snaps_file_has_a_line_for_each_label(tmp_path):
    write_label_file(tmp_path / "labels.txt", exclusive())
    rows = [line for line in (tmp_path / "labels.txt").read_text().splitlines() if not line.startswith("#")]
    found = [re.fullmatch(r'\s*(\d+)((?:\s+\d+){3})\s+[01]\s+[01]\s+[01]\s+"(.*)"', row) for row in rows]
    assert [(int(row[1]), row[3]) for row in found] == [(0, "Clear Label"), *zip(IDS, NAMES, strict=True)]
    assert all(0 <= int(part) <= 255 for row in found for part in row[2].split())


@pytest.mark.parametrize("make", [exclusive, overlapping])
def test_a_dicom_segmentation_is_read_by_highdicom(tmp_path, dicom, make):
    path = tmp_path / "seg.dcm"
    get_format("dicom-seg").write(path, make(), dicom)
    found = highdicom.seg.segread(path)
    uids = [item.instance_uid for item in dicom.slices]
    frames = found.get_pixels_by_source_instance(
        uids, ignore_spatial_locations=True, assert_missing_frames_are_empty=True
    )
    for index, (name, label_id, mask) in enumerate(make().structures()):
        np.testing.assert_array_equal(frames[..., index].transpose(2, 1, 0), mask)
        described = found.get_segment_description(index + 1)
        assert described.segment_label == name
        assert described.segmented_property_type.value == describe(name, label_id).code.value
    kidney = found.get_segment_description(3).SegmentedPropertyTypeCodeSequence[0]
    assert kidney.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    assert found.StudyInstanceUID == pydicom.dcmread(dicom.slices[0].path).StudyInstanceUID


def test_an_empty_dicom_segmentation_is_written(tmp_path, dicom):
    get_format("dicom-seg").write(tmp_path / "seg.dcm", Segmentation(np.zeros(SHAPE, np.uint8), NAMES, IDS), dicom)
    assert not highdicom.seg.segread(tmp_path / "seg.dcm").pixel_array.any()


def rasterised(contours, dicom):
    """The mask (X, Y, Z) whose voxel centres an odd number of contours encloses."""
    into_voxels = np.linalg.inv(np.diag([-1, -1, 1, 1]) @ dicom.affine)
    mask = np.zeros(SHAPE, bool)
    centres = np.array(list(product(range(SHAPE[0]), range(SHAPE[1]))))
    for contour in contours:
        points = np.reshape(contour.ContourData, (-1, 3)).astype(float)
        voxels = np.column_stack([points, np.ones(len(points))]) @ into_voxels.T
        np.testing.assert_allclose(voxels[:, 2], np.round(voxels[0, 2]), atol=1e-4)
        inside = Polygon(voxels[:, :2]).contains_points(centres).reshape(SHAPE[:2])
        index = round(voxels[0, 2])
        assert contour.ContourImageSequence[0].ReferencedSOPInstanceUID == dicom.slices[index].instance_uid
        mask[:, :, index] ^= inside
    return mask


@pytest.mark.parametrize("make", [exclusive, overlapping])
def test_the_contours_of_a_structure_set_enclose_the_masks(tmp_path, dicom, make):
    get_format("rtstruct").write(tmp_path / "rt.dcm", make(), dicom)
    found = pydicom.dcmread(tmp_path / "rt.dcm")
    assert [region.ROIName for region in found.StructureSetROISequence] == NAMES
    for contour, (_, _, mask) in zip(found.ROIContourSequence, make().structures(), strict=True):
        np.testing.assert_array_equal(rasterised(contour.ContourSequence, dicom), mask)
    contours = found.ROIContourSequence[0].ContourSequence
    assert {item.ContourGeometricType for item in contours} == {"CLOSED_PLANAR"}
    assert len(contours) == 4  # a slice each, though one has a hole
    assert found.FrameOfReferenceUID == dicom.slices[0].frame_of_reference


@pytest.mark.parametrize("name", ["dicom-seg", "rtstruct"])
def test_a_dicom_output_needs_a_dicom_input(tmp_path, name):
    with pytest.raises(InputError, match=r"image\.nii\.gz: it is not a DICOM series.*another --format"):
        get_format(name).write(tmp_path / "out.dcm", exclusive(), image_with(np.eye(4), tmp_path))
    assert not (tmp_path / "out.dcm").exists()


@pytest.mark.parametrize("name", ["dicom-seg", "rtstruct"])
def test_missing_highdicom_is_told(monkeypatch, name):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'medsam-adapt\[dicom\]'"):
        get_format(name).require()


def test_an_unknown_format_is_told():
    assert {"dicom-seg", "mha", "nifti", "nrrd", "rtstruct", "seg-nrrd"} <= {*format_names()}
    with pytest.raises(InputError, match=r"--format nift: there is no such format. Did you mean 'nifti'"):
        get_format("nift")


def test_codes_are_those_of_dicoms_own_dictionary():
    known = {value: meaning for entry in concepts["SCT"].values() for value, (meaning, _) in entry.items()}
    by_code = {}
    for entry in concepts["SCT"].values():
        for value, (meaning, _) in entry.items():
            by_code.setdefault(value, set()).add(meaning.casefold())
    for value, meaning, colour in _TABLE.values():
        assert meaning.casefold() in by_code[value]
        assert all(0 <= part <= 255 for part in colour)
    assert all(side.value in known for side in SIDES.values())


@pytest.mark.parametrize(
    ("name", "code", "side"),
    [
        ("Right Kidney", "64033007", "Right"),
        ("OpticNerve_L", "18234004", "Left"),
        ("postcava", "64131007", None),
        ("left adrenal", "23451007", "Left"),
        ("liver", "10200004", None),
        ("gizmo", "91723000", None),
    ],
)
def test_a_structure_is_known_by_its_name(name, code, side):
    found = describe(name, 7)
    assert (found.code.value, found.side and found.side.meaning) == (code, side)
