"""The slices of one volume, and what a segmenter makes of them in the volume's own pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from medsam_adapt.data.geometry import SlicePlan, as_tensor, volume_to_slices
from medsam_adapt.data.parts import classes_in, mask_of
from medsam_adapt.data.prompts import SlicePrompt, SlicePrompts, exact_prompt, flip_prompt
from medsam_adapt.data.transforms import pad_image
from medsam_adapt.errors import InputError

if TYPE_CHECKING:  # it imports this module
    from medsam_adapt.data.intensity import IntensityPolicy
    from medsam_adapt.inference import SlicewiseInferer
    from medsam_adapt.networks.segmenter import Segmenter

_NEVER = -1e4  # a logit that no softmax and no argmax brings back, finite in half precision too


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
        inferer: how the volume is sliced and prompted.
        volume: (X, Y, Z), or (X, Y, Z, 3) in colour, in RAS order.
        spacing: of its voxels, mm.
        network: the segmenter, bare or wrapped for distributed training.
        source: of the prompts of a prompted segmenter.
        window: turns voxels into grey levels, slice by slice; None where they are on the 0-255 scale already.

    Attributes:
        overlapping: whether the channels of the logits are C classes that may overlap, without background.
        shape: slices, rows and columns.

    Raises:
        InputError: for a prompted segmenter without prompts.
    """

    def __init__(
        self,
        inferer: SlicewiseInferer,
        volume: np.ndarray,
        spacing: Sequence[float],
        network: Callable[..., Any],
        source: PromptSource | None = None,
        window: IntensityPolicy | None = None,
    ) -> None:
        source = source or PromptSource()
        if inferer.prompt != "none" and source.reference is None and source.prompts is None:
            raise InputError(
                f"this run was trained with a {inferer.prompt} prompt and cannot segment without one: "
                "train one with --prompt none."
            )
        self.inferer, self.prompts, self.table, self.window = inferer, source.prompts, source.table, window
        self.segmenter = cast("Segmenter", getattr(network, "module", network))
        self.overlapping = inferer.overlapping or self.segmenter.head == "overlapping"
        self.voxels = volume_to_slices(volume, inferer.axis)
        self.shape = self.voxels.shape[:3]
        self.reference = None if source.reference is None else volume_to_slices(source.reference, inferer.axis)
        size = self.segmenter.image_size
        self.plan = SlicePlan.of(volume.shape, tuple(float(s) for s in spacing), inferer.axis, size)
        self._of_nothing: dict[tuple[int, ...], Tensor] = {}

    def batches(self) -> Iterator[np.ndarray]:
        """Indices of the slices of each batch in turn."""
        for start in range(0, len(self.voxels), self.inferer.batch_size):
            yield np.arange(start, min(start + self.inferer.batch_size, len(self.voxels)))

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
        return torch.cat([decide(self.plan.restore_logits(part), self.overlapping) for part in parts])

    @torch.no_grad()
    def draw(self, index: int, prompt: SlicePrompt) -> np.ndarray:
        """The mask (rows, columns) bool that one prompt draws on one slice."""
        images = self._images(np.array([index])).to(self.segmenter.sam.pixel_mean.device)
        logits = self._decode(self.segmenter.encode(images), prompt.resized(self.plan))
        return (self.plan.restore_logits(logits[None, None].float()) > 0)[0, 0].cpu().numpy()

    def _small(self, indices: np.ndarray, flip: Sequence[int] = ()) -> Tensor:
        """Logits (n, K, h, w) in pixels of the resized slices."""
        height, width = self.plan.resized
        images = self._images(indices, flip)
        if self.inferer.prompt == "none":
            logits = self._unprompted(images, tuple(flip))
        else:
            logits = self._prompted(images.to(self.segmenter.sam.pixel_mean.device), indices, flip)
        logits = _flipped(logits[..., :height, :width], flip).float()
        for absent in self.inferer.absent:
            logits[:, absent - int(self.overlapping)] = _NEVER
        return logits

    def _unprompted(self, images: Tensor, flip: tuple[int, ...]) -> Tensor:
        """(n, K, S, S); images without any signal are all answered as the first of them was."""
        device = self.segmenter.sam.pixel_mean.device
        height, width = self.plan.resized
        shown = images[..., :height, :width].flatten(1).any(dim=1)
        if shown.all():
            return self.segmenter(images.to(device))
        if flip not in self._of_nothing:
            first = images[int(shown.logical_not().nonzero()[0])]
            self._of_nothing[flip] = self.segmenter(first[None].to(device))
        logits = self._of_nothing[flip].repeat(len(images), 1, 1, 1)
        if shown.any():
            logits[shown.to(device)] = self.segmenter(images[shown].to(device))
        return logits

    def _images(self, indices: np.ndarray, flip: Sequence[int] = ()) -> Tensor:
        """(n, 3, S, S) of the slices wanted."""
        if self.voxels.ndim == 4:
            return pad_image(_flipped(self.plan.resize_image(self._grey(indices)), flip), self.plan.image_size)
        offsets = (0, 0, 0) if self.inferer.channels == "repeat" else (-1, 0, 1)
        wanted = np.clip(indices[:, None] + np.array(offsets), 0, len(self.voxels) - 1)
        unique, position = np.unique(wanted, return_inverse=True)
        resized = _flipped(self.plan.resize_image(self._grey(unique)), flip)
        return pad_image(resized[torch.from_numpy(position.reshape(wanted.shape))], self.plan.image_size)

    def _grey(self, indices: np.ndarray) -> Tensor:
        """Grey levels of slices, float32."""
        voxels = self.voxels[indices]
        return as_tensor(voxels if self.window is None else self.window.apply(voxels))

    def _prompted(self, images: Tensor, indices: np.ndarray, flip: Sequence[int]) -> Tensor:
        """(n, C + 1, S, S): background 0, and each structure's logits on the slices where it has a prompt.

        Of structures that may overlap (n, C, S, S): none is weighed against background.
        """
        size = self.segmenter.image_size
        background = int(not self.overlapping)
        logits = images.new_full((len(images), self.inferer.num_classes + background, size, size), _NEVER)
        logits[:, :background] = 0.0
        wanted = self._prompts_of(indices)
        prompted = [position for position, prompts in enumerate(wanted) if prompts]
        if not prompted:
            return logits
        embedding = self.segmenter.encode(images[prompted])
        for row, position in enumerate(prompted):
            for structure, prompt in wanted[position].items():
                turned = flip_prompt(prompt, flip, self.plan)
                logits[position, structure - 1 + background] = self._decode(embedding[row : row + 1], turned)
        return logits

    def _prompts_of(self, indices: np.ndarray) -> list[dict[int, dict[str, np.ndarray]]]:
        """For each slice, class -> arguments of the segmenter in pixels of the resized slice."""
        if self.prompts is not None:
            given = [self.prompts.get(int(index), {}) for index in indices]
            return [{cls: prompt.resized(self.plan) for cls, prompt in prompts.items()} for prompts in given]
        assert self.reference is not None, "slices_of checks it"
        labels = self.plan.resize_label(as_tensor(self.reference[indices], torch.int64)).numpy()
        mode = self.inferer.prompt
        return [
            {
                int(cls): exact_prompt(mask_of(label, cls, self.table) == 1, mode)
                for cls in classes_in(label, self.table)
            }
            for label in labels
        ]

    def _decode(self, embedding: Tensor, prompt: Mapping[str, np.ndarray]) -> Tensor:
        """(S, S) logits of the structure that the prompt points at."""
        batch: Any = {name: torch.from_numpy(value)[None].to(embedding.device) for name, value in prompt.items()}
        return self.segmenter.decode(embedding, **batch).logits[0, 0]


def _flipped(images: Tensor, dims: Sequence[int]) -> Tensor:
    return images.flip(list(dims)) if dims else images  # without any, flip would copy them
