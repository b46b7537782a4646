import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medsam_adapt.bundle.catalogue import resolve_knobs
from medsam_adapt.core.errors import InputError
from medsam_adapt.data.datasets.splits import Split, save_split
from medsam_adapt.data.slices import backbone_fit
from medsam_adapt.data.slices.training_data import TrainingData
from tests.slicing import training_data


def write_cases(root: Path, patients, empty=(), spacing=(1, 1, 1)):
    """A datalist with one small CT for each entry of ``patients``; liver in slices 2 to 5, spleen in 4 and 5."""
    label = np.zeros((16, 16, 10), np.uint8)
    label[2:12, 2:12, 2:6] = 1
    label[12:15, 2:12, 4:6] = 3
    root.mkdir()
    training = []
    for index, patient in enumerate(patients):
        hu = np.random.default_rng(index).integers(-1000, 300, label.shape).astype(np.int16)
        affine = np.diag([*spacing, 1.0])
        nib.save(nib.Nifti1Image(hu, affine), root / f"image_{index}.nii.gz")
        nib.save(nib.Nifti1Image(label * (index not in empty), affine), root / f"label_{index}.nii.gz")
        training.append(
            {"id": f"c{index}", "patient": patient, "image": f"image_{index}.nii.gz", "label": f"label_{index}.nii.gz"}
        )
    names = {"1": "liver", "2": "pancreas", "3": "spleen"}
    (root / "datalist.json").write_text(json.dumps({"labels": names, "training": training}))
    return root


@pytest.fixture
def data_of(tmp_path):
    def make(patients="abcde", empty=(), **settings):
        if not (tmp_path / "data").exists():
            write_cases(tmp_path / "data", patients, empty)
        defaults = {"image_size": 16, "cache_dir": tmp_path / "cache", "augment": "none"}
        return training_data(tmp_path / "data", **{**defaults, **settings})

    return make


