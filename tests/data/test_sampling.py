import itertools

import numpy as np
import pytest
import torch
from monai.transforms import Compose, Randomizable, Transform

from medsam_adapt.data.sampling import DrawSampler, EndlessLoader, SliceDataset, slice_loader
from medsam_adapt.data.training import TrainingData


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
    data = TrainingData(phantoms, image_size=32, prompt=prompt, augment="free", cache_dir=tmp_path)
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
        dataset = TrainingData(phantoms, image_size=32, augment=augment, cache_dir=tmp_path).dataset()
        sample = dataset[0, 1]
        assert (type(sample["image"]), type(sample["label"])) == (torch.Tensor, torch.Tensor)
        assert (sample["image"].dtype, sample["label"].dtype) == (torch.float32, torch.int64)
        assert (sample["image"].shape, sample["label"].shape) == ((3, 32, 32), (1, 32, 32))
        images = [dataset[0, seed]["image"].numpy() for seed in range(12)]
        assert all(0 <= image.min() <= image.max() <= 255 for image in images)
        assert (len({image.tobytes() for image in images}) == 1) == (augment == "none")
