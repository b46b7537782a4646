"""Data sets of DICOM series: found, their labels converted to one numbering, and trained on as any other."""

import json

import numpy as np
import pytest

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.datasets.case_checks import check_cases
from medsam_adapt.data.datasets.cases import find_cases, select_classes
from medsam_adapt.data.datasets.layouts import dicom
from medsam_adapt.data.datasets.survey import survey
from medsam_adapt.data.volumes import io
from medsam_adapt.data.volumes.label_coding import read_classes
from tests.data.dicom_files import IDENTIFIER, bare_image, save, segmentation, series, set_pixels, structure_set
from tests.data.volumes.test_dicom_labels import LABEL, MASKS, square


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSAM_ADAPT_HOME", str(tmp_path / "home"))


def nifti_label(path, folder):
    path.parent.mkdir(exist_ok=True)
    io.write_label(path, LABEL.astype(np.uint8), folder)


@pytest.mark.parametrize("inner", ["", "image", "CT"])
def test_a_folder_for_each_case_with_its_label_beside_it(tmp_path, inner):
    root = tmp_path / "data"
    for name in "ab":
        nifti_label(root / name / "label.nii.gz", save(root / name / inner, series()))
    (root / "labels.json").write_text(json.dumps({"1": "liver", "2": "spleen"}))
    found = find_cases(root)
    assert (found.layout, [case.id for case in found.cases]) == ("dicom", ["a", "b"])
    assert found.cases[0].image == root / "a" / inner
    assert check_cases(found).voxels["a"] == {1: 6, 2: 12}


def test_images_and_labels_apart(tmp_path):
    root = tmp_path / "data"
    for name in "abc":
        slices = series()
        folder = save(root / "images" / name, slices)
        if name == "a":
            nifti_label(root / "labels" / "a.nii.gz", folder)
        else:
            path = root / "labels" / ("b.dcm" if name == "b" else "c/1-1.dcm")
            path.parent.mkdir(parents=True, exist_ok=True)
            segmentation(slices, MASKS, ["liver", "spleen"]).save_as(path)
    with pytest.raises(InputError, match=r"beside others, which do not. Add labels\.json"):
        find_cases(root)
    (root / "labels.json").write_text(json.dumps({"1": "liver", "2": "spleen"}))
    assert set(map(str, check_cases(find_cases(root)).voxels.values())) == {"{1: 6, 2: 12}"}


def test_structures_are_one_class_by_name_whatever_their_numbers(tmp_path):
    root = tmp_path / "data"
    for name, order in (("a", [0, 1]), ("b", [1, 0])):
        slices = series()
        save(root / name / "CT", slices)
        names = [["Spleen", "left_kidney"], ["left kidney", "spleen"]][name == "b"]
        (root / name / "SEG").mkdir()
        segmentation(slices, MASKS[..., order], names).save_as(root / name / "SEG" / "1-1.dcm")
    found = find_cases(root)
    assert found.classes == {1: "left_kidney", 2: "Spleen"}
    for case in found.cases:
        np.testing.assert_array_equal(read_classes(case.label_source, [1, 2])[0], np.array([0, 2, 1])[LABEL])
    labels = list((tmp_path / "home" / "labels").rglob("*.nii.gz"))
    times = [path.stat().st_mtime_ns for path in labels]
    assert find_cases(root) == found
    assert [path.stat().st_mtime_ns for path in labels] == times
    (root / "labels.json").write_text(json.dumps({"7": "Left Kidney"}))
    assert check_cases(find_cases(root)).voxels["a"] == {7: 12}


def test_contours_that_overlap_become_masks(tmp_path):
    root = tmp_path / "data"
    for name in "ab":
        slices = series()
        header = io.read_header(save(root / name, slices))
        inner, outer = square(header, 0.5, 2.5, 2), square(header, -0.5, 3.5, 2)
        structures = {"lesion": [inner], "liver": [outer]} if name == "a" else {"liver": [inner]}
        structure_set(slices, structures).save_as(root / name / "contours", enforce_file_format=True)
    found = find_cases(root)
    assert (found.classes, found.coding.overlapping) == ({1: "lesion", 2: "liver"}, True)
    check = check_cases(found)
    assert (check.voxels["a"], check.voxels["b"]) == ({1: 4, 2: 16}, {1: 0, 2: 4})
    (root / "labels.json").write_text(json.dumps({"1": "liver"}))
    found = find_cases(root)
    assert (found.coding.overlapping, check_cases(found).voxels["a"]) == (False, {1: 16})


