import re
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.datasets.case_checks import check_cases
from medsam_adapt.data.datasets.cases import find_cases, select_classes
from medsam_adapt.data.volumes.case import Case, CaseList

AFFINE = np.diag([2.0, 2, 3, 1])
CLASSES = {1: "liver", 2: "left_kidney", 3: "Right Kidney"}


def volume(path, array=None, affine=AFFINE):
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(np.ones((4, 5, 6), np.uint8) if array is None else array, affine), path)


def label_of(*ids):
    label = np.zeros((4, 5, 6), np.uint8)
    for z, class_id in enumerate(ids):
        label[:, :, z] = class_id
    return label


@pytest.fixture
def data(tmp_path):
    for name, ids in (("a", (1, 1, 2)), ("b", (2,))):
        volume(tmp_path / f"images/{name}.nii.gz")
        volume(tmp_path / f"labels/{name}.nii.gz", label_of(*ids))
    return tmp_path


def named(root):
    return replace(find_cases(root), classes=dict(CLASSES))


@pytest.mark.parametrize(
    ("layout", "sentence"),
    [
        ("mds", "--layout mds: there is no such layout. Did you mean 'msd'? Choose auto, adome"),
        ("zzz", "--layout zzz: there is no such layout. Choose"),
    ],
)
def test_an_unknown_layout_is_told_with_the_nearest(tmp_path, layout, sentence):
    with pytest.raises(InputError, match=re.escape(sentence)):
        find_cases(tmp_path / "missing", layout)


def test_no_such_folder_no_layout_and_no_cases_are_told(tmp_path):
    with pytest.raises(InputError, match=f"^{tmp_path}/x: it does not exist. Give the folder"):
        find_cases(tmp_path / "x")
    with pytest.raises(InputError, match=f"^{tmp_path}: its layout is not known. Arrange it.*folder .images/ and lab"):
        find_cases(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    with pytest.raises(InputError, match=f"^{tmp_path}: it holds no cases in layout folder. Add volumes"):
        find_cases(tmp_path, "folder")


def test_classes_are_selected_by_name_in_any_spelling(data):
    chosen = select_classes(named(data), ["RIGHT_kidney", "liver"])
    assert chosen.classes == {1: "liver", 3: "Right Kidney"}
    assert chosen.unused == {2: "left_kidney"}
    assert check_cases(chosen).voxels["b"] == {1: 0, 3: 0}  # class 2 is background now, and no problem


def test_an_unknown_class_is_told_with_the_nearest_and_the_known(data):
    with pytest.raises(InputError, match=r"no class 'livr'\. Did you mean 'liver'\? Choose from liver, left_kidney"):
        select_classes(named(data), ["livr"])
    with pytest.raises(InputError, match=r"no names to choose from\. Add labels\.json"):
        select_classes(find_cases(data), ["liver"])


def test_check_counts_voxels_and_names_what_is_absent(data):
    seen = []
    check = check_cases(named(data), seen.append)
    assert check.voxels == {"a": {1: 40, 2: 20, 3: 0}, "b": {1: 0, 2: 20, 3: 0}}
    assert check.absent_classes() == ("Right Kidney",)
    assert check.absent_classes(["b"]) == ("liver", "Right Kidney")
    assert check.headers["a"].spacing == (2.0, 2.0, 3.0)
    assert seen == ["a", "b"]


def test_classes_without_names_are_named_by_the_ids_found(data):
    assert check_cases(find_cases(data)).classes == {1: "class_1", 2: "class_2"}


def test_images_without_labels_have_only_their_headers_checked(data):
    check = check_cases(CaseList("folder", data, (Case("a", data / "images/a.nii.gz"),), dict(CLASSES)))
    assert check.voxels == {}
    assert list(check.headers) == ["a"]


@pytest.mark.parametrize(("shift", "fits"), [(0.1, True), (0.5, False)])
def test_image_and_label_a_tenth_of_a_voxel_apart_are_refused(data, shift, fits):
    moved = AFFINE.copy()
    moved[0, 3] = shift
    volume(data / "labels/a.nii.gz", label_of(1), moved)
    if fits:
        check_cases(named(data))
    else:
        with pytest.raises(
            InputError, match=r"labels/a\.nii\.gz: it lies up to 0\.5 mm from its image a\.nii\.gz\. Resample"
        ):
            check_cases(named(data))


def test_all_problems_of_all_cases_are_told_at_once(data):
    volume(data / "labels/a.nii.gz", np.ones((4, 5, 7), np.uint8))
    volume(data / "labels/b.nii.gz", label_of(1, 9))
    volume(data / "images/c.nii.gz")
    (data / "labels/c.nii.gz").write_bytes(b"")
    with pytest.raises(InputError) as reported:
        check_cases(named(data))
    shape, outside, empty = str(reported.value).splitlines()
    assert re.search(r"labels/a\.nii\.gz: it has 4 × 5 × 7 voxels and its image a\.nii\.gz 4 × 5 × 6\. Resample", shape)
    assert re.search(r"labels/b\.nii\.gz: it holds the label 9, which is outside the label map\. Correct", outside)
    assert re.search(r"labels/c\.nii\.gz: it is empty\. Copy", empty)


def test_no_foreground_anywhere_is_told(data):
    for name in "ab":
        volume(data / f"labels/{name}.nii.gz", label_of())
    with pytest.raises(InputError, match=f"^{data}: no case has a labelled voxel of liver, .*. Check"):
        check_cases(named(data))
    with pytest.raises(InputError, match=f"^{data}: no case has a labelled voxel. Check"):
        check_cases(find_cases(data))
