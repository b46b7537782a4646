"""A folder of scans: classes, statuses, files, and what a later session finds."""

import json
import time

import nibabel as nib
import numpy as np
import pytest

from medsam_adapt.annotation.drawing import Author
from medsam_adapt.annotation.opening import open_session
from medsam_adapt.core.errors import InputError
from medsam_adapt.data.datasets.cases import find_cases
from medsam_adapt.data.prompts.simulated import SlicePrompt
from tests.annotation.conftest import CLASSES, painted
from tests.data.dicom_files import save, series

MODEL = Author("model", "sam_nano")


def draw(session, scan, index=3, value=1, author=None):
    with session.changing(scan) as drawing:
        shape = drawing.slices("axial").shape[1:]
        drawing.paint("axial", {index: painted(shape, value)}, author or session.person)
    return drawing


def test_a_draft_becomes_a_case_of_a_data_set_when_it_is_finished(session, scans):
    assert {each["status"] for each in session.listing()} == {"open"}
    draw(session, "phantom_001")
    session.save()
    assert session.status("phantom_001") == "proposed"
    assert not (session.output / "labels").exists()
    assert session.set_labelled("phantom_001", True) == "labelled"
    cases = find_cases(session.training_folder(), "folder")
    assert [case.id for case in cases.cases] == ["phantom_001"]
    assert cases.classes == {1: "liver", 2: "spleen"}
    label, image = nib.load(cases.cases[0].label), nib.load(scans / "phantom_001.nii.gz")
    np.testing.assert_array_equal(label.affine, image.affine)
    assert label.shape == image.shape
    assert np.count_nonzero(label.get_fdata() == 1) == 72
    assert not session.files.draft("phantom_001").exists()


def test_a_label_that_is_not_finished_any_more_leaves_the_data_set(session):
    draw(session, "phantom_000")
    session.set_labelled("phantom_000", True)
    assert session.set_labelled("phantom_000", False) == "proposed"
    assert list((session.output / "images").iterdir()) == []
    assert list((session.output / "labels").iterdir()) == []
    with pytest.raises(InputError, match="no scan is labelled yet"):
        session.training_folder()


def test_a_later_session_finds_voxels_authors_and_prompts(session, scans):
    drawing = draw(session, "phantom_000", author=MODEL)
    draw(session, "phantom_000", index=4, value=2)
    session.save()
    later = open_session(scans)
    assert later.classes == {1: "liver", 2: "spleen"}
    assert later.status("phantom_000") == "proposed"
    found = later.drawing("phantom_000")
    np.testing.assert_array_equal(found.label, drawing.label)
    np.testing.assert_array_equal(found.drawn_by, drawing.drawn_by)
    assert found.authors == [MODEL, session.person]
    record = json.loads(session.files.provenance("phantom_000").read_text())
    assert record["classes"]["spleen"]["axial_slices"] == {"4": {"drawn": {"2": 72}}}


def test_changes_are_saved_without_being_asked(session):
    session.start()
    try:
        draw(session, "phantom_000")
        deadline = time.monotonic() + 60
        while not session.files.draft("phantom_000").is_file() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert session.files.draft("phantom_000").is_file()
    finally:
        session.close()


def test_two_servers_do_not_share_an_output_folder(session, scans):
    session.start()
    try:
        with pytest.raises(InputError, match=r"is being annotated by"):
            _hold_elsewhere(session.output)
    finally:
        session.close()


def _hold_elsewhere(folder):
    """Try to lock the folder in another process, since a process may lock twice."""
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from medsam_adapt.core.folder_lock import FolderLock\n"
        "try: FolderLock(Path(sys.argv[1]), 'annotated').hold()\n"
        "except Exception as error: print(error)"
    )
    finished = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    if finished.stdout:
        raise InputError(finished.stdout)


def test_scans_that_leave_the_memory_are_saved(session):
    for scan in ("phantom_000", "phantom_001", "phantom_002"):
        draw(session, scan)
    assert session.files.draft("phantom_000").is_file()
    assert session.drawing("phantom_000").label.any()


def test_labels_that_came_with_the_scans_count_as_labelled(phantoms, tmp_path):
    session = open_session(phantoms, ["vein"], tmp_path / "out")
    assert {each["status"] for each in session.listing()} == {"labelled"}
    assert session.classes[1] == "liver"
    assert session.classes[6] == "vein"
    cases = find_cases(session.training_folder(), "folder")
    assert len(cases.cases) == 3
    first = cases.cases[0]
    expected = nib.load(phantoms / "labels" / f"{first.id}.nii.gz").get_fdata()
    np.testing.assert_array_equal(nib.load(first.label).get_fdata(), expected)
    assert session.drawing(first.id).authors == [Author("imported", f"{first.id}.nii.gz")]


def whole(session, scan, value=2):
    return np.full(session.drawing(scan).header.shape, value, np.uint8)


