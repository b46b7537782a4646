"""Slices of scans that a network labelled: what they hold, and how often they are drawn."""

from pathlib import Path

import numpy as np
import pytest

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.datasets.cases import find_cases
from medsam_adapt.data.slices import backbone_fit
from medsam_adapt.data.slices.sampling import slice_loader
from medsam_adapt.data.slices.slice_store import store_cases
from medsam_adapt.data.volumes.io import read_volume, to_ras
from medsam_adapt.data.volumes.label_coding import IGNORED, parts_of, read_classes
from tests.data import samples
from tests.slicing import training_data


@pytest.fixture
def data_of(tmp_path):
    """Training data of three labelled cases, and of two scans whose labels only the test knows."""
    samples.folder(tmp_path / "data")
    samples.pairs(tmp_path / "scans", "images/scan_{}.nii.gz", "labels/scan_{}.nii.gz", (7, 8))

    def make(**settings):
        defaults = {"image_size": 32, "cache_dir": tmp_path / "cache", "augment": "none", "held_out": 0}
        unlabelled = {"unlabelled": tmp_path / "scans"}
        return training_data(tmp_path / "data", **{**defaults, **unlabelled, **settings})

    return make


def label_all(data, folder, change=lambda label: label):
    """Give the scans of ``data`` their own labels."""
    for case in find_cases(data.unlabelled.scans.root).cases:
        _, header = read_volume(case.image)
        label, affine = to_ras(read_classes(case.label, data.label_ids)[0], header.affine)
        data.unlabelled.write_labels(folder, case.id, change(label), None, np.linalg.norm(affine[:3, :3], axis=0))
    data.unlabelled.read_labels(folder)


@pytest.mark.parametrize("planes", ["one", "three"])
def test_labels_that_a_network_drew_are_stored_as_those_of_files(data_of, tmp_path, planes):
    data = data_of(planes=planes)
    data.store()
    label_all(data, tmp_path / "drawn")
    cases = find_cases(tmp_path / "scans").cases
    views = data.unlabelled.views()
    assert len(views) == 2 * len(data.axes)
    for axis in data.axes:
        stored = store_cases(cases, data._slicing(axis), tmp_path / "other_cache")
        for case_id, expected in stored.items():
            scan = views[case_id if axis == data.axis else f"{case_id} ({axis})"]
            for name in ("images", "labels", "voxels"):
                np.testing.assert_array_equal(np.asarray(getattr(scan, name)), np.asarray(getattr(expected, name)))


def test_scans_are_drawn_by_their_share_and_only_once_they_are_labelled(data_of, tmp_path):
    data = data_of(unlabelled_share=0.3, empty_share=0.0)
    dataset = data.dataset()
    loader = slice_loader(dataset, 2, seed=1, min_steps=50)
    without = slice_loader(data_of(unlabelled=None, empty_share=0.0).dataset(), 2, seed=1, min_steps=50)
    assert len(loader) == len(without) == 50

    def drawn(batches=loader):
        return [case for batch in batches for case in batch["case"]]

    assert drawn() == drawn(without)
    label_all(data, tmp_path / "drawn", lambda label: np.where(np.arange(label.shape[2]) < 3, label, 0))
    of_scans = [case for case in drawn() if case.startswith("scan")]
    assert len(of_scans) == pytest.approx(30, abs=2)
    assert set(of_scans) == {"scan_7", "scan_8"}
    shown = {(s["case"], s["slice"]) for s, share in zip(dataset.samples, dataset.weights, strict=True) if share > 0}
    assert {index for case, index in shown if case.startswith("scan")} == {1, 2}  # slices that show an organ
    assert dataset.weights.sum() == pytest.approx(1)


def test_what_the_network_is_unsure_of_reaches_the_loss_as_ignored(data_of, tmp_path):
    data = data_of()
    dataset = data.dataset()
    label_all(data, tmp_path / "drawn", lambda label: np.where(label == 2, IGNORED, label))
    place = next(i for i, s in enumerate(dataset.samples) if s == {"case": "scan_7", "slice": 2})
    assert set(np.unique(dataset[place]["label"])) == {0, 1, IGNORED}


def test_the_second_half_of_the_training_set_has_labels_of_people_alone(data_of):
    data = data_of()
    assert {sample["case"] for sample in data.dataset("second_half").samples} <= {"case_0", "case_1", "case_2"}
    assert any(sample["case"] == "scan_7" for sample in data.dataset("first_half").samples)


def test_kept_features_are_those_of_the_scans_too(data_of):
    views = data_of().views(2, images=False)
    assert {case for case, _ in views.slices} == {"case_0", "case_1", "case_2", "scan_7", "scan_8"}


def test_prompted_runs_are_refused(data_of):
    with pytest.raises(InputError, match="a run with box prompts cannot label scans"):
        data_of(prompt="box")


def test_labels_that_are_gone_are_an_error_of_files(data_of):
    data = data_of()
    data.store()
    with pytest.raises(OSError, match="nowhere"):
        data.unlabelled.read_labels(Path("nowhere"))


def test_masks_of_overlapping_classes_become_parts():
    masks = np.zeros((2, 3, 2, 1), np.uint8)
    masks[0, 0], masks[1, 0, 1], masks[1, 1, 0] = 1, 1, IGNORED
    parts, table = parts_of(masks)
    assert parts.shape == (3, 2, 1)
    assert not table[0].any()
    np.testing.assert_array_equal(np.moveaxis(table[parts], -1, 0), masks)


@pytest.mark.parametrize(("most", "kept"), [(4, 1), (9, 1), (10, 2), (100, 2)])
def test_scans_are_limited_by_their_slices(data_of, most, kept):
    scans = data_of().unlabelled
    assert scans.count_slices(["axial"]) == 10
    scans.limit(most, ["axial"])
    assert len(scans.scans.cases) == kept
    assert scans.count_slices(["axial", "sagittal"]) == kept * (5 + 20)


@pytest.mark.parametrize("minutes", [None, 2.0, 100.0])
def test_the_most_slices_are_those_of_the_choice_of_the_backbone(monkeypatch, minutes):
    monkeypatch.setattr(backbone_fit, "local_path", lambda name: Path(name))
    most = backbone_fit.most_slices(minutes)
    chosen = [
        backbone_fit.fit_backbone(128, True, 3, count, minutes).settings["backbone"] for count in (most, most + 1)
    ]
    assert chosen == [backbone_fit.MEDICAL, backbone_fit.SMALL]
