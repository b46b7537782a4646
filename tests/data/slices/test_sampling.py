import itertools

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, Randomizable, Transform

from medsam_adapt.data.slices.sampling import (
    DrawSampler,
    EndlessLoader,
    SliceDataset,
    balanced_weights,
    favour_complete,
    slice_loader,
)
from tests.slicing import training_data


class Draw(Randomizable, Transform):
    def __call__(self, data):
        return {**data, "draw": self.R.random()}


def numbers(count=7):
    return SliceDataset([{"index": index} for index in range(count)], Compose([Draw()]))


def drawn(batches):
    return [tuple(zip(batch["index"].tolist(), batch["draw"].tolist(), strict=True)) for batch in batches]


def test_a_seed_decides_each_epoch():
    sampler, same, other = DrawSampler(20, seed=3), DrawSampler(20, seed=3), DrawSampler(20, seed=4)
    epochs = [list(sampler) for _ in range(3)]
    assert [list(same) for _ in range(3)] == epochs
    assert list(other) != epochs[0]
    for epoch, other_epoch in itertools.combinations(epochs, 2):
        assert epoch != other_epoch
    for epoch in epochs:
        assert sorted(index for index, _ in epoch) == list(range(20))
        assert len({seed for _, seed in epoch}) == 20
    same.epoch = 1
    assert list(same) == epochs[1]


def test_without_shuffling_the_order_stays_and_the_draws_change():
    sampler = DrawSampler(5, seed=0, shuffle=False)
    first, second = list(sampler), list(sampler)
    assert [index for index, _ in first] == [index for index, _ in second] == list(range(5))
    assert first != second


def test_a_draw_is_decided_by_its_own_seed():
    dataset = numbers()
    one = dataset[2, 10]
    assert dataset[2, 11] != one
    assert dataset[3, 10]["draw"] == one["draw"]
    assert dataset[2, 10] == one


@pytest.mark.parametrize(("length", "batches"), [(2, 1), (3, 1), (7, 2)])
def test_a_smaller_batch_is_dropped_unless_it_is_the_only_one(length, batches):
    assert len(list(slice_loader(numbers(length), batch_size=3))) == batches


@pytest.mark.parametrize("prompt", ["box", "points"])
def test_samples_do_not_depend_on_the_number_of_workers(phantoms, tmp_path, prompt):
    data = training_data(phantoms, image_size=32, prompt=prompt, augment="free", cache_dir=tmp_path)
    dataset = data.dataset()
    dataset.samples = dataset.samples[:9]
    loaders = [slice_loader(dataset, 2, seed=5, num_workers=workers) for workers in (0, 2)]
    pairs = list(zip(*loaders, strict=True))
    assert len(pairs) == 4
    for alone, with_workers in pairs:
        assert alone.keys() == with_workers.keys()
        for key, value in alone.items():
            np.testing.assert_array_equal(value, with_workers[key])


def test_an_endless_loader_is_fair():
    loader = EndlessLoader(slice_loader(numbers(6), batch_size=2))
    batches = drawn(next(loader) for _ in range(9))
    for epoch in range(3):
        seen = sorted(index for batch in batches[3 * epoch : 3 * epoch + 3] for index, _ in batch)
        assert seen == list(range(6))
    assert len(set(batches)) == 9
    assert loader.state_dict() == {"drawn": 9}


@pytest.mark.parametrize("stop", range(8))
def test_an_endless_loader_goes_on_where_it_was(stop):
    def endless():
        return EndlessLoader(slice_loader(numbers(6), batch_size=2, seed=1))

    torch.manual_seed(0)
    loader, values, states = endless(), [], []
    for _ in range(10):  # a network that draws too, as dropout does
        states.append((loader.state_dict(), torch.get_rng_state()))
        values.append((drawn([next(loader)]), torch.rand(1).item()))
    again = endless()
    state, generator = states[stop]
    again.load_state_dict(state)
    torch.set_rng_state(generator)
    assert [(drawn([next(again)]), torch.rand(1).item()) for _ in range(10 - stop)] == values[stop:]


def test_an_augmented_sample_is_of_the_same_kind_as_a_plain_one(phantoms, tmp_path):
    for augment in ("none", "anatomical", "free"):
        dataset = training_data(phantoms, image_size=32, augment=augment, cache_dir=tmp_path).dataset()
        sample = dataset[0, 1]
        assert (type(sample["image"]), type(sample["label"])) == (torch.Tensor, torch.Tensor)
        assert (sample["image"].dtype, sample["label"].dtype) == (torch.float32, torch.int64)
        assert (sample["image"].shape, sample["label"].shape) == ((3, 32, 32), (1, 32, 32))
        images = [dataset[0, seed]["image"].numpy() for seed in range(12)]
        assert all(0 <= image.min() <= image.max() <= 255 for image in images)
        assert (len({image.tobytes() for image in images}) == 1) == (augment == "none")


