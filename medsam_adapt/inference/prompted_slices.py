"""What prompts draw on the slices of one volume."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.prompts.simulated import SlicePrompt, SlicePrompts, exact_prompt, flip_prompt
from medsam_adapt.data.slices.geometry import as_tensor, volume_to_slices
from medsam_adapt.data.slices.slicing_spec import SlicingSpec
from medsam_adapt.data.volumes.label_coding import classes_in, mask_of
from medsam_adapt.inference.class_scores import ABSENT_LOGIT
from medsam_adapt.inference.slice_images import SliceImages

if TYPE_CHECKING:
    from medsam_adapt.networks.segmenter import Segmenter

_KNOWN = 2**28  # bytes of embeddings that are kept while prompts are followed
_VALUES = 2**23  # of embeddings that are decoded at once: 8 prompts on LiteMedSAM's of 64 x 64

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


class PromptedSlices:
    """What prompts draw on the slices of one volume, with the embeddings of the slices that were drawn on last.

    Args:
        slicing: how the volume is sliced and prompted.
        segmenter: draws one structure for each prompt.
        images: the slices as the segmenter sees them.
        source: of the prompts.
        overlapping: whether structures may overlap, so that none is weighed against background.

    Attributes:
        prompts: those that are drawn in :meth:`logits`; None where they come from a reference.

    Raises:
        InputError: for a prompted segmenter without prompts.
    """

    def __init__(
        self, slicing: SlicingSpec, segmenter: Segmenter, images: SliceImages, source: PromptSource, overlapping: bool
    ) -> None:
        if slicing.prompt != "none" and source.reference is None and source.prompts is None:
            raise InputError(
                f"{slicing.prompt} prompts: this run was trained with them and cannot segment without. Train one with "
                "--prompt none."
            )
        self.slicing, self.segmenter, self.images, self.overlapping = slicing, segmenter, images, overlapping
        self.prompts, self._table = source.prompts, source.table
        self._reference = None if source.reference is None else volume_to_slices(source.reference, slicing.axis)
        self._known: dict[int, Tensor] = {}

    @torch.no_grad()
    def draw(self, index: int, prompt: SlicePrompt) -> np.ndarray:
        """The mask (rows, columns) bool that one prompt draws on one slice."""
        return (self.draw_logits(index, prompt) > 0).cpu().numpy()

    @torch.no_grad()
    def draw_logits(self, index: int, prompt: SlicePrompt) -> Tensor:
        """The logits (rows, columns) that one prompt gives on one slice; above 0 is inside."""
        known = index in self._known and getattr(self.segmenter, "detail", None) is None
        image = None if known else self._image(index)
        logits = self._decode(self._embedding(index, image), [prompt.resized(self.images.plan)], image)
        return self.images.plan.restore_logits(logits[:, None].float())[0, 0]

    @torch.no_grad()
    def embed(self, index: int) -> None:
        """Compute the embedding of one slice, unless it is kept already: `draw` is then several times faster there."""
        if index not in self._known:
            self._embedding(index, self._image(index))

    def has_embedding(self, index: int) -> bool:
        """Whether the embedding of a slice is kept."""
        return index in self._known

    def logits(self, images: Tensor, indices: np.ndarray, flip: Sequence[int]) -> Tensor:
        """(n, C + 1, S, S): background 0, and each structure's logits on the slices where it has a prompt.

        Of structures that may overlap (n, C, S, S): none is weighed against background.

        Args:
            images: of the slices ``indices`` (n, 3, S, S), on the device, mirrored along ``flip``.
            indices: of the slices.
            flip: those of (-2, -1), rows and columns, along which prompts are mirrored too.
        """
        size = self.segmenter.image_size
        background = int(not self.overlapping)
        logits = images.new_full((len(images), len(self.slicing.class_names) + background, size, size), ABSENT_LOGIT)
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
            (row, position, structure, flip_prompt(prompt, flip, self.images.plan))
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

    @property
    def _device(self) -> torch.device:
        return self.segmenter.sam.pixel_mean.device

    def _image(self, index: int) -> Tensor:
        return self.images(np.array([index])).to(self._device)

    def _embedding(self, index: int, image: Tensor | None) -> Tensor:
        """The embedding (1, D, h, w) of one slice; structures that are followed one by one come to the same slices."""
        known = self._known.get(index)  # another thread may remove it from the table
        if known is None:
            known = self.segmenter.encode(image)
            if (len(self._known) + 1) * known.nbytes > _KNOWN:
                self._known.pop(next(iter(self._known)))
            self._known[index] = known
        return known

    def _prompts_of(self, indices: np.ndarray) -> list[dict[int, dict[str, np.ndarray]]]:
        """For each slice, class -> arguments of the segmenter in pixels of the resized slice."""
        plan = self.images.plan
        if self.prompts is not None:
            given = [self.prompts.get(int(index), {}) for index in indices]
            return [{cls: prompt.resized(plan) for cls, prompt in prompts.items()} for prompts in given]
        assert self._reference is not None, "the constructor checks it"
        labels = plan.resize_label(as_tensor(self._reference[indices], torch.int64)).numpy()
        mode = self.slicing.prompt
        return [
            {
                int(cls): exact_prompt(mask_of(label, cls, self._table) == 1, mode)
                for cls in classes_in(label, self._table)
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
