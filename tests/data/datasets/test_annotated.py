"""Partial labels: declared, checked, trained on and scored."""

import json

import nibabel as nib
import numpy as np
import pytest

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.datasets.case_checks import check_cases
from medsam_adapt.data.datasets.cases import find_cases, select_classes
from medsam_adapt.data.datasets.convert import convert_cases
from medsam_adapt.data.datasets.survey import survey
from medsam_adapt.data.slices.sampling import balanced_weights
from medsam_adapt.evaluation.evaluator import VolumeScores, labelled_volumes, without_classes
from tests.data import samples
from tests.slicing import training_data

CLASSES = {"1": "liver", "2": "spleen"}


@pytest.fixture
def data(tmp_path):
    """Four cases of a class 1 block and a class 2 block, the second of them erased from the first two cases."""
    image = np.random.default_rng(0).normal(100, 10, (16, 16, 4)).astype(np.float32)
    for number in range(4):
        label = np.zeros(image.shape, np.uint8)
        label[2:6, 2:6] = 1
        if number > 1:
            label[9:14, 9:14] = 2
        for kind, array in (("images", image), ("labels", label)):
            samples.volume(tmp_path / f"data/{kind}/case_{number}.nii.gz", array)
    declare(tmp_path / "data", {"case_0": ["liver"], "case_1": ["Liver"]})
    return tmp_path / "data"


def declare(root, annotated, **more):
    (root / "labels.json").write_text(json.dumps({**CLASSES, "annotated": annotated, **more}))


def test_what_nobody_drew_is_known_by_case(data):
    found = find_cases(data)
    assert [case.unannotated for case in found.cases] == [{2}, {2}, frozenset(), frozenset()]
    assert found.classes == {1: "liver", 2: "spleen"}
    check = check_cases(found)
    assert check.partial_warning(["case_0", "case_1", "case_2", "case_3"]) is None
    assert check.notes == (
        f"{data}: spleen is not annotated in 2 of 4 cases (case_0, case_1), in which it is neither trained on nor "
        "scored.",
    )
    assert [case["unannotated"] for case in survey(data).as_json()["cases"]] == [["spleen"], ["spleen"], [], []]
    assert check_cases(select_classes(found, ["liver"])).notes == ()
    (data / "labels.json").write_text(json.dumps(CLASSES))
    assert "spleen in case_0, case_1" in check_cases(find_cases(data)).partial_warning(["case_0", "case_1", "case_2"])


@pytest.mark.parametrize(
    ("annotated", "words"),
    [
        ({"case_9": ["liver"]}, "names the case 'case_9'"),
        ({"case_0": ["livr"]}, "of case_0 names 'livr', which is no class. Did you mean 'liver'?"),
        ({"case_0": "liver"}, 'is no map of cases to classes. Write {"case_7": ["liver"]}.'),
        (["liver"], "are not a label id and a name"),
    ],
)
def test_a_declaration_that_fits_nothing_is_refused(data, annotated, words):
    declare(data, annotated)
    with pytest.raises(InputError) as error:
        find_cases(data)
    assert words in str(error.value)


def test_voxels_of_a_class_that_is_declared_missing_are_a_contradiction(data):
    declare(data, {"case_3": ["liver"]})
    with pytest.raises(InputError, match=r'case_3.nii.gz: it holds 100 voxels of spleen, which "annotated" leaves out'):
        check_cases(find_cases(data))


def test_a_datalist_declares_it_in_the_entry_of_a_case(data):
    entries = [
        {"image": f"images/case_{n}.nii.gz", "label": f"labels/case_{n}.nii.gz", "annotated": [*["spleen"][n:], "1"]}
        for n in range(4)
    ]
    (data / "datalist.json").write_text(json.dumps({"labels": CLASSES, "training": entries}))
    found = find_cases(data / "datalist.json")
    assert [sorted(case.unannotated) for case in found.cases] == [[], [2], [2], [2]]


def test_a_copy_declares_it_too(data, tmp_path):
    convert_cases(data, tmp_path / "copy")
    assert [sorted(case.unannotated) for case in find_cases(tmp_path / "copy").cases] == [[2], [2], [], []]


