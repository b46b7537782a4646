"""The slices of one volume as the network sees them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from medsam_adapt.config import Axis, InputScaling
from medsam_adapt.data.slices.device_transfer import on_device
from medsam_adapt.data.slices.geometry import SlicePlan, slice_coordinates
from medsam_adapt.data.slices.intensity import IntensityPolicy
from medsam_adapt.data.slices.padding import pad_image, pad_label

_LOADED = 256 * 2**20  # bytes of grey levels that a GPU holds of one volume: 256 slices of 512 x 512


class SliceImages:
    """Images (n, 3, S, S) on the 0-255 scale of the slices wanted; (n, 6, S, S) with coordinates behind.

    On a GPU hundreds of slices are loaded at a time, in the order in which they lie in the volume's memory,
    and windowed, turned and resized there. On a processor they are loaded batch by batch, which stays in its caches.

    Args:
        voxels: (N, rows, columns), or (N, rows, columns, 3) in colour, a view of the volume.
        plan: how they fit into the network's square.
        neighbours: offsets of the slices that make an image's three channels; one offset stands for all.
        window: turns voxels into grey levels; None where they are on the 0-255 scale already.
        device: where images are made; a processor when None.
        loaded: so many slices are loaded at least; by the device when None.
        input_scaling: of the network that sees the images.
        coordinates: the slicing direction, for a network that sees where pixels lie in the volume; else None.
    """

    def __init__(
        self,
        voxels: np.ndarray,
        plan: SlicePlan,
        neighbours: Sequence[int] = (0,),
        window: IntensityPolicy | None = None,
        device: torch.device | None = None,
        loaded: int | None = None,
        input_scaling: InputScaling = "sam",
        coordinates: Axis | None = None,
    ) -> None:
        self.coordinates = coordinates
        self.voxels, self.plan, self.neighbours, self.window = voxels, plan, neighbours, window
        self.input_scaling = input_scaling
        self.device = device or torch.device("cpu")
        if loaded is None:
            loaded = 0 if self.device.type == "cpu" else _LOADED // (4 * max(1, voxels[0].size))
        self.at_least = loaded
        self._first, self._grey = 0, torch.empty(0)
        self._signal: list[bool] = []

    def __call__(self, indices: np.ndarray, flip: Sequence[int] = ()) -> Tensor:
        """The images of the slices ``indices``, mirrored along ``flip`` of (-2, -1), rows and columns."""
        seen = self._seen(indices)
        first = int(seen.min())
        resized = self.plan.resize_image(self._of(first, int(seen.max()) + 1))
        if flip:
            resized = resized.flip(list(flip))
        channels = [_picked(resized, places) for places in (seen - first).T.tolist()]
        in_colour = resized.ndim == 4
        images = channels[0] if in_colour else torch.stack(channels, dim=1).expand(-1, 3, -1, -1)
        padded = pad_image(images, self.plan.image_size, self.input_scaling)
        if self.coordinates is None:
            return padded
        located = self._coordinates(self.coordinates, indices, flip)
        return torch.cat([padded, located.to(padded.device)], dim=1)

    def _coordinates(self, axis: Axis, indices: np.ndarray, flip: Sequence[int]) -> Tensor:
        """(n, 3, S, S) of the pixels, mirrored with them; 0 in the padding."""
        places = [slice_coordinates(axis, int(index), len(self.voxels), *self.plan.resized) for index in indices]
        located = torch.from_numpy(np.stack(places))
        return pad_label(located.flip(list(flip)) if flip else located, self.plan.image_size)

    def have_signal(self, indices: np.ndarray) -> list[bool]:
        """Whether the images of the slices ``indices`` are anything but black: air in a CT's window is."""
        seen = self._seen(indices)
        self._of(int(seen.min()), int(seen.max()) + 1)
        return [any(self._signal[place - self._first] for place in places) for places in seen.tolist()]

    def _seen(self, indices: np.ndarray) -> np.ndarray:
        """(n, neighbours) of the slices that each image is made of; at the ends one is its own neighbour."""
        return np.clip(np.asarray(indices)[:, None] + np.array(self.neighbours), 0, len(self.voxels) - 1)

    def _of(self, first: int, stop: int) -> Tensor:
        """Grey levels (stop - first, rows, columns[, 3])."""
        if first < self._first:  # towards the first slice, as prompts are followed in both directions
            self._load(max(0, min(first, stop - self.at_least)), stop)
        elif stop > self._first + len(self._grey):
            self._load(first, stop)
        return self._grey[first - self._first : stop - self._first]

    def _load(self, first: int, stop: int) -> None:
        self._grey = torch.empty(0)  # before the next ones: both would take twice the memory
        voxels = on_device(self.voxels[first : max(stop, first + self.at_least)], self.device)
        self._first, self._grey = first, voxels if self.window is None else self.window.levels(voxels)
        # Less than half a level is black, since images hold whole ones; what is no number is none of these.
        self._signal = (self._grey.flatten(1).abs().amax(dim=1) < 0.5).logical_not().tolist()


def _picked(slices: Tensor, places: list[int]) -> Tensor:
    """The slices at ``places``; never by a tensor of places, which would have to wait for the device."""
    first, stop = places[0], places[-1] + 1
    if places == list(range(first, stop)):
        return slices[first:stop]
    return torch.stack([slices[place] for place in places])
