import gzip
import json
import os
import shutil

import nibabel as nib
import numpy as np
import pytest

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.parts import Part
from medsam_adapt.data.datasets import convert
from medsam_adapt.data.datasets.case_checks import check_cases
from medsam_adapt.data.datasets.cases import find_cases
from medsam_adapt.data.datasets.convert import convert_cases
from medsam_adapt.data.datasets.relabel import Changes
from medsam_adapt.data.volumes.io import read_header, read_label, read_volume
from tests.data.dicom_files import IDENTIFIER, save, segmentation, series
from tests.data.samples import SAMPLES, layout_of
from tests.data.volumes.test_dicom_labels import LABEL, MASKS


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def data(phantoms, tmp_path):
    return shutil.copytree(phantoms, tmp_path / "data")


@pytest.fixture
def with_patients(data):
    """The phantoms as a datalist with patients, images of floating point numbers, and names in the headers."""
    training = []
    for index in range(3):
        path = data / "images" / f"phantom_00{index}.nii.gz"
        image = nib.load(path)
        header = image.header.copy()
        header["descrip"] = b"Jane Doe"
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj) / np.float32(3), image.affine, header), path)
        entry = {"image": f"images/{path.name}", "label": f"labels/{path.name}", "id": f"scan {index}", "patient": "p"}
        training.append(entry)
    labels = json.loads((data / "labels.json").read_text())
    (data / "datalist.json").write_text(json.dumps({"labels": labels, "training": training}))
    return data


def test_a_copy_is_the_same_data_set(with_patients, tmp_path):
    made = convert_cases(with_patients, tmp_path / "out")
    old, new = find_cases(with_patients), find_cases(tmp_path / "out")
    assert (new.layout, new.classes) == ("datalist", old.classes)
    assert [(case.id, case.patient) for case in new.cases] == [(f"scan {index}", "p") for index in range(3)]
    assert check_cases(new).voxels == check_cases(old).voxels
    for before, after in zip(old.cases, new.cases, strict=True):
        (image, header), (copy, copied) = read_volume(before.image), read_volume(after.image)
        np.testing.assert_array_equal(copy, image)
        np.testing.assert_array_equal(copied.affine, header.affine)
        assert nib.load(after.image).header["descrip"].item() == b""
    assert made.unlabelled == ()
    assert files(tmp_path / "out") == {"datalist.json"} | {
        f"{part}/scan {index}.nii.gz" for part in ("images", "labels") for index in range(3)
    }


def test_whole_numbers_stay_small(data, tmp_path):
    convert_cases(data, tmp_path / "out")
    assert nib.load(tmp_path / "out/images/phantom_000.nii.gz").get_data_dtype() == np.int16


def test_labels_are_changed(data, tmp_path):
    changes = Changes({"left kidney": "kidney", "right kidney": "kidney", "spleen": 1, "liver": 3}, False, "map")
    made = convert_cases(data, tmp_path / "out", changes=changes, classes=["kidney", "spleen"])
    assert made.classes == {1: "spleen", 2: "kidney"}
    old, _ = read_label(data / "labels/phantom_000.nii.gz")
    new, _ = read_label(tmp_path / "out/labels/phantom_000.nii.gz")
    np.testing.assert_array_equal(new, np.select([old == 3, (old == 2) | (old == 4)], [1, 2]))
    assert find_cases(tmp_path / "out").classes == made.classes


