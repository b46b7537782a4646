"""Where a class may be that nobody annotated: by its distances from a class that both cases have."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medsam_adapt.data.slices.plausible_slices import mark_plausible
from medsam_adapt.data.slices.slice_store import StoredCase
from tests.data import samples
from tests.slicing import training_data

BRAIN, JAW = 1, 2


def case(brain, jaw, slices=60, unannotated=()):
    """A brain of three slices around one, and a jaw between two slices."""
    voxels = np.zeros((slices, 3), np.int64)
    voxels[brain - 1 : brain + 2, BRAIN] = 5
    if not unannotated:
        voxels[jaw[0] : jaw[1] + 1, JAW] = 9
    return SimpleNamespace(voxels=voxels, unannotated=unannotated, plausible=None)


def test_a_class_is_looked_for_at_its_distances_from_a_neighbour():
    """The jaw begins 8 to 12 mm behind the brain and ends 18 to 20 mm behind it; a quarter of these 12 mm is added."""
    cases = {
        "a": case(10, (20, 30)),
        "b": case(20, (28, 39)),
        "c": case(5, (8, 14), slices=30),  # of twice the distance between slices, in mm: 10, then 16 to 28
        "d": case(30, None, unannotated=(JAW,)),
    }
    cases["c"].voxels[:] = 0
    cases["c"].voxels[4:7, BRAIN], cases["c"].voxels[11:15, JAW] = 5, 9  # 12 to 18 mm behind it
    mark_plausible(cases, {"a": 1.0, "b": 1.0, "c": 2.0, "d": 1.0})
    assert all(cases[name].plausible is None for name in "abc")
    assert cases["d"].plausible[:, BRAIN - 1].all()
    assert np.flatnonzero(cases["d"].plausible[:, JAW - 1]).tolist() == list(range(30 + 8 - 3, 30 + 20 + 3 + 1))


def test_fewer_than_three_annotated_cases_rule_out_nothing():
    cases = {"a": case(10, (20, 30)), "b": case(20, (28, 39)), "d": case(30, None, unannotated=(JAW,))}
    mark_plausible(cases, dict.fromkeys(cases, 1.0))
    assert cases["d"].plausible.all()


def test_a_case_without_the_neighbour_may_have_the_class_anywhere():
    cases = {name: case(10, (20, 30)) for name in "abc"} | {"d": case(30, None, unannotated=(JAW,))}
    cases["d"].voxels[:, BRAIN] = 0
    mark_plausible(cases, dict.fromkeys(cases, 1.0))
    assert cases["d"].plausible.all()


@pytest.mark.parametrize("overlapping", [False, True])
def test_the_label_is_open_only_where_the_class_may_be(tmp_path, overlapping):
    """Pixels of background, and of classes that may overlap the value `IGNORED`."""
    for number in range(4):
        label = np.zeros((16, 16, 30), np.uint8)
        label[2:6, 2:6, 8:11] = BRAIN
        if number:
            label[9:14, 9:14, 13:16] = JAW
        image = np.random.default_rng(number).normal(100, 10, label.shape).astype(np.float32)
        for kind, array in (("images", image), ("labels", label)):
            samples.volume(tmp_path / f"data/{kind}/case_{number}.nii.gz", array)
    names = {"1": "brain", "2": "jaw", "annotated": {"case_0": ["brain"]}}
    (tmp_path / "data/labels.json").write_text(json.dumps(names))
    data = training_data(tmp_path / "data", image_size=16, held_out=0.0, cache_dir=tmp_path / "cache", empty_share=1.0)
    stored = data.store()["case_0"]
    assert isinstance(stored, StoredCase)
    places = {index for index in range(30) if stored.hidden(index)[JAW - 1]}
    behind = {29 - z for z in range(13, 16)} | set(range(13, 16))
    assert 3 <= len(places) <= 5
    assert places & behind
    if overlapping:
        stored.table = np.array([[0, 255], [1, 255]], np.uint8)
        open_columns = {index for index in range(30) if (stored.table_of(index)[:, 1] == 255).all()}
        assert open_columns == places
        assert (stored.table_of(min(places) - 1)[:, 0] == [0, 1]).all()
        return
    dataset = data.dataset()
    for position, sample in enumerate(data.samples()):
        if sample["case"] == "case_0":
            label = dataset[position]["label"]
            both = (label[0] == 1) & (label[2] == 1)
            assert bool(both.any()) == (sample["slice"] in places)
            assert torch.equal(label.sum(dim=0) > 1, both)
