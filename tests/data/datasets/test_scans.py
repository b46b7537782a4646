"""What ``predict --input`` takes for images, in every layout that ``train`` knows and in plain folders."""

import shutil

import numpy as np
import pytest

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.datasets.cases import find_cases
from medsam_adapt.data.datasets.layouts import segrap
from medsam_adapt.data.datasets.scans import find_inputs
from tests.data import samples
from tests.data.dicom_files import save, series


def cases_of(root, layout="auto"):
    return {case.id: case.image for case in find_cases(root, layout).cases}


@pytest.mark.parametrize("sample", list(samples.SAMPLES))
def test_every_layout_gives_the_images_that_train_takes(tmp_path, sample):
    samples.SAMPLES[sample](tmp_path / "data")
    found = find_inputs(tmp_path / "data")
    assert found.volumes == cases_of(tmp_path / "data")
    assert f"looks like the layout '{samples.layout_of(sample)}'" in found.notes[0]


@pytest.mark.parametrize("sample", list(samples.SAMPLES))
def test_labels_that_are_damaged_or_lost_do_not_matter(tmp_path, sample):
    samples.SAMPLES[sample](tmp_path / "data")
    images = cases_of(tmp_path / "data")
    labels = [
        path
        for path in (tmp_path / "data").rglob("*")
        if path.is_file() and path.suffix != ".json" and path not in images.values()
    ]
    for number, path in enumerate(sorted(labels)):
        if number % 2:
            path.unlink()
        else:
            path.write_bytes(b"no label")
    assert find_inputs(tmp_path / "data").volumes == images


def test_a_case_folder_of_segrap_is_one_image(tmp_path):
    samples.segrap_masks(tmp_path / "data")
    case = tmp_path / "data" / samples.SEGRAP_CASES / "segrap_0001"
    renamed = shutil.copytree(case, tmp_path / "patient")
    for folder in (case, renamed):
        assert find_inputs(folder).volumes == {folder.name: folder / "image.nii.gz"}
        known = find_inputs(folder, known_layout="segrap:contrast,tumours")
        assert known.volumes == {folder.name: folder / "image_contrast.nii.gz"}
        both = find_inputs(folder, images=segrap.IMAGE_PAIR).volumes[folder.name]
        assert [path.name for path in both.files] == ["image.nii.gz", "image_contrast.nii.gz"]
    for name in segrap.PARTS:
        (case / f"{name}.nii.gz").unlink()
    assert list(find_inputs(case).volumes) == ["segrap_0001"]  # a case of the test set


def test_a_choice_is_taken_from_the_option_or_from_the_run(tmp_path):
    samples.nnunet(tmp_path / "data", channels=("T1", "T2"))
    with pytest.raises(InputError, match=r"trained on one image a case, and .* gives T1, T2 together"):
        find_inputs(tmp_path / "data")
    expected = cases_of(tmp_path / "data", "nnunet:T2")
    assert find_inputs(tmp_path / "data", "nnunet:T2").volumes == expected
    assert find_inputs(tmp_path / "data", known_layout="nnunet:T2").volumes == expected
    assert find_inputs(tmp_path / "data" / "imagesTr", known_layout="nnunet:T2").volumes == expected
    with pytest.raises(InputError, match="one image a case"):
        find_inputs(tmp_path / "data", known_layout="segrap:both")
    (tmp_path / "data" / "imagesTr").rename(tmp_path / "data" / "imagesTs")  # a test set
    found = find_inputs(tmp_path / "data", known_layout="nnunet:T2").volumes
    assert {name: path.name for name, path in found.items()} == {name: path.name for name, path in expected.items()}


def test_amos_asks_for_the_modality(tmp_path):
    samples.amos(tmp_path / "data", (1, 4, 600))
    with pytest.raises(InputError, match="Choose with --layout amos:ct or amos:mr"):
        find_inputs(tmp_path / "data")
    assert list(find_inputs(tmp_path / "data", "amos:mr").volumes) == ["amos_0600"]


