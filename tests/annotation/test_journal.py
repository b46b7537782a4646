"""The journal: what a crash leaves of a label, also of a large one while its file is being written."""

import os

import nibabel as nib
import numpy as np
import pytest

from medsam_adapt.annotation.drawing import Author, Drawing
from medsam_adapt.annotation.journal import Journal
from medsam_adapt.annotation.opening import open_session
from medsam_adapt.data.prompts.simulated import SlicePrompt
from medsam_adapt.data.volumes.formats.base import VolumeHeader
from tests.annotation.conftest import CLASSES, painted
from tests.warm import running_anew

PERSON, MODEL = Author("person", "Anna"), Author("model", "sam_nano", "e7a7")
LARGE = (256, 256, 24)  # that writing it takes long is simulated
AFTER = 8  # changes that arrive while a label is being written


def made(folder, shape=(20, 16, 6)):
    header = VolumeHeader(folder / "scan.nii.gz", shape, np.diag([-1.0, -2.0, 3.0, 1.0]))
    return Drawing.of("scan", np.zeros(shape, np.float32), header)


def equal(first, second):
    """Whether two drawings have the same label, authors and records."""
    for values in ("label", "drawn_by"):
        np.testing.assert_array_equal(getattr(first, values), getattr(second, values))
    names = ("authors", "prompts", "edited", "erased", "accepted")
    assert [getattr(first, each) for each in names] == [getattr(second, each) for each in names]


def draw(journal, drawing):
    """Changes of three planes, one of them undone, each written to the journal."""
    prompt = SlicePrompt(box=(6, 4, 14, 11), points=((3.0, 4.0, True),))
    for change in (
        lambda: drawing.paint("axial", {2: painted((16, 20)), 3: painted((16, 20), 2)}, MODEL, 1, {(1, 2): prompt}),
        lambda: drawing.paint("axial", {2: painted((16, 20), 2, slice(5, 9))}, PERSON, 2),
        lambda: drawing.paint("coronal", {5: painted((6, 20), 1, slice(0, 4), slice(0, 12))}, PERSON, 3),
        lambda: drawing.paint("sagittal", {9: painted((6, 16), 0)}, PERSON, 4),
        drawing.undo,
    ):
        change()
        journal.append(drawing)


def test_changes_are_found_again_voxel_for_voxel(tmp_path):
    journal, drawing = Journal(tmp_path / "journal"), made(tmp_path)
    draw(journal, drawing)
    assert drawing.erased
    found = made(tmp_path)
    assert Journal(tmp_path / "journal").replay(found) == []
    equal(found, drawing)
    assert found.version == drawing.version
    assert found.version > found.saved  # so that the label is written whole


def test_changes_that_a_label_has_already_do_no_harm(tmp_path):
    journal, drawing = Journal(tmp_path / "journal"), made(tmp_path)
    draw(journal, drawing)
    found = drawing.snapshot()
    assert Journal(tmp_path / "journal").replay(found) == []
    equal(found, drawing)


def test_files_of_a_label_that_is_written_are_removed_and_later_ones_stay(tmp_path):
    journal, drawing = Journal(tmp_path / "journal"), made(tmp_path)
    draw(journal, drawing)
    following = journal.begin_file("scan")
    written = drawing.snapshot()
    drawing.paint("axial", {0: painted((16, 20))}, PERSON)
    journal.append(drawing)
    journal.remove_before("scan", following)
    assert [path.name for path in journal.folder.iterdir()] == [f"scan.{following:06d}.jsonl"]
    assert Journal(journal.folder).replay(written) == []
    equal(written, drawing)
    # A scan whose name begins in the same way is another one.
    assert not Journal(journal.folder).has("scan.000001")
    assert Journal(journal.folder).scans() == ["scan"]


@pytest.mark.parametrize("cut", [1, 40, 200], ids=["newline", "end", "middle"])
def test_a_damaged_last_change_is_left_out_with_a_note(tmp_path, cut):
    journal, drawing = Journal(tmp_path / "journal"), made(tmp_path)
    draw(journal, drawing)
    before = drawing.snapshot()
    drawing.paint("axial", {1: painted((16, 20), 2)}, PERSON)
    journal.append(drawing)
    (path,) = journal.folder.iterdir()
    path.write_bytes(path.read_bytes()[:-cut])
    found = made(tmp_path)
    notes = Journal(journal.folder).replay(found)
    if cut == 1:  # the line is whole without its end
        assert notes == []
        equal(found, drawing)
        return
    assert notes == [
        f"{path}: left out 1 change of the label, damaged, and took 5 others. Check what was drawn last on scan."
    ]
    equal(found, before)


def test_a_change_of_another_scan_is_left_out(tmp_path):
    journal, drawing = Journal(tmp_path / "journal"), made(tmp_path)
    draw(journal, drawing)
    other = made(tmp_path, (20, 16, 7))
    (note,) = Journal(journal.folder).replay(other)
    assert "left out 5 changes of the label, damaged, and took 0 others" in note
    assert not other.label.any()