def test_background_may_be_what_nobody_drew_in_training(data, tmp_path):
    made = training_data(data, image_size=16, augment="none", held_out=0, cache_dir=tmp_path / "cache")
    dataset = made.dataset()
    for sample in dataset.samples:
        label = dataset.transform(sample)["label"]
        assert label.shape == (3, 16, 16)
        partial = sample["case"] in ("case_0", "case_1")
        assert bool(((label[0] == 1) & (label[2] == 1)).any()) == partial
        assert not ((label[1] == 1) & (label.sum(dim=0) > 1)).any()
    assert made.slicing.absent == []


def test_slices_of_cases_without_a_class_are_drawn_a_third_as_often(data, tmp_path):
    settings = {"image_size": 16, "augment": "none", "held_out": 0, "cache_dir": tmp_path / "cache"}

    def shares(**more):
        dataset = training_data(data, **settings, **more).dataset()
        return np.array([sample["case"] in ("case_0", "case_1") for sample in dataset.samples]), dataset.weights

    partial, weights = shares()
    assert weights.sum() == pytest.approx(1)
    alone = balanced_weights(memberships_of(data, settings))
    expected = np.where(partial, alone / 3, alone)
    np.testing.assert_allclose(weights, expected / expected.sum())
    np.testing.assert_allclose(shares(classes=["liver"])[1], 1 / len(alone))  # of which every case is complete
    prompted = training_data(data, prompt="box", **settings).dataset()
    livers = [
        weight for weight, sample in zip(prompted.weights, prompted.samples, strict=True) if sample["structure"] == 1
    ]
    np.testing.assert_allclose(livers, livers[0])  # drawn alike in all cases
    assert shares(sampling="slices")[1] is None


def memberships_of(data, settings):
    """(N, C) which classes each training slice shows."""
    made = training_data(data, **settings)
    stored = made.store()
    return np.stack([stored[s["case"]].voxels[s["slice"], 1:] > 0 for s in made.samples()])


@pytest.mark.parametrize("number", range(4))
def test_scores_leave_out_what_nobody_drew(data, tmp_path, number):
    made = training_data(data, image_size=16, held_out=0, cache_dir=tmp_path / "cache")
    item = labelled_volumes(data, "auto", [f"case_{number}"], made.slicing)[0]
    assert item["unannotated"] == ("2" if number < 2 else "")
    scores = VolumeScores(["liver", "spleen"])
    reference = np.asarray(item["label"][0])
    wrong = np.where(reference == 0, 2, reference)
    unannotated = [int(n) for n in item["unannotated"].split()]
    pair = (without_classes(each, unannotated) for each in (wrong, reference))
    scores.update(("case", *pair, (1.0, 1.0, 1.0)), ["spleen"] * (number < 2))
    case = scores.summary()["cases"]["case"]["classes"]
    assert case["liver"]["dsc"] == 1
    assert (case["spleen"]["dsc"] is None) == (number < 2)


def test_masks_of_classes_that_overlap_are_ignored_where_nobody_drew_them(data, tmp_path):
    entries = []
    for number in range(4):
        label = nib.load(data / f"labels/case_{number}.nii.gz")
        voxels = np.asarray(label.dataobj)
        masks = {}
        for class_id in (1, 2) if number > 1 else (1,):
            path = f"masks/{number}_{class_id}.nii.gz"
            samples.volume(data / path, (voxels == class_id).astype(np.uint8))
            masks[str(class_id)] = path
        entry = {"image": f"images/case_{number}.nii.gz", "label": masks}
        entries.append({**entry, "annotated": ["liver"]} if number < 2 else entry)
    (data / "masks.json").write_text(json.dumps({"labels": CLASSES, "training": entries}))
    made = training_data(data / "masks.json", image_size=16, augment="none", held_out=0, cache_dir=tmp_path / "cache")
    dataset = made.dataset()
    for sample in dataset.samples:
        label = dataset.transform(sample)["label"]
        assert bool((label[1] == 255).any()) == (sample["case"] in ("case_0", "case_1"))
        assert not (label[0] == 255).any()


def test_ids_as_in_brats_are_written_as_they_are(data):
    samples.volume(data / "labels/case_3.nii.gz", np.pad(np.full((4, 4, 4), 4, np.uint8), ((0, 12), (0, 12), (0, 0))))
    (data / "labels.json").write_text(json.dumps({"1": "core", "2": "oedema", "4": "enhancing"}))
    assert check_cases(find_cases(data)).voxels["case_3"] == {1: 0, 2: 0, 4: 64}
