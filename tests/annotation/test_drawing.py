"""A label that several authors draw: voxels, authors, undo, and the slices to propagate from."""

import numpy as np
import pytest

from medsam_adapt.annotation.drawing import Author, Drawing
from medsam_adapt.annotation.records import prompts_from, provenance
from medsam_adapt.data.prompts.simulated import SlicePrompt
from medsam_adapt.data.volumes.formats.base import VolumeHeader
from tests.annotation.conftest import painted

PERSON, MODEL = Author("person", "Anna"), Author("model", "sam_nano", "e7a7")
AFFINE = np.diag([-1.0, -2.0, 3.0, 1.0])  # LPS


@pytest.fixture
def drawing(tmp_path):
    header = VolumeHeader(tmp_path / "scan.nii.gz", (20, 16, 6), AFFINE)
    return Drawing.of("scan", np.zeros((20, 16, 6), np.float32), header)


def test_a_slice_is_painted_where_a_radiologist_sees_it(drawing):
    drawing.paint("axial", {2: painted((16, 20), rows=slice(0, 1), columns=slice(0, 1))}, PERSON)
    assert np.argwhere(drawing.label).tolist() == [[19, 15, 2]]  # right and anterior, in RAS order
    assert np.argwhere(drawing.native(drawing.label)).tolist() == [[0, 0, 2]]  # as the file stores it
    assert drawing.spacing == (1, 2, 3)


def test_every_voxel_keeps_its_author(drawing):
    drawing.paint("axial", {2: painted((16, 20))}, MODEL)
    more = painted((16, 20))
    more[4:12, 15:18] = 2
    more[4:6, 6:15] = 0
    drawing.paint("axial", {2: more}, PERSON)
    record = provenance(drawing, {1: "liver", 2: "spleen"}, "proposed")
    assert [(each["kind"], each["name"]) for each in record["authors"]] == [("model", "sam_nano"), ("person", "Anna")]
    assert record["classes"]["liver"]["axial_slices"] == {"2": {"drawn": {"1": 54}, "erased": {"2": 18}}}
    assert record["classes"]["spleen"]["axial_slices"] == {"2": {"drawn": {"2": 24}}}


def test_changes_in_another_plane_are_noted_by_axial_slice(drawing):
    drawing.paint("coronal", {5: painted((6, 20), rows=slice(0, 2), columns=slice(0, 4))}, PERSON)
    slices = provenance(drawing, {1: "liver"}, "open")["classes"]["liver"]["axial_slices"]
    assert slices == {"4": {"drawn": {"1": 4}}, "5": {"drawn": {"1": 4}}}


def test_undo_and_redo_restore_voxels_authors_and_prompts(drawing):
    prompt = SlicePrompt(box=(6, 4, 14, 11))
    drawing.paint("axial", {2: painted((16, 20))}, MODEL, prompts={(1, 2): prompt})
    first = drawing.label.copy(), drawing.drawn_by.copy()
    drawing.paint("axial", {2: painted((16, 20), 2)}, PERSON)
    second = drawing.label.copy(), drawing.drawn_by.copy()
    assert list(drawing.undo()) == [("axial", 2)]
    np.testing.assert_array_equal((drawing.label, drawing.drawn_by), first)
    assert drawing.erased == {}
    drawing.undo()
    assert not drawing.label.any()
    assert drawing.prompts == {}
    assert drawing.undo() == {}
    drawing.redo()
    assert drawing.prompts == {1: {"axial": {2: prompt}}}
    drawing.redo()
    np.testing.assert_array_equal((drawing.label, drawing.drawn_by), second)
    assert drawing.redo() == {}


def test_changes_of_one_step_are_undone_together(drawing):
    for index in (1, 2, 3):
        drawing.paint("axial", {index: painted((16, 20))}, MODEL, step=7)
    drawing.paint("axial", {3: painted((16, 20), 2)}, PERSON, step=8)
    drawing.undo()
    assert np.flatnonzero(drawing.label.any(axis=(0, 1))).tolist() == [1, 2, 3]
    assert sorted(index for _, index in drawing.undo()) == [1, 2, 3]
    assert not drawing.label.any()


def test_slices_to_propagate_from_are_those_that_a_person_worked_on(drawing):
    box = SlicePrompt(box=(5, 3, 16, 13))
    drawing.paint("axial", {1: painted((16, 20))}, MODEL, prompts={(1, 1): box})  # a box: taken as drawn
    drawing.paint("axial", {2: painted((16, 20))}, MODEL)  # propagated
    drawing.paint("axial", {3: painted((16, 20))}, PERSON)  # drawn
    assert drawing.key_boxes(1, "axial") == {1: box, 3: SlicePrompt(box=(6, 4, 14, 11))}
    assert drawing.key_boxes(2, "axial") == {}


def test_prompts_survive_the_record(drawing):
    prompt = SlicePrompt(box=(6, 4, 14, 11), points=((8.0, 5.0, False),))
    drawing.paint("axial", {2: painted((16, 20))}, MODEL, prompts={(1, 2): prompt})
    assert prompts_from(provenance(drawing, {1: "liver"}, "open")["prompts"]) == drawing.prompts


def test_corrected_slices_are_kept_and_emptied_ones_end_the_structure(drawing):
    for index in (1, 2, 3):
        drawing.paint("axial", {index: painted((16, 20))}, MODEL)
    drawing.paint("axial", {2: painted((16, 20), columns=slice(6, 10)), 3: painted((16, 20), 0)}, PERSON)
    assert drawing.key_boxes(1, "axial") == {2: SlicePrompt(box=(6, 4, 9, 11))}
    assert drawing.emptied(1, "axial") == {3}
    drawing.undo()
    assert drawing.key_boxes(1, "axial") == {}
    assert drawing.emptied(1, "axial") == set()
