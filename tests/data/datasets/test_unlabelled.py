"""Which scans of a folder a training may use without labels."""

import shutil

import pytest

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.datasets.cases import find_cases
from medsam_adapt.data.datasets.unlabelled import find_unlabelled
from tests.data import samples


@pytest.fixture
def labelled(tmp_path):
    samples.folder(tmp_path / "data")
    return find_cases(tmp_path / "data")


def scans_in(folder, numbers, name="scan_{}.nii.gz"):
    for number in numbers:
        samples.volume(folder / name.format(number), samples.body(number)[0])
    return folder


def test_scans_of_a_plain_folder_and_of_a_data_set_are_found(labelled, tmp_path):
    plain = find_unlabelled(scans_in(tmp_path / "scans", (7, 8)), labelled)
    assert [(case.id, case.label_source) for case in plain.cases] == [("scan_7", None), ("scan_8", None)]
    assert plain.left_out == ()
    samples.pairs(tmp_path / "more", "images/new_{}.nii.gz", "labels/new_{}.nii.gz", (7, 8))
    with_labels = find_unlabelled(tmp_path / "more", labelled)
    assert [(case.id, case.label_source) for case in with_labels.cases] == [("new_7", None), ("new_8", None)]


def test_cases_of_the_labelled_data_are_left_out_by_name_by_place_and_by_content(labelled, tmp_path):
    folder = scans_in(tmp_path / "scans", (8, 9))
    scans_in(folder, (9,), "case_2.nii.gz")  # another image of the same name
    shutil.copy(labelled.cases[0].image, folder / "renamed.nii.gz")
    (folder / "linked.nii.gz").symlink_to(labelled.cases[1].image)
    found = find_unlabelled(folder, labelled, seen=["scan_9"])
    assert [case.id for case in found.cases] == ["scan_8"]
    assert set(found.left_out) == {"case_2", "linked", "renamed", "scan_9"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder, _: folder / "none", "does not exist"),
        (lambda folder, _: folder, "it has no volume"),
        (lambda folder, _: scans_in(folder, (1,)) / "scan_1.nii.gz", "it is a file"),
        (lambda _, data: data, "no scan beside 3 cases of"),
    ],
)
def test_what_holds_no_further_scan_is_refused(labelled, tmp_path, make, message):
    (tmp_path / "scans").mkdir()
    with pytest.raises(InputError, match=message):
        find_unlabelled(make(tmp_path / "scans", tmp_path / "data"), labelled)


def test_other_images_of_a_case_are_refused(tmp_path):
    for case in ("a", "b", "c"):
        for image in ("T2", "ADC"):
            samples.volume(tmp_path / f"data/images/{case}/{image}.nii.gz", samples.body(0)[0])
        samples.volume(tmp_path / f"data/labels/{case}.nii.gz", samples.body(0)[1])
    labelled = find_cases(tmp_path / "data")
    assert set(labelled.images) == {"ADC", "T2"}
    samples.volume(tmp_path / "scans/d/T2.nii.gz", samples.body(3)[0])
    with pytest.raises(InputError, match="the case d has no image ADC"):
        find_unlabelled(tmp_path / "scans", labelled)
    samples.volume(tmp_path / "scans/d/ADC.nii.gz", samples.body(4)[0])
    (scan,) = find_unlabelled(tmp_path / "scans", labelled).cases
    assert scan.image.names == labelled.images
