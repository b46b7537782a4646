"""The slices of one volume, and what a segmenter makes of them in the volume's own pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from medsam_adapt.data.slices.geometry import SlicePlan, sides_of_slices, volume_to_slices
from medsam_adapt.data.slices.slicing_spec import SlicingSpec
from medsam_adapt.inference.class_scores import ABSENT_LOGIT, decide, logits_of, probabilities_of
from medsam_adapt.inference.enlarged_classes import enlarged_classes
from medsam_adapt.inference.prompted_slices import PromptedSlices, PromptSource
from medsam_adapt.inference.slice_images import SliceImages
from medsam_adapt.weights.pixel_scaling import input_scaling_of

if TYPE_CHECKING:
    from medsam_adapt.data.slices.intensity import IntensityPolicy
    from medsam_adapt.networks.segmenter import Segmenter

_SHARE_OF_LOGITS = 1 / 16  # of a GPU's memory that the logits of a batch take, two or three times for a while
_TILES_AT_ONCE = 16
_PIXELS_AT_ONCE = 2**17  # on a processor
_LARGER = 3  # times the network's pixels, from which most pixels of a slice lie within one class
_SIGMAS = 2  # of the average over neighbouring slices, that are taken
_SMALLEST = 1e-6  # probability kept of such an average


class SliceLogits:
    """Logits of the slices of one volume in the volume's own pixels, for as many slices at a time as are wanted.

    Slices without any signal (air in a CT's window) are the same to the network: it sees the first of them alone.

    Args:
        slicing: how the volume is sliced and prompted.
        volume: (X, Y, Z), or (X, Y, Z, 3) in colour, in RAS order.
        spacing: of its voxels, mm.
        network: the segmenter, bare or wrapped for distributed training.
        source: of the prompts of a prompted segmenter.
        window: turns voxels into grey levels, slice by slice; None where they are on the 0-255 scale already.
        batch_size: slices at a time; by the device when None.

    Attributes:
        overlapping: whether the channels of the logits are C classes that may overlap, without background.
        prompted: what prompts draw on the slices.
        shape: slices, rows and columns.
        sides: of their voxels, between slices, down and across, mm.
        volume_shape: (X, Y, Z).

    Raises:
        InputError: for a prompted segmenter without prompts.
    """

    def __init__(
        self,
        slicing: SlicingSpec,
        volume: np.ndarray,
        spacing: Sequence[float],
        network: Callable[..., Any],
        source: PromptSource | None = None,
        window: IntensityPolicy | None = None,
        batch_size: int | None = None,
    ) -> None:
        self.slicing, self.batch_size = slicing, batch_size
        self.segmenter = cast("Segmenter", getattr(network, "module", network))
        self.overlapping = slicing.overlapping or self.segmenter.head == "overlapping"
        voxels = volume_to_slices(volume, slicing.axis)
        self.shape = voxels.shape[:3]
        self.volume_shape = volume.shape[:3]
        size = self.segmenter.image_size
        sides = tuple(float(side) for side in spacing)
        self.sides = sides_of_slices(sides, slicing.axis)
        self.plan = SlicePlan.of(volume.shape, sides, slicing.axis, slicing.slice_size or size)
        neighbours = (-1, 0, 1) if slicing.channels == "adjacent" and voxels.ndim == 3 else (0,)
        prepares = self._device if self._device.type == "cuda" else torch.device("cpu")
        scaling = input_scaling_of(self.segmenter.sam)
        located = slicing.axis if slicing.sees_coordinates else None
        self.images = SliceImages(voxels, self.plan, neighbours, window, prepares, None, scaling, located)
        self.prompted = PromptedSlices(slicing, self.segmenter, self.images, source or PromptSource(), self.overlapping)
        self._of_nothing: dict[tuple[int, ...], Tensor] = {}
        self._chances: dict[tuple[int, ...], dict[int, Tensor]] = {}

    def batches(self) -> Iterator[np.ndarray]:
        """Indices of the slices of each batch in turn."""
        size = self.batch_size or self._at_a_time()
        for start in range(0, self.shape[0], size):
            yield np.arange(start, min(start + size, self.shape[0]))

    @torch.no_grad()
    def logits(self, indices: np.ndarray, flip: Sequence[int] = ()) -> Tensor:
        """Logits (n, K, rows, columns) of the slices ``indices``.

        Args:
            indices: of the slices.
            flip: the segmenter sees them mirrored along these of (-2, -1), rows and columns; the logits are turned
                back.
        """
        return self.plan.restore_logits(self._small(indices, flip))

    @torch.no_grad()
    def classes(self, indices: np.ndarray) -> Tensor:
        """What :func:`decide` makes of the logits of the slices ``indices``, without holding them all."""
        small = self._small(indices)
        # A slice at a time stays in a processor's cache; a GPU is faster at all of them together.
        parts = small.split(1 if small.device.type == "cpu" else len(small))
        return torch.cat([self._decided(part) for part in parts])

    def _decided(self, small: Tensor) -> Tensor:
        """What :func:`decide` makes of the enlarged logits ``small`` (n, K, h, w), of one slice on a processor."""
        native, resized = self.plan.native, self.plan.resized
        if small.device.type == "cpu" and not self.overlapping and math.prod(native) > _LARGER * math.prod(resized):
            found = enlarged_classes(small[0], native)
            if found is not None:
                return found[None, None]
        return decide(self.plan.restore_logits(small), self.overlapping)

    def grey_levels(self, index: int) -> np.ndarray:
        """Grey levels (rows, columns) from 0 to 255 of one slice; of a colour slice their mean."""
        window, voxels = self.images.window, self.images.voxels[index].astype(np.float32)
        levels = voxels if window is None else window.apply(voxels)
        return levels.mean(axis=-1) if levels.ndim == 3 else levels

    @property
    def _device(self) -> torch.device:
        return self.segmenter.sam.pixel_mean.device

    def _at_a_time(self) -> int:
        device, size = self._device, self.segmenter.image_size
        memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
        logits = (len(self.slicing.class_names) + 1) * max(size**2, math.prod(self.plan.native))
        return slices_at_a_time(memory, size, logits)

    def _small(self, indices: np.ndarray, flip: Sequence[int] = ()) -> Tensor:
        """Logits (n, K, h, w) in pixels of the resized slices, averaged over neighbours where that is wanted."""
        logits = self._averaged(indices, tuple(flip)) if self.slicing.slice_sigma else self._alone(indices, flip)
        for absent in self.slicing.absent_classes:
            logits[:, absent - int(self.overlapping)] = ABSENT_LOGIT
        return logits

    def _averaged(self, indices: np.ndarray, flip: tuple[int, ...]) -> Tensor:
        """Logits (n, K, h, w) of the mean probabilities of slices and their neighbours; the ends are repeated.

        Probabilities of the last slices are kept, so that batches in order see every slice once.
        """
        sigma = self.slicing.slice_sigma
        reach = math.ceil(_SIGMAS * sigma)
        offsets = np.arange(-reach, reach + 1)
        weights = np.exp(-0.5 * (offsets / sigma) ** 2)
        places = np.clip(np.asarray(indices)[:, None] + offsets, 0, self.shape[0] - 1)
        known = self._chances.setdefault(flip, {})
        missing = np.setdiff1d(places, [*known])
        if missing.size:
            logits = self._alone(missing, flip)
            known |= zip(missing.tolist(), probabilities_of(logits, self.overlapping), strict=True)
        shares = (weights / weights.sum()).tolist()
        mean = torch.stack(
            [
                torch.stack([share * known[place] for share, place in zip(shares, row, strict=True)]).sum(dim=0)
                for row in places.tolist()
            ]
        )
        self._chances[flip] = {place: each for place, each in known.items() if place >= places.max() - 2 * reach}
        return logits_of(mean, self.overlapping, _SMALLEST)

    def _alone(self, indices: np.ndarray, flip: Sequence[int] = ()) -> Tensor:
        """Logits (n, K, h, w) of each slice by itself."""
        height, width = self.plan.resized
        images = self.images(indices, flip).to(self._device)
        if self.slicing.prompt == "none":
            logits = self._unprompted(images, self.images.have_signal(indices), tuple(flip))
        else:
            logits = self.prompted.logits(images, indices, flip)
        return _flipped(logits[..., :height, :width], flip).float()

    def _unprompted(self, images: Tensor, shown: Sequence[bool], flip: tuple[int, ...]) -> Tensor:
        """(n, K, S, S); images that are not ``shown``, without any signal, are all answered as the first of them was.

        Neither which they are nor what they give is asked of the device, which would have to come to an end first.
        """
        if all(shown) or self.slicing.sees_coordinates:  # with them, slices without signal differ by where they are
            return self._segmented(images)
        if flip not in self._of_nothing:
            first = shown.index(False)
            self._of_nothing[flip] = self._segmented(images[first : first + 1])
        of_nothing = self._of_nothing[flip]
        if not any(shown):
            return of_nothing.repeat(len(images), 1, 1, 1)
        wanted = torch.stack([image for image, is_shown in zip(images, shown, strict=True) if is_shown])
        computed = iter(self._segmented(wanted))
        return torch.stack([next(computed) if is_shown else of_nothing[0] for is_shown in shown])

    def _segmented(self, images: Tensor) -> Tensor:
        """(n, K, h, w) of images (n, 3, S, S): tile by tile, where the network sees less than a slice at once."""
        size = self.segmenter.image_size
        if self.plan.image_size <= size:
            return self.segmenter(images)
        from monai.inferers import sliding_window_inference  # only here, since it is slow to import

        height, width = (max(side, size) for side in self.plan.resized)
        logits = sliding_window_inference(
            images[..., :height, :width], size, _TILES_AT_ONCE, self.segmenter, overlap=0.5, mode="gaussian"
        )
        assert isinstance(logits, Tensor)  # as what the segmenter gives
        return logits


def slices_at_a_time(memory: int | None, image_size: int, logits: int) -> int:
    """How many slices a device is given at once where no option sets it.

    A processor is given 131,072 pixels, eight slices of 128 x 128 or two of 256 x 256, but at least one slice and at
    most eight: TinyViT's intermediate results of more leave the caches. A GPU is given a slice of 1024 x 1024 pixels
    for each GiB of its memory, but no more than 16, which keep a large one busy, and of smaller slices as many pixels;
    unless their logits take too much.

    Args:
        memory: of the GPU, bytes; None on a processor.
        image_size: S, in pixels.
        logits: values of one slice.
    """
    if memory is None:
        return max(1, min(8, _PIXELS_AT_ONCE // image_size**2))
    pixels = min(memory / 2**30, 16) * 1024**2
    return max(1, int(min(pixels / image_size**2, memory * _SHARE_OF_LOGITS / (4 * logits))))


def _flipped(images: Tensor, dims: Sequence[int]) -> Tensor:
    return images.flip(list(dims)) if dims else images  # without any, flip would copy them