@pytest.mark.parametrize(
    ("side", "installed", "settings", "backbone"),
    [
        (128, True, {}, "lite_medsam"),
        (128, False, {}, "vit_nano"),
        (64, True, {}, "vit_nano"),
        (128, True, {"image_size": 128}, "vit_nano"),
        (128, True, {"checkpoint": "random"}, "vit_nano"),
        (128, True, {"prompt": "box"}, "vit_nano"),
        (128, True, {"backbone": "vit_nano"}, "vit_nano"),
    ],
)
def test_the_data_choose_an_open_backbone(tmp_path, monkeypatch, side, installed, settings, backbone):
    """A structure of half the slice's side: too large for tiles."""
    label = np.zeros((side, side, 4), np.uint8)
    label[side // 4 : -side // 4, side // 4 : -side // 4] = 1
    for kind, voxels in (
        ("images", np.random.default_rng(0).normal(size=label.shape).astype(np.float32)),
        ("labels", label),
    ):
        (tmp_path / kind).mkdir()
        for name in "abc":
            nib.save(nib.Nifti1Image(voxels, np.diag([1, 1, 5, 1.0])), tmp_path / kind / f"{name}.nii.gz")
    (tmp_path / "labels.json").write_text(json.dumps({"1": "organ"}))
    monkeypatch.setattr(backbone_fit, "local_path", lambda name: tmp_path if installed else None)
    knobs = resolve_knobs("detail", sets={"cache_dir": str(tmp_path / "cache"), **settings})
    data = TrainingData.of(tmp_path, knobs)
    assert knobs.backbone == backbone
    assert data.input_scaling == ("unit" if backbone == "lite_medsam" else "sam")
    assert knobs.image_size == (128 if backbone == "lite_medsam" else settings.get("image_size"))
    assert data.image_size == side
    assert bool(data.why_backbone) == ("backbone" not in settings)


def places(samples):
    return {(sample["case"], sample["slice"]) for sample in samples}


def test_held_out_volumes_are_not_trained_on(data_of):
    data = data_of("aabbccdd", held_out=0.25)
    held_out = {volume["id"] for volume in data.volumes()}
    trained = {case for case, _ in places(data.samples())}
    assert held_out == set(data.split.held_out)
    assert held_out | trained == {f"c{index}" for index in range(8)}
    patients = {case.id: case.patient for case in data.cases.cases}
    assert len({patients[case] for case in held_out}) == 1
    assert not {patients[case] for case in held_out} & {patients[case] for case in trained}
    assert data.volumes()[0].keys() == {"id", "image", "label"}


@pytest.mark.parametrize(("axis", "found"), [("auto", "sagittal"), ("coronal", "coronal")])
def test_slices_are_those_of_the_acquisition_with_axis_auto(tmp_path, axis, found):
    """Ten sagittal slices of 16 x 16 voxels, 3 mm apart."""
    write_cases(tmp_path / "data", "ab", spacing=(3, 1, 1))
    data = training_data(tmp_path / "data", image_size=16, cache_dir=tmp_path / "cache", axis=axis)
    assert data.axes == [data.slicing.axis] == [found]
    assert {sample["slice"] for sample in data.samples()} <= set(range(16))
    (plan,) = {stored.images[0].shape for stored in data.store().values()}
    assert plan == ((10, 16) if found == "sagittal" else (3, 16))


@pytest.mark.parametrize("patients", ["a", "ab", "aabb"])
def test_nothing_is_held_out_with_fewer_than_three_patients(data_of, patients):
    data = data_of(patients, held_out=0.5)
    assert data.volumes() == []
    assert len(data.split.train) == len(patients)


def test_a_seed_decides_the_split_and_the_slices(data_of):
    one, same = data_of("abcdefgh", empty_share=0.5), data_of(empty_share=0.5)
    assert (one.split, one.samples()) == (same.split, same.samples())
    assert any(data_of(seed=seed).split != one.split for seed in range(1, 5))


def test_a_saved_split_is_used_and_a_wrong_one_refused(data_of, tmp_path):
    save_split(tmp_path / "s.json", Split(("c0", "c3"), ("c1",)), 0)
    data = data_of(split_file=tmp_path / "s.json")
    assert (data.split.train, [volume["id"] for volume in data.volumes()]) == (("c0", "c3"), ["c1"])
    assert {case for case, _ in places(data.samples())} == {"c0", "c3"}
    save_split(tmp_path / "s.json", Split(("c0", "zzz"), ()), 0)
    with pytest.raises(InputError, match=r"s\.json: it names the case zzz, which .*data does not have"):
        data_of(split_file=tmp_path / "s.json")


@pytest.mark.parametrize("seed", range(3))
def test_four_patients_are_halved_by_patient(data_of, seed):
    data = data_of("aabbccdde", held_out=0.0, empty_share=0.5, seed=seed)
    halves = [places(data.samples(part)) for part in ("first_half", "second_half")]
    patients = {case.id: case.patient for case in data.cases.cases}
    first, second = ({patients[case] for case, _ in half} for half in halves)
    assert data.split_by == "patients"
    assert (len(first), len(second)) == (3, 2)
    assert not first & second
    assert halves[0] | halves[1] == places(data.samples())


def test_the_seed_decides_the_halves(data_of):
    halves = [{case for case, _ in places(data_of(held_out=0.0, seed=s).samples("first_half"))} for s in range(8)]
    assert any(half != halves[0] for half in halves)


@pytest.mark.parametrize("patients", ["a", "aab", "abc"])
def test_fewer_patients_are_halved_by_blocks_of_slices(data_of, patients):
    data = data_of(patients, held_out=0.0, empty_share=0.5)
    halves = [places(data.samples(part)) for part in ("first_half", "second_half")]
    assert data.split_by == "slices"
    assert halves[0] | halves[1] == places(data.samples())
    for case in data.split.train:
        first, second = ([index for name, index in half if name == case] for half in halves)
        assert max(first) < min(second)
        assert 0 <= len(first) - len(second) <= 1


def test_the_labelled_range_and_a_share_of_the_rest_are_trained_on(data_of):
    slices = {share: [s["slice"] for s in data_of("a", empty_share=share).samples()] for share in (0.0, 0.5, 1.0)}
    assert slices[0.0] == [2, 3, 4, 5]
    assert len(slices[0.5]) == 4 + 3
    assert slices[1.0] == list(range(10))


def test_the_default_bundle_trains_on_every_slice(data_of, tmp_path):
    """Else masks continue behind the end of a structure: slices beyond the outermost one would hardly be seen."""
    data_of()
    knobs = resolve_knobs("detail", sets={"cache_dir": str(tmp_path / "cache"), "held_out": 0.0, "planes": "one"})
    data = TrainingData.of(tmp_path / "data", knobs)
    assert len(data.samples()) == 5 * 10


def test_classes_without_a_training_voxel_are_absent(data_of):
    data = data_of("ab")
    assert (data.class_names, data.label_ids, data.absent) == (["liver", "pancreas", "spleen"], [1, 2, 3], ["pancreas"])
    chosen = data_of(classes=["spleen"], empty_share=0.0)
    assert (chosen.class_names, chosen.label_ids, chosen.absent) == (["spleen"], [3], [])
    assert places(chosen.samples()) == {("c0", 4), ("c0", 5), ("c1", 4), ("c1", 5)}
    assert np.max(chosen.store()["c0"].labels) == 1


def test_classes_that_only_held_out_volumes_hold_cannot_be_trained(data_of, tmp_path):
    save_split(tmp_path / "s.json", Split(("c0", "c1"), ("c2",)), 0)
    with pytest.raises(InputError, match=r"data: no training volume holds a voxel of liver, .*Choose another --seed"):
        data_of("abc", empty=(0, 1), split_file=tmp_path / "s.json")


def test_a_share_of_the_slices_of_a_case_without_any_class_is_trained_on(data_of):
    samples = data_of("ab", empty=(0,), empty_share=0.5).samples()
    assert sum(sample["case"] == "c0" for sample in samples) == 5


def test_prompted_samples_are_single_structures(data_of):
    data = data_of("a", prompt="box", empty_share=1.0)
    structures = [(sample["slice"], sample["structure"]) for sample in data.samples()]
    assert structures == [(2, 1), (3, 1), (4, 1), (4, 3), (5, 1), (5, 3)]
    dataset = data.dataset()
    liver, spleen = dataset[2], dataset[3]
    assert torch.equal(liver["image"], spleen["image"])
    assert (liver["label"].sum(), spleen["label"].sum()) == (100, 30)
    assert set(np.unique(spleen["label"])) == {0, 1}
    assert liver["boxes"].shape == (4,)


def test_a_structure_too_small_to_see_is_no_sample(data_of, tmp_path):
    label = np.zeros((160, 160, 10), np.uint8)
    label[20:120, 20:120, 2:6] = 1
    label[140:142, 3, 4] = 3  # smaller than a pixel of the 16 x 16 slice, and between pixel centres
    write_cases(tmp_path / "data", "a")
    for name in ("image_0", "label_0"):
        nib.save(nib.Nifti1Image(label, np.eye(4)), tmp_path / "data" / f"{name}.nii.gz")
    data = data_of(prompt="box")
    assert data.store()["c0"].voxels[4, 3] == 2
    assert {sample["structure"] for sample in data.samples()} == {1}


def test_slices_of_three_directions_are_trained_on(data_of):
    one, three = data_of("ab"), data_of("ab", planes="three")
    assert three.slicing.three_planes
    assert three.axes == ["axial", "coronal", "sagittal"]
    assert three.store_bytes() > 2.5 * one.store_bytes()
    found = places(three.samples())
    assert {place for place in found if "(" not in place[0]} == places(one.samples())
    inside = {index for case, index in found if case == "c0 (sagittal)"}
    assert set(range(2, 15)) <= inside
    dataset = three.dataset()
    index = next(i for i, sample in enumerate(dataset.samples) if sample == {"case": "c0 (sagittal)", "slice": 6})
    rows = dataset[index]["label"][0].numpy()
    stored = three._stored["sagittal"]["c0"].labels[6]
    np.testing.assert_array_equal(rows[: stored.shape[0], : stored.shape[1]], stored)
    assert set(np.unique(rows)) == {0, 1}
    # What describes the cases looks at each voxel once.
    assert set(three.store()) == {"c0", "c1"}


@pytest.mark.parametrize(("settings", "sigma"), [({}, 0.8), ({"planes": "three"}, 0.0), ({"prompt": "box"}, 0.0)])
def test_slices_of_one_direction_are_averaged_over_neighbours(data_of, settings, sigma):
    assert data_of("ab", slice_sigma=0.8, **settings).slicing.slice_sigma == sigma


def test_three_planes_are_chosen_for_volumes_that_suit_them(data_of):
    assert not data_of("ab", planes="auto").three_planes  # ten slices are too few
    with pytest.raises(InputError, match="planes=three: a prompt lies on slices of one direction"):
        data_of("ab", planes="three", prompt="box")


@pytest.mark.parametrize(("side", "tiles"), [(28, True), (40, False)])
def test_small_structures_are_trained_on_tiles(tmp_path, side, tiles):
    label = np.zeros((120, 100, 5), np.uint8)
    label[70 : 70 + side, 60:70, 1:4] = 1
    for part, voxels in (("images", 100 + 100 * label.astype(np.int16)), ("labels", label)):
        (tmp_path / "data" / part).mkdir(parents=True)
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "data" / part / "a.nii.gz")
    settings = {"detail": 8, "cache_dir": tmp_path / "cache", "augment": "none", "empty_share": 0.0}
    whole = training_data(tmp_path / "data", **settings)
    data = training_data(tmp_path / "data", tiles="auto", **settings)
    assert (whole.image_size, whole.slice_size) == (128, None)
    assert (data.image_size, data.slice_size) == ((64, 128) if tiles else (128, None))
    assert data.slicing.slice_size == data.slice_size
    assert data.store()["a"].images[2].shape == whole.store()["a"].images[2].shape
    assert data.dataset()[1]["image"].shape == (3, data.image_size, data.image_size)
    located = training_data(tmp_path / "data", tiles="auto", coordinates="auto", **settings)
    assert located.slicing.sees_coordinates == tiles
    sample = located.dataset()[1]
    assert sample["image"].shape == (6 if tiles else 3, data.image_size, data.image_size)
    assert training_data(tmp_path / "data", coordinates="on", **settings).slicing.sees_coordinates