def test_overlapping_classes_become_masks_and_stay_overlapping(data, tmp_path):
    entry = {"image": "images/phantom_000.nii.gz", "label": {}}
    label = nib.load(data / "labels/phantom_000.nii.gz")
    array = np.asarray(label.dataobj)
    for class_id, mask in ((1, array > 0), (2, array == 3), (5, array == 1)):
        nib.save(nib.Nifti1Image(mask.astype(np.uint8), label.affine), data / f"{class_id}.nii.gz")
        entry["label"][str(class_id)] = f"{class_id}.nii.gz"
    labels = {"1": "any organ", "2": "spleen", "5": "liver/left"}
    (data / "datalist.json").write_text(json.dumps({"labels": labels, "training": [entry]}))
    made = convert_cases(data, tmp_path / "out", changes=Changes({"5": 2, "2": 2, "1": 1}, False, "map"))
    assert made.classes == {1: "any organ", 2: "spleen"}
    new = find_cases(tmp_path / "out")
    assert new.coding.overlapping
    assert new.cases[0].masks[2].name == "2_spleen.nii.gz"
    assert check_cases(new).voxels == {"phantom_000": {1: (array > 0).sum(), 2: np.isin(array, (1, 3)).sum()}}


def test_voxels_that_nobody_labelled_stay_ignored(data, tmp_path):
    (data / "labels.json").write_text(json.dumps({"1": "liver", "2": "ignore", "3": "spleen", "4": "x", "5": "y"}))
    convert_cases(data, tmp_path / "out", changes=Changes({"3": 1}, False, "map"))
    old, new = find_cases(data), find_cases(tmp_path / "out")
    assert (old.coding.ignored, new.coding.ignored) == ((2,), (2,))
    assert new.classes == {1: "spleen"}
    before, after = (read_label(root / "labels/phantom_001.nii.gz")[0] for root in (data, tmp_path / "out"))
    np.testing.assert_array_equal(after == 2, before == 2)


def test_images_without_labels_are_copied(data, tmp_path):
    shutil.rmtree(data / "labels")
    made = convert_cases(data, tmp_path / "out")
    assert made.unlabelled == ("phantom_000", "phantom_001", "phantom_002")
    assert len(find_cases(tmp_path / "out", need_labels=False).cases) == 3