def test_a_model_never_replaces_what_a_person_drew(session):
    label = whole(session, "phantom_000", 1)
    assert session.propose("phantom_000", label, MODEL)
    assert session.status("phantom_000") == "proposed"
    draw(session, "phantom_001")
    assert not session.propose("phantom_001", label, MODEL)
    assert session.drawing("phantom_001").label.sum() == 72
    assert session.propose("phantom_000", whole(session, "phantom_000"), MODEL)  # a later model, over the earlier one
    assert (session.drawing("phantom_000").label == 2).all()


def boxed(session, scan):
    """A structure of which a person drew the box, and a model the mask."""
    with session.changing(scan) as drawing:
        values = painted(drawing.slices("axial").shape[1:])
        drawing.paint("axial", {3: values}, MODEL, prompts={(1, 3): SlicePrompt(box=(6, 4, 14, 11))})
    return drawing


def test_what_a_model_drew_in_a_persons_box_stays(session):
    drawing = boxed(session, "phantom_000")
    assert {each.kind for each in drawing.authors} == {"model"}
    assert not session.propose("phantom_000", whole(session, "phantom_000"), MODEL)
    assert drawing.label.sum() == 72


def test_a_whole_label_fills_what_nobody_worked_on(session):
    drawing = boxed(session, "phantom_000")
    label = whole(session, "phantom_000")
    label[:10] = 1  # more of what the person pointed at, which is not taken
    assert session.propose("phantom_000", label, MODEL, worked_on="keep")
    assert np.count_nonzero(drawing.label == 1) == 72
    expected = np.count_nonzero((label == 2) & (drawing.native(drawing.label) != 1))
    assert np.count_nonzero(drawing.label == 2) == expected
    assert drawing.prompts[1]["axial"][3].box == (6, 4, 14, 11)
    drawing.undo()
    assert np.count_nonzero(drawing.label) == 72


def test_a_whole_label_replaces_a_persons_work_only_when_asked_and_can_be_undone(session):
    drawing = boxed(session, "phantom_000")
    before = drawing.label.copy()
    assert session.propose("phantom_000", whole(session, "phantom_000"), MODEL, worked_on="replace")
    assert (drawing.label == 2).all()
    assert drawing.worked_on() == set()
    drawing.undo()
    np.testing.assert_array_equal(drawing.label, before)
    assert drawing.worked_on() == {1}


def test_a_label_that_a_person_accepted_stays_after_it_was_taken_back(session, scans):
    assert session.propose("phantom_000", whole(session, "phantom_000", 1), MODEL)
    session.set_labelled("phantom_000", True)
    label = whole(session, "phantom_000")
    assert not session.propose("phantom_000", label, MODEL, worked_on="replace")  # it is finished
    session.set_labelled("phantom_000", False)
    assert not session.propose("phantom_000", label, MODEL)
    later = open_session(scans)  # nor in a later session
    assert not later.propose("phantom_000", label, MODEL)
    assert (later.drawing("phantom_000").label == 1).all()


@pytest.mark.parametrize(
    ("author", "algorithm"), [(None, "MANUAL"), (MODEL, "AUTOMATIC")], ids=["by a person", "by a model"]
)
def test_a_dicom_series_gets_a_dicom_segmentation(tmp_path, author, algorithm):
    pytest.importorskip("highdicom", reason="highdicom, which writes DICOM segmentations, is not installed")
    import pydicom

    slices = series()
    save(tmp_path / "scans" / "patient", slices)
    session = open_session(tmp_path / "scans", CLASSES)
    (scan,) = session.scans
    with session.changing(scan) as drawing:
        shape = drawing.slices("axial").shape[1:]
        values = painted(shape, 2, slice(1, 3), slice(1, 3))
        drawing.paint("axial", {2: values}, author or session.person)
    session.set_labelled(scan, True)
    assert session.notes == []
    written = pydicom.dcmread(session.files.dicom_seg(scan))
    assert written.SegmentSequence[1].SegmentLabel == "spleen"
    assert written.SegmentSequence[1].SegmentAlgorithmType == algorithm
    assert written.pixel_array.sum() == 4
    label = nib.load(session.files.label(scan))
    np.testing.assert_allclose(label.affine, drawing.header.affine)
    assert [case.id for case in find_cases(session.training_folder()).cases] == [scan]


def test_what_is_missing_is_named(tmp_path, scans):
    with pytest.raises(InputError, match=r"it is not a folder\. Give a folder of scans"):
        open_session(tmp_path / "nothing", CLASSES)
    with pytest.raises(InputError, match=r"^--classes: none are given"):
        open_session(scans)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="it has no volume"):
        open_session(tmp_path / "empty", CLASSES)


def test_an_earlier_session_with_other_classes_is_refused(phantoms, tmp_path):
    (tmp_path / "labels.json").write_text('{"1": "heart"}')
    with pytest.raises(InputError, match="called label 1 'heart', and the folder calls it 'liver'"):
        open_session(phantoms, (), tmp_path)
