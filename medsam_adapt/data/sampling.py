"""Samples, in an order and with random draws that a seed decides, whatever the number of workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from monai.data import DataLoader
from monai.transforms import Compose
from torch.utils.data import Dataset, Sampler


class SliceDataset(Dataset):
    """Samples and their transform; a draw is decided by its own seed, whatever worker or order it comes in.

    Args:
        samples: what the transform takes.
        transform: random transforms included.
    """

    def __init__(self, samples: Sequence[dict[str, Any]], transform: Compose) -> None:
        self.samples = samples
        self.transform = transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        index, seed = key if isinstance(key, tuple) else (key, 0)
        self.transform.set_random_state(seed=seed)
        return self.transform(self.samples[index])


class DrawSampler(Sampler):
    """(index, seed of the draw) over a data set; epoch e of a given ``seed`` is always the same.

    Attributes:
        epoch: number of passes begun; set it to go on from there.
    """

    def __init__(self, length: int, seed: int, shuffle: bool = True) -> None:
        self.length, self.seed, self.shuffle, self.epoch = length, seed, shuffle, 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        random = np.random.default_rng([self.seed, self.epoch])
        self.epoch += 1
        order = random.permutation(self.length) if self.shuffle else np.arange(self.length)
        return iter([(int(index), int(random.integers(2**32))) for index in order])


def slice_loader(
    dataset: SliceDataset, batch_size: int = 1, seed: int = 0, num_workers: int = 0, shuffle: bool = True
) -> DataLoader:
    """Batches of a :class:`SliceDataset`; a last, smaller batch is dropped unless it is the only one."""
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=DrawSampler(len(dataset), seed, shuffle),
        num_workers=num_workers,
        drop_last=len(dataset) > batch_size,
    )


class EndlessLoader:
    """The batches of a loader again and again, every batch as often as any other.

    Args:
        loader: any loader.
    """

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader
        self.drawn = 0  # batches so far
        self._batches: Iterator[Any] | None = None

    def __next__(self) -> Any:
        batch = next(self._batches, None) if self._batches is not None else None
        if batch is None:
            self._batches = iter(self.loader)
            batch = next(self._batches)
        self.drawn += 1
        return batch

    def state_dict(self) -> dict[str, int]:
        """What is needed to go on from here."""
        return {"drawn": self.drawn}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on as if that many batches had been drawn."""
        epoch, position = divmod(state["drawn"], len(self.loader))
        sampler: Any = self.loader.sampler
        sampler.epoch = epoch
        # Between two passes no iterator is begun: that draws from torch's global generator, as it will in __next__.
        self._batches = None
        if position:
            self._batches = iter(self.loader)
            for _ in range(position):
                next(self._batches)
        self.drawn = state["drawn"]