@pytest.mark.parametrize(("inside", "window"), [(-500, (-850, 240)), (40, (-160, 240))])
def test_the_window_of_a_ct_shows_what_is_learned(tmp_path, inside, window):
    """An opacity of a lung, and a nodule, whose label file stores its axes in another order."""
    label = np.zeros((40, 36, 12), np.uint8)
    label[10:22, 12:24, 3:8] = 1
    voxels = np.where(label, inside, -850).astype(np.int16)
    for part, each in (("images", voxels), ("labels", label[::-1].transpose(1, 0, 2))):
        (tmp_path / "data" / part).mkdir(parents=True)
        affine = (
            np.eye(4) if part == "images" else np.array([[0, -1, 0, 39], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
        )
        nib.save(nib.Nifti1Image(each, affine), tmp_path / "data" / part / "a.nii.gz")
    data = training_data(tmp_path / "data", cache_dir=tmp_path / "cache")
    assert (data.policy.low, data.policy.high) == window
    assert ("would show a structure and what is around it alike" in data.policy_reason) == (inside == -500)
    named = training_data(tmp_path / "data", cache_dir=tmp_path / "cache", intensity="ct-abdomen")
    assert (named.policy.low, named.policy.high) == (-160, 240)


@pytest.mark.parametrize("settings", [{}, {"detail": 8, "prompt": "box"}])
def test_coordinates_are_for_a_detail_branch_without_prompts(data_of, settings):
    with pytest.raises(InputError, match="coordinates=on: a detail branch without prompts sees them"):
        data_of("ab", coordinates="on", **settings)


def test_prompted_runs_see_whole_slices(data_of):
    assert data_of("ab", tiles="auto", prompt="box").slice_size is None


@pytest.mark.parametrize(("length", "tiles"), [(20, True), (50, False)])
def test_tiles_are_chosen_before_three_planes(tmp_path, length, tiles):
    """Volumes of even voxels have both; tiles that suit the one direction are kept, and its slices alone."""
    label = np.zeros((100, 100, 60), np.uint8)
    label[40 : 40 + length, 60:70, 2:58] = 1  # long on coronal slices
    for part, voxels in (("images", 100 + 100 * label.astype(np.int16)), ("labels", label)):
        (tmp_path / "data" / part).mkdir(parents=True)
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "data" / part / "a.nii.gz")
    settings = {"detail": 8, "cache_dir": tmp_path / "cache", "tiles": "auto"}
    data = training_data(tmp_path / "data", planes="auto", **settings)
    assert data.three_planes is not tiles
    assert (data.image_size, data.slice_size) == ((64, 112) if tiles else (112, None))
    assert training_data(tmp_path / "data", planes="one", **settings).three_planes is False
