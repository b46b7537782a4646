"""Samples, in an order and with random draws that a seed decides, whatever the number of workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from monai.data import DataLoader
from monai.transforms import Compose
from torch.utils.data import Dataset, Sampler

from medsam_adapt.core.distributed import rank, world_size
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.text import counted
from medsam_adapt.data.slices.views import Views

_PARTIAL = 1 / 3  # of the draws of a sample whose case has all classes annotated


class SliceDataset(Dataset):
    """Samples and their transform; a draw is decided by its own seed, whatever worker or order it comes in.

    Args:
        samples: what the transform takes.
        transform: random transforms included.
        weights: (N,) the share of the draws that each sample gets, summing to 1; all alike when None.
        views: the versions of the slices that are drawn, each sample with its ``row``; anything when None.
        draws: how many draws a pass has; as many as there are samples when None.
    """

    def __init__(
        self,
        samples: Sequence[dict[str, Any]],
        transform: Compose,
        weights: np.ndarray | None = None,
        views: Views | None = None,
        draws: int | None = None,
    ) -> None:
        self.samples = samples
        self.transform = transform
        self.weights = weights
        self.views = views
        self._draws = draws

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def draws(self) -> int:
        """How many draws a pass has."""
        return len(self) if self._draws is None else self._draws

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        index, seed = key if isinstance(key, tuple) else (key, 0)
        sample = self.samples[index]
        self.transform.set_random_state(seed=seed)
        if self.views is None:
            return self.transform(sample)
        row = self.views.row(sample, seed)
        if not self.views.moved:
            self.views.fix(self.transform, row)
        return {**self.transform(sample), "row": row}


def balanced_weights(memberships: np.ndarray, plain_share: float = 0.5) -> np.ndarray:
    """The share of the draws that each sample gets, so that a class of few samples is seen as often as a common one.

    ``plain_share`` of the draws goes to all samples alike: background, and what surrounds a structure, is learnt from
    them. The rest is dealt to the classes in equal parts, and within a class to the samples that show it.

    Args:
        memberships: (N, C) bool, which classes each sample shows.
        plain_share: 1 makes all samples alike.

    Returns:
        (N,) float64 that sums to 1.
    """
    alike = np.full(len(memberships), 1 / len(memberships))
    shown = memberships[:, memberships.any(axis=0)].astype(np.float64)
    if not shown.size:
        return alike
    return plain_share * alike + (1 - plain_share) * (shown / shown.sum(axis=0)).mean(axis=1)


def favour_complete(weights: np.ndarray, complete: np.ndarray) -> np.ndarray:
    """The share of the draws that each sample gets, so that samples whose case lacks a class are drawn more rarely.

    Nothing shows there what the class looks like, nor what only looks like it; half of all draws on such cases cost
    the class more accuracy than they gave the others.

    Args:
        weights: (N,) the shares without this.
        complete: (N,) bool, whether all classes are annotated in the sample's case.

    Returns:
        (N,) float64 that sums to 1.
    """
    favoured = weights * np.where(complete, 1.0, _PARTIAL)
    return favoured / favoured.sum()


class DrawSampler(Sampler):
    """(index, seed of the draw) over a data set; epoch e of a given ``seed`` is always the same.

    Of N processes that train together each draws all, and gives its part of each N · ``batch_size`` draws.

    Args:
        length: N, number of samples.
        seed: decides all epochs.
        shuffle: draw in random order; otherwise every epoch goes through the samples as they lie.
        draws: number of draws an epoch; N when None.
        weights: (N,) the share of the draws that each sample gets, all alike when None; not used without ``shuffle``.
        batch_size: draws that a process takes at once.

    Attributes:
        epoch: number of passes begun; set it to continue from there.
        skip: number of draws that the next pass leaves out at its begin.
    """

    def __init__(
        self,
        length: int,
        seed: int,
        shuffle: bool = True,
        draws: int | None = None,
        weights: np.ndarray | None = None,
        batch_size: int = 1,
    ) -> None:
        self.length, self.seed, self.shuffle, self.epoch, self.skip = length, seed, shuffle, 0, 0
        self.draws = length if draws is None else draws
        self.weights = weights
        self.batch_size = batch_size

    def __len__(self) -> int:
        return len(self._own(range(self.draws)))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        random = np.random.default_rng([self.seed, self.epoch])
        self.epoch += 1
        draws = [(int(index), int(random.integers(2**32))) for index in self._order(random)]
        begin, self.skip = self.skip, 0
        return iter(self._own(draws)[begin:])

    def _own(self, draws: Sequence[Any]) -> Sequence[Any]:
        """This process's draws: of every batch of all processes its part, as long as there is one for each of them."""
        if world_size() == 1:
            return draws
        whole = len(draws) - len(draws) % (self.batch_size * world_size())
        return [draws[place] for place in range(whole) if place // self.batch_size % world_size() == rank()]

    def _order(self, random: np.random.Generator) -> np.ndarray:
        if not self.shuffle:
            return np.resize(np.arange(self.length), self.draws)
        if self.weights is None:
            passes = -(-self.draws // self.length)
            return np.concatenate([random.permutation(self.length) for _ in range(passes)])[: self.draws]
        # Systematic sampling: each sample is drawn as often as its share requires, rounded down or up by chance.
        weights = np.trim_zeros(self.weights[: self.length], "b")  # as if no samples were behind those that are drawn
        line = random.permutation(len(weights))
        ends = np.cumsum(weights[line])
        marks = (np.arange(self.draws) + random.random()) / self.draws * ends[-1]
        return random.permutation(line[np.searchsorted(ends, marks, side="right").clip(max=len(weights) - 1)])


def slice_loader(
    dataset: SliceDataset,
    batch_size: int = 1,
    seed: int = 0,
    num_workers: int = 0,
    shuffle: bool = True,
    min_steps: int = 1,
    max_steps: int | None = None,
) -> DataLoader:
    """Batches of a :class:`SliceDataset`; a last, smaller batch is dropped unless it is the only one.

    N processes that train together get the batches of one with N times the ``batch_size``, each its part.

    Args:
        dataset: with the share of the draws that each sample gets.
        batch_size: samples a batch.
        seed: decides order and draws.
        num_workers: processes that prepare samples.
        shuffle: draw in random order.
        min_steps: batches that a pass has at least; samples are drawn repeatedly where they are too few.
        max_steps: batches that a pass has at most; every pass then draws some of the samples.

    Raises:
        InputError: there are too few samples for one batch of several processes.
    """
    together = batch_size * world_size()
    draws = max(dataset.draws, min_steps * together) if min_steps > 1 else dataset.draws
    if max_steps is not None:
        draws = min(draws, max_steps * together)
    if world_size() > 1 and draws < together:
        raise InputError(
            f"batch_size: {world_size()} processes that take {batch_size} each have only "
            f"{counted(draws, 'training slice')}. Lower batch_size, raise min_steps, or train with fewer processes."
        )
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=DrawSampler(len(dataset), seed, shuffle, draws, dataset.weights, batch_size),
        num_workers=num_workers,
        drop_last=draws > together,
    )


def go_on_from(loader: DataLoader, batches: int) -> int:
    """Let a :func:`slice_loader` go on as if that many batches had been drawn; how many of the present pass they are.

    The next iterator gives the rest of that pass, or a whole one.
    """
    epoch, position = divmod(batches, len(loader))
    sampler: Any = loader.sampler
    sampler.epoch, sampler.skip = epoch, position * (loader.batch_size or 1)
    return position


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
        """What is needed to continue from here."""
        return {"drawn": self.drawn}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on as if that many batches had been drawn."""
        position = go_on_from(self.loader, state["drawn"])
        # Between two passes no iterator is begun: that draws from torch's global generator, as it will in __next__.
        self._batches = iter(self.loader) if position else None
        self.drawn = state["drawn"]