def test_balanced_weights_share_the_draws_between_the_classes():
    shown = np.zeros((10, 3), bool)  # a common class, a rare one, one that no sample shows; sample 9 shows nothing
    shown[:8, 0] = shown[8, 1] = True
    weights = balanced_weights(shown)
    assert weights.sum() == pytest.approx(1)
    assert weights[8] == pytest.approx(0.5 / 10 + 0.25)
    assert weights[:8] == pytest.approx(0.5 / 10 + 0.25 / 8)
    assert weights[9] == pytest.approx(0.5 / 10)
    np.testing.assert_allclose(balanced_weights(shown, plain_share=1), 1 / 10)
    np.testing.assert_allclose(balanced_weights(shown[:, 2:]), 1 / 10)


def test_complete_cases_are_drawn_three_times_as_often():
    weights = favour_complete(np.array([0.4, 0.4, 0.2]), np.array([True, False, False]))
    assert weights == pytest.approx([2 / 3, 2 / 9, 1 / 9])


def test_weighted_draws_are_as_many_as_their_share_says():
    weights = np.array([0.5, 0.25, 0.21, 0.04])
    sampler = DrawSampler(4, seed=0, draws=50, weights=weights)
    for _ in range(5):
        counts = np.bincount([index for index, _ in sampler], minlength=4)
        assert counts.sum() == 50
        assert (np.abs(counts - 50 * weights) < 1).all()
    total = np.bincount([index for _ in range(200) for index, _ in sampler], minlength=4) / (200 * 50)
    np.testing.assert_allclose(total, weights, atol=0.003)


def test_weighted_epochs_are_decided_by_the_seed():
    def sampler(seed):
        return DrawSampler(6, seed, draws=9, weights=np.arange(1, 7) / 21)

    one, same = sampler(3), sampler(3)
    epochs = [list(one) for _ in range(3)]
    same.epoch = 2
    assert list(same) == epochs[2]
    assert epochs[0] != epochs[1]
    assert list(sampler(4)) != epochs[0]


def test_few_samples_are_drawn_repeatedly_and_evenly():
    sampler = DrawSampler(4, seed=0, draws=10)
    counts = np.bincount([index for index, _ in sampler], minlength=4)
    assert sorted(counts) == [2, 2, 3, 3]
    assert [index for index, _ in DrawSampler(3, seed=0, shuffle=False, draws=5)] == [0, 1, 2, 0, 1]


@pytest.mark.parametrize(("length", "min_steps", "batches"), [(7, 1, 2), (7, 5, 5), (2, 5, 5), (2, 1, 1), (30, 5, 10)])
def test_a_pass_has_a_least_number_of_steps(length, min_steps, batches):
    loader = slice_loader(numbers(length), batch_size=3, min_steps=min_steps)
    assert len(loader) == len(list(loader)) == batches


@pytest.mark.parametrize("stop", range(5))
def test_a_balanced_endless_loader_goes_on_where_it_was(stop):
    def endless():
        dataset = numbers(3)
        dataset.weights = np.array([0.2, 0.1, 0.7])
        return EndlessLoader(slice_loader(dataset, batch_size=2, seed=1, min_steps=3))

    loader = endless()
    values = [drawn([next(loader)]) for _ in range(7)]
    again = endless()
    again.load_state_dict({"drawn": stop})
    assert [drawn([next(again)]) for _ in range(7 - stop)] == values[stop:]


@pytest.mark.parametrize("part", ["train", "first_half", "second_half"])
def test_a_gland_in_one_slice_is_seen_in_every_pass(tmp_path, part):
    data = one_gland(tmp_path)
    glands = [index for index, s in enumerate(data.samples(part)) if s["slice"] in (3, 22)]
    assert len(glands) == (2 if part == "train" else 1)
    for sampling, seen in (("balanced", 9), ("slices", 0)):
        data.knobs.sampling = sampling
        loader = slice_loader(data.dataset(part), batch_size=2, min_steps=20)
        for _ in range(3):
            count = sum(index in glands for index, _ in loader.sampler)
            assert count >= seen
            assert (count > 6) == (sampling == "balanced")


@pytest.mark.parametrize("prompt", ["none", "box"])
def test_classes_are_balanced_with_and_without_a_prompt(tmp_path, prompt):
    data = one_gland(tmp_path, prompt=prompt)
    weights = dict(zip([(s["slice"], s.get("structure")) for s in data.samples()], data.dataset().weights, strict=True))
    count = len(weights)
    gland = (3, 2 if prompt == "box" else None)
    liver = (3 if prompt == "box" else 4, 1 if prompt == "box" else None)
    assert weights[liver] == pytest.approx(0.5 / count + 0.25 / 32)
    assert weights[gland] == pytest.approx(0.5 / count + 0.25 / 2 + (0.25 / 32 if prompt == "none" else 0))


def one_gland(root, **settings):
    """One CT of 32 slices: the liver in all of them, a gland in slices 3 and 22."""
    label = np.zeros((32, 32, 32), np.uint8)
    label[4:20, 4:20] = 1
    label[24:26, 24:26, [3, 22]] = 2
    for folder in ("images", "labels"):
        (root / folder).mkdir()
        nib.save(nib.Nifti1Image(label, np.eye(4)), root / folder / "a.nii.gz")
    (root / "labels.json").write_text('{"1": "liver", "2": "gland"}')
    return training_data(root, image_size=32, augment="none", cache_dir=root / "cache", **settings)
