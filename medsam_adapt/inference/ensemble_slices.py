"""The slices of one volume as one or several runs see them, and what all of them give together."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from medsam_adapt.data.prompts.file import Prompt
from medsam_adapt.data.prompts.placement import prompts_on_slices
from medsam_adapt.data.prompts.simulated import SlicePrompts, prompts_of_masks
from medsam_adapt.data.slices.geometry import volume_to_slices
from medsam_adapt.data.slices.slicing_spec import SlicingSpec
from medsam_adapt.data.volumes.io import to_ras
from medsam_adapt.data.volumes.label_coding import renumber
from medsam_adapt.inference.ensemble import Scores
from medsam_adapt.inference.other_axis import OtherAxis
from medsam_adapt.inference.prompted_slices import PromptSource
from medsam_adapt.inference.propagation import propagate
from medsam_adapt.inference.slice_logits import SliceLogits
from medsam_adapt.networks.segmenter import Segmenter
from medsam_adapt.runs.record import RunRecord

_FLIPS = ((), (-1,), (-2,), (-2, -1))  # of rows and columns: never from slice to slice


class EnsembleSlices:
    """The slices of one volume along the first run's direction, as every run sees them.

    Args:
        record: of the first run.
        members: slicing and network of each run.
        image: as for :meth:`Predictor.segment`, voxels.
        affine: (4, 4) from voxels to mm.
        source: of the prompts, which :func:`prompt_source` gives.
        batch_size: slices at a time; by the device when None.

    Attributes:
        first: the slices as the first run sees them.
        alone: whether there is no other run, and no other slicing direction.
        shape: slices, rows and columns.

    Raises:
        InputError: for a run that needs prompts and gets none.
    """

    def __init__(
        self,
        record: RunRecord,
        members: Sequence[tuple[SlicingSpec, Segmenter]],
        image: np.ndarray,
        affine: np.ndarray,
        source: PromptSource,
        batch_size: int | None = None,
    ) -> None:
        self._record = record
        volume, affine_ras = to_ras(image, affine)
        spacing = np.linalg.norm(affine_ras[:3, :3], axis=0)
        windows = {slicing.policy: slicing.policy.window_of(volume) for slicing, _ in members}
        self._planes = [
            SliceLogits(plane, volume, spacing, network, source, windows[slicing.policy], batch_size)
            for slicing, network in members
            for plane in slicing.planes
        ]
        self._passes = [
            each if each.slicing.axis == record.axis else OtherAxis(each, record.axis) for each in self._planes
        ]
        self.first = self._planes[0]
        self.alone, self.shape = len(self._planes) == 1, self.first.shape

    def follow(self, prompts: SlicePrompts) -> None:
        """Draw what ``prompts`` point at on the neighbouring slices too, as the first run follows it there."""
        followed = propagate(self.first, prompts, self._record.prompt)
        for plane in self._planes:
            plane.prompted.prompts = followed

    def scores(self, flips: bool) -> Iterator[tuple[np.ndarray, Scores]]:
        """Indices and scores of each batch of slices in turn; with ``flips`` of their mirror images too."""
        for indices in self.first.batches():
            passes = itertools.product(self._passes, _FLIPS if flips else _FLIPS[:1])
            yield indices, Scores((each.logits(indices, flip) for each, flip in passes), self._record.overlapping)


def prompt_source(
    record: RunRecord,
    shape: Sequence[int],
    affine: np.ndarray,
    prompts: Sequence[Prompt] | None,
    reference: np.ndarray | None,
) -> PromptSource:
    """What points at the structures of a volume of this shape and affine; prompts come before a reference.

    Args:
        record: of the run.
        shape: (X, Y, Z, …) of the volume.
        affine: (4, 4) from its voxels to mm.
        prompts: as for :meth:`Predictor.segment`.
        reference: label ids (X, Y, Z), or masks (C, X, Y, Z).

    Raises:
        InputError: prompts that do not fit the run or the volume.
    """
    if prompts is not None:
        return PromptSource(prompts=prompts_on_slices(prompts, record, shape[:3], affine))
    if reference is None:
        return PromptSource()
    if reference.ndim == 4:
        masks = [volume_to_slices(to_ras(mask, affine)[0], record.axis) for mask in reference]
        return PromptSource(prompts=prompts_of_masks(masks, record.prompt))
    return PromptSource(renumber(to_ras(reference, affine)[0], record.label_ids))