def test_a_line_that_a_full_disk_cut_off_is_followed_by_a_whole_one(tmp_path):
    journal, drawing = Journal(tmp_path / "journal"), made(tmp_path)
    drawing.paint("axial", {1: painted((16, 20))}, PERSON)
    journal.append(drawing)
    (path,) = journal.folder.iterdir()
    path.write_bytes(path.read_bytes()[:-30])  # as if the write had failed,
    drawing.changed.add(("axial", 1))  # and the change were to be written again
    drawing.paint("axial", {2: painted((16, 20))}, PERSON)
    journal.append(drawing)
    found = made(tmp_path)
    (note,) = Journal(journal.folder).replay(found)
    assert "left out 1 change of the label, damaged" in note
    equal(found, drawing)


def test_a_session_takes_over_the_journal_when_it_starts(session, scans):
    session.start()
    session._stopped.set()  # nothing is written whole from here on,
    session._saver.join()
    with session.changing("phantom_001") as drawing:
        drawing.paint("axial", {3: painted((36, 40), 2)}, session.person)
    session._folder_lock.release()  # and the server is gone
    assert not session.files.draft("phantom_001").exists()

    later = open_session(scans)
    assert later.status("phantom_001") == "proposed"
    later.start()
    try:
        assert later.files.draft("phantom_001").is_file()
        assert not later.files.journal.has("phantom_001")
        equal(later.drawing("phantom_001"), drawing)
        assert later.notes == []
    finally:
        later.close()


def test_a_label_that_came_with_its_scan_counts_as_labelled_with_a_journal_as_well(phantoms, tmp_path):
    session = open_session(phantoms, (), tmp_path / "out")
    scan = next(iter(session.scans))
    session.files.journal.folder.mkdir(parents=True)
    drawing = session.drawing(scan)
    drawing.paint("axial", {3: painted(drawing.slices("axial").shape[1:])}, session.person)
    session.files.journal.append(drawing)
    later = open_session(phantoms, (), tmp_path / "out")
    assert later.status(scan) == "labelled"
    equal(later.drawing(scan), drawing)


def test_a_journal_that_cannot_be_written_is_noted(session, tmp_path):
    session.start()
    session.files.journal.folder.write_text("a file where the folder should be")
    try:
        with session.changing("phantom_001") as drawing:
            drawing.paint("axial", {3: painted((36, 40), 2)}, session.person)
        assert any("changes cannot be written" in note and "Free disk space." in note for note in session.notes)
        assert drawing.label.any()
    finally:
        session.files.journal.folder.unlink()
        session.close()
    assert session.files.draft("phantom_001").is_file()


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL on Windows")
@pytest.mark.parametrize("whole", [0, 1], ids=["before the label is whole", "between the label and its authors"])
def test_a_server_killed_while_it_writes_a_large_label_loses_nothing_that_it_answered(tmp_path, whole):
    scans, output = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    nib.save(nib.Nifti1Image(np.zeros(LARGE, np.int16), np.diag([0.7, 0.7, 2.0, 1.0])), scans / "ct.nii.gz")
    with running_anew(DRAWING, scans, output, whole) as (_, out):
        left = AFTER
        while left:  # changes after the writing began
            line = out.readline()
            assert line, "the server ended"
            answered, is_writing = map(int, line.split())
            left -= is_writing
    assert (output / "drafts" / "ct.nii.gz").is_file() == bool(whole)
    assert not (output / "provenance" / "ct.nii.gz").exists()
    found = open_session(scans, output=output).drawing("ct")
    session = open_session(scans, CLASSES, tmp_path / "expected")
    expected = session.drawing("ct")
    for number in range(found.version):
        stroke(expected, number, session.person)
    assert found.version > answered
    equal(found, expected)


# A server whose label never becomes whole: writing stops after so many files. It prints the number of every change that
# it would have answered, and whether the writing has begun.
DRAWING = """
import sys, threading
from pathlib import Path
from medsam_adapt.annotation import label_files
from medsam_adapt.annotation.opening import open_session
from tests.annotation.test_journal import CLASSES, stroke

files, stuck, write = int(sys.argv[3]), threading.Event(), label_files.write_label

def write_some(*arguments):
    global files
    if not files:
        stuck.set()
        threading.Event().wait()
    files -= 1
    write(*arguments)

label_files.write_label = write_some
session = open_session(Path(sys.argv[1]), CLASSES, Path(sys.argv[2]))
session.drawing("ct")
session.start()
for number in range(10_000):
    is_stuck = stuck.is_set()
    with session.changing("ct") as drawing:
        stroke(drawing, number, session.person)
    print(number, int(is_stuck), flush=True)
    stuck.wait(0.05)
"""


def stroke(drawing, number, person):
    """Change ``number`` of a long session: circles by a person and a model in two planes, and an undo now and then."""
    if number % 7 == 6:
        drawing.undo()
        return
    axis = "coronal" if number % 5 == 4 else "axial"
    count, rows, columns = drawing.slices(axis).shape
    index = number * 13 % count
    y, x = np.ogrid[:rows, :columns]
    disk = (y - rows / 2) ** 2 + (x - columns / 2 - number) ** 2 < (rows / 4) ** 2
    values = drawing.slices(axis)[index].copy()
    values[disk] = 1 + number % 2
    author = MODEL if number % 3 == 0 else person
    prompts = {(1, index): SlicePrompt(box=(1.0, 2.0, 30.0, 40.0))} if number % 4 == 0 else {}
    drawing.paint(axis, {index: values}, author, number, prompts)
