"""What a DICOM output repeats of its images: refused by the attribute's name, emptied, or filled in."""

from types import SimpleNamespace

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom import uid

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.volumes.dicom_labels import read_dicom_labels
from medsam_adapt.data.volumes.image_set import ImageSet
from medsam_adapt.data.volumes.io import read_header, read_volume, write_volume
from medsam_adapt.outputs import Segmentation, get_format
from medsam_adapt.outputs._dicom import dicom_names
from medsam_adapt.prediction.plan import Outputs, plan_cases
from tests.data.dicom_files import BIRTH, IDENTIFIER, SECRET, save, series

SAGITTAL = (0, 1, 0, 0, 0, -1)
FORMATS = ("dicom-seg", "rtstruct")
LABEL = np.zeros((4, 5, 6), np.uint8)
LABEL[1:3, 2:4, 1:5], LABEL[3, 0, 2] = 1, 2
BAD_UID = "1.2.abc." + IDENTIFIER


def written(tmp_path, name, slices, names=("liver", "spleen")):
    """The file, its data set, and what our reader makes of it."""
    folder = save(tmp_path / "ct", slices)
    path = tmp_path / f"{name}.dcm"
    get_format(name).write(path, Segmentation(LABEL, list(names), [1, 2]), read_header(folder))
    return pydicom.dcmread(path), *read_dicom_labels(path, folder)


def given_names(dataset):
    items = dataset.get("SegmentSequence") or dataset.StructureSetROISequence
    return [item.get("SegmentLabel") or item.ROIName for item in items]


def remove(item, name):
    delattr(item, name)


def empty(item, name):
    setattr(item, name, "")


def damage(item, name):
    item.add_new(name, "UI", BAD_UID)


@pytest.mark.parametrize("spoil", [remove, empty, damage])
@pytest.mark.parametrize("attribute", ["StudyInstanceUID", "FrameOfReferenceUID", "SeriesInstanceUID"])
@pytest.mark.parametrize("name", FORMATS)
def test_an_unusable_identifier_is_named_before_anything_starts(tmp_path, name, attribute, spoil):
    slices = series()
    for item in slices:
        spoil(item, attribute)
    folder = save(tmp_path / "ct", slices)
    with pytest.raises(InputError, match=f"^{folder}: {attribute} is missing, invalid or not unique") as reported:
        plan_cases(folder, tmp_path / "out", Outputs(name))
    assert not [
        word for word in (SECRET, IDENTIFIER, BIRTH, "1.2.") if word in str(reported.value).replace(str(folder), "")
    ]
    assert not (tmp_path / "out").exists()
    assert plan_cases(folder, tmp_path / "out", Outputs("nifti")).cases


@pytest.mark.parametrize("name", FORMATS)
def test_the_other_cases_go_on(tmp_path, name):
    save(tmp_path / "in/good", series())
    save(tmp_path / "in/bad", series(StudyInstanceUID="", FrameOfReferenceUID=""))
    plan = plan_cases(tmp_path / "in", tmp_path / "out", Outputs(name))
    assert [case.name for case in plan.cases] == ["good"]
    (failed,) = plan.failed
    assert "StudyInstanceUID and FrameOfReferenceUID are missing" in str(failed.error)


@pytest.mark.parametrize("name", FORMATS)
def test_identifiers_of_images_must_be_there_and_unique(tmp_path, name):
    slices = series()
    slices[2].file_meta.MediaStorageSOPInstanceUID = uid.generate_uid()
    slices[2].SOPInstanceUID = ""
    header = read_header(save(tmp_path / "ct", slices))
    with pytest.raises(InputError, match="SOPInstanceUID is missing"):
        get_format(name).check(header)


@pytest.mark.parametrize("name", FORMATS)
def test_a_class_of_image_that_nobody_knows_is_named(tmp_path, name):
    slices = series()
    for item in slices:
        item.SOPClassUID = item.file_meta.MediaStorageSOPClassUID = "1.2.3.4.5"
    with pytest.raises(InputError, match="SOPClassUID is missing, invalid"):
        get_format(name).check(read_header(save(tmp_path / "ct", slices)))


INVALID = {
    "PatientSex": ("CS", "MALE"),
    "StudyDate": ("DA", "20001332"),
    "StudyTime": ("TM", "99:99"),
    "PatientBirthDate": ("DA", "unknown"),
    "PatientAge": ("AS", "old"),
    "SeriesDate": ("DA", "yesterday"),
}


@pytest.mark.parametrize("attribute", INVALID)
@pytest.mark.parametrize("name", FORMATS)
def test_what_may_be_empty_is_emptied_where_it_is_invalid(tmp_path, name, attribute):
    slices = series()
    for item in slices:
        item.add_new(attribute, *INVALID[attribute])
    dataset, label, _ = written(tmp_path, name, slices)
    np.testing.assert_array_equal(label, LABEL)
    assert not dataset.get(attribute)
    assert dataset.PatientID == IDENTIFIER