def test_folders_of_dicom_cases_however_deep_their_images_lie(tmp_path):
    voxels = np.zeros((4, 18, 20), np.uint16)
    save(tmp_path / "hospital" / "a" / "CT", series(voxels))
    save(tmp_path / "hospital" / "b", series(voxels))
    (tmp_path / "hospital" / "b" / "label.nii.gz").write_bytes(b"damaged")
    expected = {"a": tmp_path / "hospital" / "a" / "CT", "b": tmp_path / "hospital" / "b"}
    assert find_inputs(tmp_path / "hospital").volumes == expected
    assert find_inputs(tmp_path / "hospital" / "b").volumes == {"b": tmp_path / "hospital" / "b"}
    save(tmp_path / "hospital" / "d" / "series", series(voxels))
    samples.volume(tmp_path / "hospital" / "d" / "mask.nii.gz", np.zeros(samples.SHAPE, np.int16))
    assert find_inputs(tmp_path / "hospital" / "d").volumes == {"d": tmp_path / "hospital" / "d" / "series"}
    samples.volume(tmp_path / "hospital" / "c.nii.gz", np.zeros(samples.SHAPE, np.int16))
    save(tmp_path / "hospital" / "d" / "series" / "more", series(voxels))  # within the series
    (tmp_path / "hospital" / "d" / "series" / "label.nii.gz").write_bytes(b"")
    (tmp_path / "hospital" / "d").rename(tmp_path / "d")
    mixed = find_inputs(tmp_path / "hospital").volumes
    assert mixed == {**expected, "c": tmp_path / "hospital" / "c.nii.gz"}


def test_files_named_as_labels_of_others_are_left_out(tmp_path):
    names = ["a.nii.gz", "a_seg.nii.gz", "b.nrrd", "b.seg.nrrd", "Segmentation.seg.nrrd", "c_seg.nii.gz", "d_mask.nii"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    found = find_inputs(tmp_path)
    assert list(found.volumes) == ["a", "b", "c_seg", "d_mask"]  # of c and d there is no image
    (tmp_path / "label.nii.gz").write_bytes(b"")
    (tmp_path / "Left_Kidney.nii.gz").write_bytes(b"")
    masks = set(find_inputs(tmp_path, classes=["left kidney", "liver"]).volumes)
    assert masks == {"a", "b", "c_seg", "d_mask"}
    only = tmp_path / "only"
    only.mkdir()
    (only / "liver.nii.gz").write_bytes(b"")
    assert list(find_inputs(only, classes=["liver"]).volumes) == ["liver"]  # a scan that is called so
    assert "left out 3 files named as labels (Segmentation.seg.nrrd, a_seg.nii.gz, b.seg.nrrd)" in found.notes[0]


def test_a_folder_without_volumes_names_those_below_that_have_some(tmp_path):
    with pytest.raises(InputError, match=r"has no volume \(.*\)\. Give a volume or a folder of volumes\.$"):
        find_inputs(tmp_path)
    for folder in ("scans/2024/ct", "scans/.hidden"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.nii.gz").write_bytes(b"")
    with pytest.raises(InputError, match=r"but folders in it do\. Give \S+/scans/2024/ct\.$"):
        find_inputs(tmp_path / "scans")
    for number in range(5):
        (tmp_path / f"scans/{number}").mkdir()
        (tmp_path / f"scans/{number}/a.nii.gz").write_bytes(b"")
    with pytest.raises(InputError, match=r"Give \S+/scans/0 or \S+/scans/1 or \S+/scans/2 …\.$"):
        find_inputs(tmp_path / "scans")
    (tmp_path / "scans/images").mkdir()
    (tmp_path / "scans/images/a.nii.gz").write_bytes(b"")
    assert list(find_inputs(tmp_path / "scans").volumes) == ["a"]  # layout folder, without labels


@pytest.mark.parametrize("case_id", ["../escape", "a/b", ".hidden", "a\\b"])
def test_an_id_that_would_lead_out_of_the_folder_of_masks_is_refused(tmp_path, case_id):
    samples.volume(tmp_path / "a.nii.gz", np.zeros(samples.SHAPE, np.int16))
    samples.text(tmp_path / "datalist.json", {"training": [{"image": "a.nii.gz", "id": case_id}]})
    for source in (tmp_path, tmp_path / "datalist.json"):
        with pytest.raises(InputError, match="cannot be part of a file name"):
            find_inputs(source)
