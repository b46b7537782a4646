"""A run of another slicing direction, heard along the slices of the first: three planes that segment together."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from medsam_adapt.config import Axis
from medsam_adapt.data.slices.geometry import volume_to_slices
from medsam_adapt.inference.class_scores import logits_of, probabilities_of
from medsam_adapt.inference.slice_logits import SliceLogits

_SMALLEST = 1e-4  # probability kept: a float16 holds its logarithm


class OtherAxis:
    """Logits of a volume along ``axis``, from a network that segments the volume along another direction.

    The whole volume is segmented when the first logits are asked for. What it gives is kept in a nameless temporary
    file, 2 bytes for each class and voxel, and that for each mirroring.

    Args:
        slices: of the other direction.
        axis: the direction of the slices that are asked for.
    """

    def __init__(self, slices: SliceLogits, axis: Axis) -> None:
        self.slices, self.axis = slices, axis
        self._volumes: dict[tuple[int, ...], np.ndarray] = {}

    def logits(self, indices: np.ndarray, flip: Sequence[int] = ()) -> Tensor:
        """(n, K, rows, columns) of the slices ``indices`` along ``axis``, as :meth:`SliceLogits.logits`.

        Their softmax, or sigmoid of classes that may overlap, gives the network's probabilities.
        """
        key = tuple(flip)
        if key not in self._volumes:
            self._volumes[key] = self._segment(key)
        wanted = volume_to_slices(self._volumes[key], self.axis)[indices]
        logits = torch.from_numpy(np.ascontiguousarray(np.moveaxis(wanted, -1, 1))).float()
        return logits.to(self.slices.segmenter.sam.pixel_mean.device)

    def _segment(self, flip: tuple[int, ...]) -> np.ndarray:
        """(X, Y, Z, K) float16."""
        volume: np.ndarray | None = None
        for indices in self.slices.batches():
            found = self._normalised(self.slices.logits(indices, flip)).half().cpu().numpy()
            if volume is None:
                volume = self._empty(found.shape[1])
            volume_to_slices(volume, self.slices.slicing.axis)[indices] = np.moveaxis(found, 1, -1)
        assert volume is not None, "a volume has slices"
        return volume

    def _normalised(self, logits: Tensor) -> Tensor:
        """Logits of the same probabilities, in the range of half precision."""
        overlapping = self.slices.overlapping
        return logits_of(probabilities_of(logits, overlapping), overlapping, _SMALLEST)

    def _empty(self, channels: int) -> np.ndarray:
        with tempfile.TemporaryFile() as file:
            return np.memmap(file, np.float16, "w+", shape=(*self.slices.volume_shape, channels))