@pytest.mark.parametrize("missing", ["SliceThickness", "PositionReferenceIndicator", "PatientSex", "StudyID"])
@pytest.mark.parametrize("name", FORMATS)
def test_what_is_optional_may_be_missing(tmp_path, name, missing):
    slices = series()
    for item in slices:
        if missing in item:
            delattr(item, missing)
    dataset, label, _ = written(tmp_path, name, slices)
    np.testing.assert_array_equal(label, LABEL)
    if name == "dicom-seg" and missing == "SliceThickness":
        shared = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        assert float(shared.SliceThickness) == 2.5


@pytest.mark.parametrize("name", FORMATS)
def test_rounded_positions_and_directions_are_no_obstacle(tmp_path, name):
    angle = np.deg2rad(17.3)
    slices = series(orientation=(np.cos(angle), np.sin(angle), 0, 0, 0, -1))
    for index, item in enumerate(slices):
        item.ImagePositionPatient = [f"{float(value):.3f}" for value in item.ImagePositionPatient]
        item.ImageOrientationPatient = [f"{float(value):.{5 + index % 2}f}" for value in item.ImageOrientationPatient]
    _, label, _ = written(tmp_path, name, slices)
    np.testing.assert_array_equal(label, LABEL)


NAMES = {
    "two scripts": ("肝臓", "печень"),
    "one long beginning": ("left " * 20 + "one", "left " * 20 + "other"),
    "a backslash": ("a\\b", "a/b"),
    "upper and lower case": ("x" * 70, "X" * 70),
    "accents": ("Œsophage", "Prostata (äußere)"),
}


@pytest.mark.parametrize("case", NAMES)
@pytest.mark.parametrize("name", FORMATS)
def test_names_come_back_whatever_they_are(tmp_path, name, case):
    slices = series()
    for item in slices:
        item.SpecificCharacterSet, item.PatientName = "ISO_IR 100", "Müller^Jürgen"
    dataset, label, names = written(tmp_path, name, slices, NAMES[case])
    np.testing.assert_array_equal(label, LABEL)
    assert [*names.values()] == [*NAMES[case]]
    assert dataset.SpecificCharacterSet == "ISO_IR 192"
    assert str(dataset.PatientName) == "Müller^Jürgen"
    short = [text.casefold() for text in given_names(dataset)]
    assert len({*short}) == 2
    assert max(map(len, short)) <= 64


def test_names_fit_their_attribute_and_differ():
    long = "y" * 80
    assert dicom_names(["liver", "a\\b", "a/b", "  spaced \n out ", ""]) == [
        "liver",
        "a/b",
        "a/b~2",
        "spaced out",
        "unnamed",
    ]
    names = dicom_names([long] * 12)
    assert len({*names}) == 12
    assert max(map(len, names)) == 64


def test_a_segmentation_of_many_structures_is_read_by_highdicom(tmp_path):
    dataset, _, _ = written(tmp_path, "dicom-seg", series(), NAMES["two scripts"])
    assert [*NAMES["two scripts"]] == [
        highdicom.seg.Segmentation.from_dataset(dataset).get_segment_description(number).segment_label
        for number in (1, 2)
    ]


@pytest.mark.parametrize("name", FORMATS)
def test_of_several_images_the_first_series_is_referred_to(tmp_path, name):
    first, second = (series(modality="MR", orientation=SAGITTAL) for _ in range(2))
    folders = [save(tmp_path / "study/a" / each, slices) for each, slices in (("T2", first), ("ADC", second))]
    images = ImageSet(("T2", "ADC"), tuple(folders))
    record = SimpleNamespace(layout="", class_names=["liver", "spleen"], images=["T2", "ADC"], may_lack_images=False)
    plan = plan_cases(tmp_path / "study", tmp_path / "out", Outputs(name), record=record)
    (case,) = plan.cases
    path = tmp_path / f"{name}.dcm"
    get_format(name).write(path, Segmentation(LABEL, ["liver", "spleen"], [1, 2]), case.header)
    dataset = pydicom.dcmread(path)
    if name == "dicom-seg":
        referenced = dataset.ReferencedSeriesSequence[0]
    else:
        frame = dataset.ReferencedFrameOfReferenceSequence[0]
        referenced = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == first[0].SeriesInstanceUID
    label, names = read_dicom_labels(path, read_header(images))
    np.testing.assert_array_equal(label, LABEL)
    assert {*names.values()} == {"liver", "spleen"}


@pytest.mark.parametrize("name", FORMATS)
def test_a_first_image_that_is_no_series_is_refused(tmp_path, name):
    folder = save(tmp_path / "ADC", series(modality="MR"))
    header = read_header(folder)
    write_volume(tmp_path / "T2.nii.gz", read_volume(folder)[0], header)
    images = read_header(ImageSet(("T2", "ADC"), (tmp_path / "T2.nii.gz", folder)))
    with pytest.raises(InputError, match=r"T2.nii.gz: it is not a DICOM series, which a DICOM output refers to"):
        get_format(name).check(images)
