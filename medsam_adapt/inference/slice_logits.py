"""The slices of one volume, and what a segmenter makes of them in the volume's own pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.prompts.simulated import SlicePrompt, SlicePrompts, exact_prompt, flip_prompt
from medsam_adapt.data.slices.geometry import SlicePlan, as_tensor, volume_to_slices
from medsam_adapt.data.slices.slicing_spec import SlicingSpec
from medsam_adapt.data.volumes.label_coding import classes_in, mask_of
from medsam_adapt.inference.enlarged_classes import enlarged_classes
from medsam_adapt.inference.slice_images import SliceImages
from medsam_adapt.weights.pixel_scaling import input_scaling_of

if TYPE_CHECKING:
    from medsam_adapt.data.slices.intensity import IntensityPolicy
    from medsam_adapt.networks.segmenter import Segmenter

_SHARE_OF_LOGITS = 1 / 16  # of a GPU's memory that the logits of a batch take, two or three times for a while
_TILES_AT_ONCE = 16
_PIXELS_AT_ONCE = 2**17  # on a processor
_KNOWN = 2**28  # bytes of embeddings that are kept while prompts are followed
_VALUES = 2**23  # of embeddings that are decoded at once: 8 prompts on LiteMedSAM's of 64 x 64
_LARGER = 3  # times the network's pixels, from which most pixels of a slice lie within one class
_SIGMAS = 2  # of the average over neighbouring slices, that are taken
_SMALLEST = 1e-6  # probability kept of such an average
_NEVER = -1e4  # a logit that no softmax and no argmax brings back, finite in half precision too


#: row of the embedding, position in the batch, structure, and its prompt
_Place = tuple[int, int, int, Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class PromptSource:
    """Where a prompted segmenter's prompts come from: a reference, or the prompts themselves.

    Attributes:
        reference: classes (X, Y, Z), from which prompts are taken slice by slice.
        table: (P, C), where ``reference`` holds the parts of classes that may overlap.
        prompts: slices are counted as :func:`volume_to_slices` gives them.
    """

    reference: np.ndarray | None = None
    table: np.ndarray | None = None
    prompts: SlicePrompts | None = None


def decide(scores: Tensor, overlapping: bool, even: float = 0.0) -> Tensor:
    """Classes (n, 1, rows, columns) uint8 with the highest score, or where they may overlap masks (n, K, …) uint8.

    Args:
        scores: (n, K, rows, columns); of classes that exclude each other, background first.
        overlapping: whether classes may overlap.
        even: the score above which a class that may overlap is there.
    """
    if overlapping:
        return (scores > even).to(torch.uint8)
    # max, whose indices are argmax's: over a dimension in front, torch is several times slower at argmax on a CPU.
    return scores.max(dim=1, keepdim=True).indices.to(torch.uint8)


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
        shape: slices, rows and columns.
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
        source = source or PromptSource()
        if slicing.prompt != "none" and source.reference is None and source.prompts is None:
            raise InputError(
                f"{slicing.prompt} prompts: this run was trained with them and cannot segment without. Train one with "
                "--prompt none."
            )
        self.slicing, self.prompts, self.table = slicing, source.prompts, source.table
        self.batch_size = batch_size
        self.segmenter = cast("Segmenter", getattr(network, "module", network))
        self.overlapping = slicing.overlapping or self.segmenter.head == "overlapping"
        voxels = volume_to_slices(volume, slicing.axis)
        self.shape = voxels.shape[:3]
        self.volume_shape = volume.shape[:3]
        self.reference = None if source.reference is None else volume_to_slices(source.reference, slicing.axis)
        size = self.segmenter.image_size
        sides = tuple(float(side) for side in spacing)
        self.plan = SlicePlan.of(volume.shape, sides, slicing.axis, slicing.slice_size or size)
        neighbours = (-1, 0, 1) if slicing.channels == "adjacent" and voxels.ndim == 3 else (0,)
        prepares = self._device if self._device.type == "cuda" else torch.device("cpu")
        scaling = input_scaling_of(self.segmenter.sam)
        located = slicing.axis if slicing.sees_coordinates else None
        self.images = SliceImages(voxels, self.plan, neighbours, window, prepares, None, scaling, located)
        self._of_nothing: dict[tuple[int, ...], Tensor] = {}
        self._known: dict[int, Tensor] = {}
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

    @torch.no_grad()
    def draw(self, index: int, prompt: SlicePrompt) -> np.ndarray:
        """The mask (rows, columns) bool that one prompt draws on one slice."""
        return (self.draw_logits(index, prompt) > 0).cpu().numpy()

    @torch.no_grad()
    def draw_logits(self, index: int, prompt: SlicePrompt) -> Tensor:
        """The logits (rows, columns) that one prompt gives on one slice; above 0 is inside."""
        known = index in self._known and getattr(self.segmenter, "detail", None) is None
        image = None if known else self.images(np.array([index])).to(self._device)
        logits = self._decode(self._embedding(index, image), [prompt.resized(self.plan)], image)
        return self.plan.restore_logits(logits[:, None].float())[0, 0]

    @torch.no_grad()
    def embed(self, index: int) -> None:
        """Compute the embedding of one slice, unless it is kept already: `draw` is then several times faster there."""
        if index not in self._known:
            self._embedding(index, self.images(np.array([index])).to(self._device))

    def grey_levels(self, index: int) -> np.ndarray:
        """Grey levels (rows, columns) from 0 to 255 of one slice; of a colour slice their mean."""
        window, voxels = self.images.window, self.images.voxels[index].astype(np.float32)
        levels = voxels if window is None else window.apply(voxels)
        return levels.mean(axis=-1) if levels.ndim == 3 else levels

    def has_embedding(self, index: int) -> bool:
        """Whether the embedding of a slice is kept."""
        return index in self._known

    def _embedding(self, index: int, image: Tensor | None) -> Tensor:
        """The embedding (1, D, h, w) of one slice; structures that are followed one by one come to the same slices."""
        known = self._known.get(index)  # another thread may remove it from the table
        if known is None:
            known = self.segmenter.encode(image)
            if (len(self._known) + 1) * known.nbytes > _KNOWN:
                self._known.pop(next(iter(self._known)))
            self._known[index] = known
        return known

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
            logits[:, absent - int(self.overlapping)] = _NEVER
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
            chances = logits.sigmoid() if self.overlapping else logits.softmax(dim=1)
            known |= zip(missing.tolist(), chances, strict=True)
        shares = (weights / weights.sum()).tolist()
        mean = torch.stack(
            [
                torch.stack([share * known[place] for share, place in zip(shares, row, strict=True)]).sum(dim=0)
                for row in places.tolist()
            ]
        )
        self._chances[flip] = {place: each for place, each in known.items() if place >= places.max() - 2 * reach}
        return mean.clamp(_SMALLEST, 1 - _SMALLEST).logit() if self.overlapping else mean.clamp(min=_SMALLEST).log()

    def _alone(self, indices: np.ndarray, flip: Sequence[int] = ()) -> Tensor:
        """Logits (n, K, h, w) of each slice by itself."""
        height, width = self.plan.resized
        images = self.images(indices, flip).to(self._device)
        if self.slicing.prompt == "none":
            logits = self._unprompted(images, self.images.have_signal(indices), tuple(flip))
        else:
            logits = self._prompted(images, indices, flip)
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

    def _prompted(self, images: Tensor, indices: np.ndarray, flip: Sequence[int]) -> Tensor:
        """(n, C + 1, S, S): background 0, and each structure's logits on the slices where it has a prompt.

        Of structures that may overlap (n, C, S, S): none is weighed against background.
        """
        size = self.segmenter.image_size
        background = int(not self.overlapping)
        logits = images.new_full((len(images), len(self.slicing.class_names) + background, size, size), _NEVER)
        logits[:, :background] = 0.0
        wanted = self._prompts_of(indices)
        prompted = [position for position, prompts in enumerate(wanted) if prompts]
        if not prompted:
            return logits
        shown = images[prompted]
        if not flip and all(int(indices[position]) in self._known for position in prompted):
            embedding = torch.cat([self._known[int(indices[position])] for position in prompted])
        else:
            embedding = self.segmenter.encode(shown)
        places = [
            (row, position, structure, flip_prompt(prompt, flip, self.plan))
            for row, position in enumerate(prompted)
            for structure, prompt in wanted[position].items()
        ]
        one_slice = self._device.type == "cpu"  # whose prompts share a part of the work there
        for group in _alike(places, max(1, _VALUES // embedding[0].numel()), one_slice):
            rows, positions, structures, prompts = (list(each) for each in zip(*group, strict=True))
            channels = [structure - 1 + background for structure in structures]
            first, count = rows[0], len(rows)
            of_group = embedding[first].expand(count, -1, -1, -1) if one_slice else embedding[rows]
            logits[positions, channels] = self._decode(of_group, prompts, shown[rows])
        return logits

    def _prompts_of(self, indices: np.ndarray) -> list[dict[int, dict[str, np.ndarray]]]:
        """For each slice, class -> arguments of the segmenter in pixels of the resized slice."""
        if self.prompts is not None:
            given = [self.prompts.get(int(index), {}) for index in indices]
            return [{cls: prompt.resized(self.plan) for cls, prompt in prompts.items()} for prompts in given]
        assert self.reference is not None, "slices_of checks it"
        labels = self.plan.resize_label(as_tensor(self.reference[indices], torch.int64)).numpy()
        mode = self.slicing.prompt
        return [
            {
                int(cls): exact_prompt(mask_of(label, cls, self.table) == 1, mode)
                for cls in classes_in(label, self.table)
            }
            for label in labels
        ]

    def _decode(self, embedding: Tensor, prompts: Sequence[Mapping[str, np.ndarray]], images: Tensor | None) -> Tensor:
        """(n, S, S) logits of the structures that prompts of one kind point at, each on its own slice.

        Args:
            embedding: of the slices (n, D, h, w).
            prompts: one for each.
            images: the slices (n, 3, S, S); only a detail branch looks at them.
        """
        batch: Any = {
            name: torch.from_numpy(np.stack([prompt[name] for prompt in prompts])).to(embedding.device)
            for name in prompts[0]
        }
        if getattr(self.segmenter, "detail", None) is not None:
            batch["image"] = images
        return self.segmenter.decode(embedding, **batch).logits[:, 0]


def _alike(places: Sequence[_Place], most: int, one_slice: bool) -> Iterator[list[_Place]]:
    """``places`` in groups of at most ``most`` that are decoded at once: prompts of one kind, with as many points.

    With ``one_slice`` a group is on one slice.
    """
    kinds: dict[tuple[Any, ...], list[_Place]] = {}
    for place in places:
        kind = tuple(sorted((name, value.shape) for name, value in place[3].items()))
        kinds.setdefault((place[0] if one_slice else 0, *kind), []).append(place)
    for found in kinds.values():
        for start in range(0, len(found), most):
            yield found[start : start + most]


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