def test_a_copy_goes_on_after_an_interruption(data, tmp_path, monkeypatch):
    written = []
    write_volume = convert.write_volume

    def killed_at_the_third(path, *rest):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path.name)
        write_volume(path, *rest)

    monkeypatch.setattr(convert, "write_volume", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        convert_cases(data, tmp_path / "out")
    assert not (tmp_path / "out" / "datalist.json").exists()
    with pytest.raises(InputError, match=r"begun with other labels or data\. Add --overwrite"):
        convert_cases(data, tmp_path / "out", classes=["liver"])
    newer = (tmp_path / "out/images/phantom_001.nii.gz").stat().st_mtime + 5
    os.utime(data / "images/phantom_001.nii.gz", (newer, newer))  # changed since: it is copied again
    written.clear()
    monkeypatch.setattr(
        convert, "write_volume", lambda path, *rest: (written.append(path.name), write_volume(path, *rest))
    )
    convert_cases(data, tmp_path / "out")
    assert written == ["phantom_001.nii.gz", "phantom_002.nii.gz"]
    assert check_cases(find_cases(tmp_path / "out")).voxels == check_cases(find_cases(data)).voxels
    assert not (tmp_path / "out" / convert.STATE_FILE).exists()


def test_a_finished_copy_is_replaced_only_when_asked(data, tmp_path):
    convert_cases(data, tmp_path / "out")
    with pytest.raises(InputError, match=r"already exists\. Name another folder, or add --overwrite"):
        convert_cases(data, tmp_path / "out")
    convert_cases(data, tmp_path / "out", classes=["liver"], overwrite=True)
    assert find_cases(tmp_path / "out").classes == {1: "liver"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]


def test_problems_are_told_before_anything_is_written(data, tmp_path):
    (data / "images/phantom_000.nii.gz").write_bytes(b"")
    (data / "labels/phantom_002.nii.gz").write_bytes(b"")
    with pytest.raises(
        InputError, match=r"images/phantom_000\.nii\.gz: it is empty[^$]*labels/phantom_002\.nii\.gz: it is empty"
    ):
        convert_cases(data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("inside", ["", "copy", "../.."])
def test_a_copy_is_never_written_into_its_source(data, inside):
    with pytest.raises(InputError, match="lie one in the other"):
        convert_cases(data, data / inside, overwrite=True)
    assert len(files(data)) == 7


def test_what_is_not_ours_is_not_replaced(data, phantoms, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "datalist.json").write_text('{"training": []}')
    with pytest.raises(InputError, match="holds other files"):
        convert_cases(data, tmp_path / "out", overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        convert_cases(data, tmp_path / "file", overwrite=True)


@pytest.mark.parametrize("sample", SAMPLES)
def test_every_layout_is_copied(sample, tmp_path):
    SAMPLES[sample](tmp_path / "data")
    before = find_cases(tmp_path / "data")
    if layout_of(sample) == "image2d":
        with pytest.raises(InputError, match=r"holds pictures, as cju0\.(jpg|png), and a copy holds volumes"):
            convert_cases(tmp_path / "data", tmp_path / "out")
        assert not (tmp_path / "out").exists()
        return
    convert_cases(tmp_path / "data", tmp_path / "out")
    after = find_cases(tmp_path / "out")
    assert [(case.id, case.patient_id) for case in after.cases] == [(case.id, case.patient_id) for case in before.cases]
    assert (after.layout, after.coding.overlapping) == ("datalist", before.coding.overlapping)
    was, now = check_cases(before), check_cases(after)
    assert (now.classes, now.voxels) == (was.classes, was.voxels)


def test_dicom_becomes_nifti_and_names_no_patient(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSAM_ADAPT_HOME", str(tmp_path / "home"))
    slices = series()
    folder = save(tmp_path / "data" / "a" / "CT", slices)
    (tmp_path / "data" / "a" / "SEG").mkdir()
    segmentation(slices, MASKS, ["liver", "spleen"]).save_as(tmp_path / "data" / "a" / "SEG" / "1-1.dcm")
    made = convert_cases(tmp_path / "data", tmp_path / "out", classes=["spleen"])
    (case,) = find_cases(tmp_path / "out").cases
    for path in (case.image, case.label):
        np.testing.assert_allclose(read_header(path).affine, read_header(folder).affine, atol=1e-4)
    np.testing.assert_array_equal(read_volume(case.image)[0], read_volume(folder)[0])
    np.testing.assert_array_equal(read_label(case.label)[0], 2 * (LABEL == 2))
    assert made.classes == {2: "spleen"}
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            assert IDENTIFIER.encode() not in content
            assert IDENTIFIER not in path.name


def test_parts_together_are_the_copy_that_one_process_makes(data, tmp_path):
    convert_cases(data, tmp_path / "one")
    first = convert_cases(data, tmp_path / "out", part=Part(2, 2))
    assert (first.cases, first.finished) == (("phantom_001",), False)
    assert not (tmp_path / "out" / "datalist.json").exists()
    second = convert_cases(data, tmp_path / "out", part=Part(1, 2))
    assert (second.cases, second.finished) == (("phantom_000", "phantom_002"), True)
    assert files(tmp_path / "out") == files(tmp_path / "one")
    for name in files(tmp_path / "one"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    late = convert_cases(data, tmp_path / "out", part=Part(4, 4))  # has no case, and comes when all are there
    assert (late.cases, late.finished) == ((), True)
    assert files(tmp_path / "out") == files(tmp_path / "one")


def test_parts_do_not_mix_two_copies(data, tmp_path):
    convert_cases(data, tmp_path / "out", classes=["liver"], part=Part(1, 2))
    with pytest.raises(InputError, match=r"begun with other labels or data\. Name another folder"):
        convert_cases(data, tmp_path / "out", part=Part(2, 2))
    with pytest.raises(InputError, match="parts cannot replace a copy"):
        convert_cases(data, tmp_path / "out", overwrite=True, part=Part(2, 2))
    convert_cases(data, tmp_path / "out", classes=["liver"], part=Part(2, 2))
    with pytest.raises(InputError, match=r"begun with other labels or data\. Name another folder"):
        convert_cases(data, tmp_path / "out", part=Part(2, 2))
