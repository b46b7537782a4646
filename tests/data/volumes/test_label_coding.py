import nibabel as nib
import numpy as np
import pytest
import torch

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.datasets.case_checks import check_cases
from medsam_adapt.data.datasets.cases import find_cases, select_classes
from medsam_adapt.data.volumes.label_coding import (
    IGNORED,
    LabelCoding,
    PartMasks,
    classes_in,
    count_classes,
    mask_of,
    read_classes,
    renumber,
)
from tests.data import samples
from tests.slicing import training_data

NAMES = ["a", "b", "c", "d", "e"]


@pytest.fixture(scope="module")
def masks():
    """Five random masks of one volume: all 32 combinations occur."""
    return np.random.default_rng(0).random((5, 9, 8, 7)) < 0.4


def save(path, array):
    nib.save(nib.Nifti1Image(np.asarray(array).astype(np.uint8), np.eye(4)), path)
    return path


@pytest.fixture
def files(masks, tmp_path):
    """Class id -> file of its mask."""
    return {index: save(tmp_path / f"{name}.nii.gz", 7 * masks[index - 1]) for index, name in enumerate(NAMES, 1)}


def test_masks_become_parts_and_parts_the_same_masks(masks, files):
    parts, table = read_classes(files, [1, 2, 3, 4, 5], LabelCoding(overlapping=True))
    assert (parts.dtype, parts.shape, table.shape) == (np.uint8, (9, 8, 7), (32, 5))
    assert not table[0].any()
    assert len(np.unique(table, axis=0)) == 32
    drawn = PartMasks(parts, table, NAMES)
    assert list(drawn) == NAMES
    for name, mask in zip(NAMES, masks, strict=True):
        assert np.array_equal(drawn[name], mask)
    np.testing.assert_array_equal(count_classes(parts, 5, table)[1:], masks.sum(axis=(1, 2, 3)))
    assert count_classes(parts, 5, table)[0] == (~masks.any(axis=0)).sum()


def test_only_the_classes_wanted_split_parts(masks, files):
    del files[2]
    parts, table = read_classes(files, [4, 2], LabelCoding(overlapping=True))
    assert table.tolist() == [[0, 0], [1, 0]]
    assert np.array_equal(parts == 1, masks[3])
    assert classes_in(parts, table).tolist() == [1]
    empty, table = read_classes(files, [2], LabelCoding(overlapping=True))
    assert (empty.shape, empty.any(), table.tolist()) == ((9, 8, 7), False, [[0]])


def test_a_voxel_of_every_class_leaves_the_empty_part_in_place(tmp_path):
    full = {1: save(tmp_path / "a.nii.gz", np.ones((2, 2, 2)))}
    parts, table = read_classes(full, [1], LabelCoding(overlapping=True))
    assert (np.unique(parts).tolist(), table.tolist()) == ([1], [[0], [1]])


def test_more_parts_than_a_byte_holds(tmp_path):
    numbers = np.arange(1024).reshape(8, 8, 16)
    files = {bit + 1: save(tmp_path / f"{bit}.nii.gz", numbers >> bit & 1) for bit in range(10)}
    parts, table = read_classes(files, range(1, 11), LabelCoding(overlapping=True))
    assert parts.dtype == np.uint16
    assert np.array_equal((table[parts] << np.arange(10)).sum(axis=-1), numbers)


def test_masks_of_different_size_are_told(files, tmp_path):
    save(tmp_path / "b.nii.gz", np.ones((2, 2, 2)))
    with pytest.raises(InputError, match=r"b\.nii\.gz: its size differs"):
        read_classes(files, [1, 2], LabelCoding(overlapping=True))


def test_a_part_map_and_its_masks_are_read_alike(tmp_path):
    for name in ("segrap", "segrap_masks"):
        samples.SAMPLES[name](tmp_path / name)
    found = [
        select_classes(find_cases(tmp_path / name), ["Brain", "BrainStem", "Lens_L", "Eye_L"])
        for name in ("segrap", "segrap_masks")
    ]
    ids = list(found[0].classes)
    drawn = [PartMasks(*read_classes(each.cases[0].label_source, ids, each.coding), NAMES[:4]) for each in found]
    for name in NAMES[:4]:
        assert np.array_equal(drawn[0][name], drawn[1][name])
        assert drawn[0][name].any()
    assert not (drawn[0]["b"] & ~drawn[0]["a"]).any()
    assert check_cases(found[0]).voxels == check_cases(found[1]).voxels