def test_cases_of_one_patient_stay_together_and_nobody_is_named(tmp_path):
    root = tmp_path / "data"
    for name, patient in (("a", "x"), ("b", IDENTIFIER), ("c", IDENTIFIER), ("d", "")):
        nifti_label(root / name / "label.nii.gz", save(root / name, series(PatientID=patient)))
    cases = find_cases(root).cases
    assert [case.patient_id for case in cases] == ["a", "b", "b", "d"]
    assert IDENTIFIER not in repr(cases)
    for name in "abcd":
        save(root / name, series(PatientID="ANONYMOUS"))
        for path in (root / name).glob("IM*"):
            path.touch()
    assert dicom._patients([dicom._Found(name, root / name, None) for name in "ab"]) == {}


def test_what_a_case_lacks_or_has_twice_is_told(tmp_path):
    root = tmp_path / "data"
    folder = save(root / "a", series())
    with pytest.raises(InputError, match=r"a: it has no label. Add label\.nii\.gz"):
        find_cases(root)
    assert find_cases(root, need_labels=False).cases[0].label is None
    nifti_label(root / "a" / "label.nii.gz", folder)
    nifti_label(root / "a" / "more" / "seg.nii.gz", folder)
    with pytest.raises(InputError, match=r"a: it has 2 labels. Keep one"):
        find_cases(root)
    save(root / "a" / "CT", series())
    with pytest.raises(InputError, match=r"several folders of DICOM images. Keep one"):
        find_cases(root)


def test_volumes_and_series_side_by_side_are_layout_folder(tmp_path):
    root = tmp_path / "data"
    folder = save(root / "images" / "a", series())
    nifti_label(root / "labels" / "a.nii.gz", folder)
    nifti_label(root / "images" / "b.nii.gz", folder)
    nifti_label(root / "labels" / "b.nii.gz", folder)
    found = find_cases(root)
    assert (found.layout, [case.image.name for case in found.cases]) == ("folder", ["a", "b.nii.gz"])
    assert check_cases(found).voxels["a"] == {1: 6, 2: 12}


def test_a_datalist_may_name_the_folder_of_a_series(tmp_path):
    root = tmp_path / "data"
    nifti_label(root / "a.nii.gz", save(root / "ct" / "a", series()))
    entries = [{"image": "ct/a", "label": "a.nii.gz"}]
    (root / "datalist.json").write_text(json.dumps({"training": entries}))
    found = find_cases(root)
    assert (found.layout, [case.id for case in found.cases]) == ("datalist", ["a"])
    assert check_cases(found).voxels["a"] == {1: 6, 2: 12}


def drawn(root, name, structures):
    """A case with a structure set of {name: contours in voxels (low, high, slice)}."""
    slices = series(np.zeros((6, 12, 12), np.int16))
    header = io.read_header(save(root / name / "CT", slices))
    contours = {key: [square(header, *each) for each in drawings] for key, drawings in structures.items()}
    structure_set(slices, contours).save_as(root / name / "rt.dcm", enforce_file_format=True)


def test_faults_concern_only_the_classes_in_use(tmp_path):
    root = tmp_path / "data"
    for name in "ab":
        drawn(root, name, {"liver": [(2, 6, 1)], "ptv": [(2, 6, 1.5)], "couch": [(-5, 2, 3)]})
    with pytest.raises(InputError, match=r"rt\.dcm: structure 2 has contours that lie between the slices"):
        check_cases(find_cases(root))
    check = check_cases(select_classes(find_cases(root), ["liver", "couch"]))
    assert check.voxels["a"] == {1: 9, 2: 25}
    assert any("structure 3 reaches beyond the image and is cut off" in note for note in check.notes)
    assert any(note.endswith("It is not among the classes in use.") for note in check.notes)
    (root / "labels.json").write_text(json.dumps({"1": "liver"}))
    check = check_cases(find_cases(root))
    assert check.voxels["b"] == {1: 25}
    assert "left out 1 structure that cannot be used and no class asks for (2)" in check.notes[0]


def test_a_class_that_is_empty_everywhere_is_noted(tmp_path):
    root = tmp_path / "data"
    for name in "ab":
        drawn(root, name, {"liver": [(2, 6, 1)], "isocentre": []})
    assert survey(root).notes == ("class 'isocentre' has no voxel in any case.",)


def test_a_folder_of_screenshots_beside_the_series_is_passed_over(tmp_path):
    root = tmp_path / "data"
    nifti_label(root / "a" / "label.nii.gz", save(root / "a" / "CT", series()))
    screenshot = bare_image("OT", SeriesNumber=99)
    set_pixels(screenshot, np.zeros((4, 4), np.int16))
    save(root / "a" / "screenshots", [screenshot])
    save(root / "a" / "scout", series(np.zeros((1, 8, 8), np.int16), number=1))
    assert find_cases(root).cases[0].image == root / "a" / "CT"