def test_ignored_voxels_have_a_number_of_their_own():
    label = np.array([0, 1, 2, 255, 9], np.uint8)
    assert renumber(label, [2, 1], LabelCoding(ignored=(255, 9))).tolist() == [0, 2, 1, IGNORED, IGNORED]
    assert classes_in(np.array([0, 2, IGNORED])).tolist() == [2]
    assert count_classes(np.array([0, 2, IGNORED], np.uint8), 2).tolist() == [1, 0, 1]
    assert mask_of(np.array([0, 2, IGNORED]), 2).tolist() == [0, 1, IGNORED]


def test_ignored_voxels_of_overlapping_classes(tmp_path):
    path = save(tmp_path / "x.nii.gz", np.arange(4).reshape(1, 2, 2))
    coding = LabelCoding({1: (1,), 2: (1, 2)}, ignored=(3,), overlapping=True)
    parts, table = read_classes(path, [1, 2], coding)
    rows = table[parts].reshape(4, 2)
    assert rows.tolist() == [[0, 0], [1, 0], [1, 1], [IGNORED, IGNORED]]
    assert classes_in(parts, table).tolist() == [1, 2]
    assert count_classes(parts, 2, table).tolist() == [1, 2, 1]


def test_several_numbers_may_be_one_class():
    coding = LabelCoding(dict.fromkeys(range(128, 256), (1,)))
    assert renumber(np.array([0, 127, 128, 255], np.uint8), [1], coding).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("sample", ["segrap", "segrap_masks"])
def test_training_samples_are_the_masks_of_their_slice(tmp_path, sample):
    samples.SAMPLES[sample](tmp_path / "data")
    names = ["Brain", "TemporalLobe_L", "Eye_R"]
    settings = {"classes": names, "image_size": 64, "augment": "none", "held_out": 0.0}
    data = training_data(tmp_path / "data", **settings)
    assert data.overlapping
    stored = data.store()["segrap_0001"]
    masks = samples.organ_masks(samples.segrap_parts(1)[1])
    shown = {names[number - 1] for number in stored.classes_in(1)}
    assert shown == {name for name in names if masks[name][:, :, 1].any()}
    for item in data.dataset():
        index = int(item["slice"])
        truth = np.stack([samples.organ_masks(samples.segrap_parts(int(item["case"][-1]))[1])[n] for n in names])
        assert item["label"].shape == (3, 64, 64)
        reduced = item["label"][:, :58].numpy()  # 18 of 20 rows, at 3.2 pixels each
        rows = [(2 * row + 1) * 58 // 36 for row in range(18)]
        columns = [(2 * column + 1) * 64 // 40 for column in range(20)]
        native = reduced[:, rows][:, :, columns]
        # The affine points left and posterior: columns are X, rows are Y, as they lie in the file.
        assert np.array_equal(native, truth[:, :, :, index].transpose(0, 2, 1))


@pytest.mark.parametrize("augment", ["none", "free"])
def test_prompted_samples_of_overlapping_classes_are_single_masks(tmp_path, augment):
    samples.SAMPLES["nnunet_regions"](tmp_path / "data")
    data = training_data(tmp_path / "data", image_size=32, prompt="box", augment=augment, held_out=0.0)
    wanted = {(s["case"], s["slice"], s["structure"]) for s in data.samples()}
    assert {structure for *_, structure in wanted} == {1, 2}
    first = {(case, index) for case, index, structure in wanted if structure == 1}
    assert {(case, index) for case, index, structure in wanted if structure == 2} == first
    sizes = {}
    for sample, item in zip(data.samples(), data.dataset(), strict=True):
        assert item["label"].shape == (1, 32, 32)
        assert set(torch.unique(item["label"]).tolist()) <= {0, 1}
        sizes[sample["case"], sample["slice"], sample["structure"]] = int(item["label"].sum())
    if augment == "none":
        assert all(sizes[case, index, 1] > sizes[case, index, 2] > 0 for case, index in first)


def test_cases_that_lack_a_class_are_listed(tmp_path):
    samples.folder(tmp_path)
    _, label = samples.body(0)
    for number in (0, 2):
        samples.volume(tmp_path / f"labels/case_{number}.nii.gz", np.where(label == 2, 0, label))
    check = check_cases(find_cases(tmp_path))
    assert check.partial_classes(["case_0", "case_1", "case_2"]) == {"spleen": ("case_0", "case_2")}
    assert "spleen in case_0, case_2. Where" in check.partial_warning(["case_0", "case_1", "case_2"])
    assert check.partial_warning(["case_0", "case_2"]) is None
