"""Volumes in, segmentations out: the slice loop that training, evaluation, prediction and the MONAI bundles share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.inferers import Inferer
from torch import Tensor, nn

from medsam_adapt.core.errors import RunError
from medsam_adapt.data.slices.clean_up import ClassCleanUp
from medsam_adapt.data.slices.device_transfer import on_host
from medsam_adapt.data.slices.geometry import slices_to_volume
from medsam_adapt.data.slices.slicing_spec import SlicingSpec
from medsam_adapt.data.volumes.cleaning import clean_each
from medsam_adapt.data.volumes.label_coding import IGNORED
from medsam_adapt.inference.class_scores import logits_of
from medsam_adapt.inference.ensemble import Scores
from medsam_adapt.inference.other_axis import OtherAxis
from medsam_adapt.inference.prompted_slices import PromptSource
from medsam_adapt.inference.slice_logits import SliceLogits
from medsam_adapt.networks.segmenter import Segmenter


class SlicewiseInferer(Inferer):
    """Runs a :class:`Segmenter` over the slices of a volume, in the volume's own voxels.

    Args:
        slicing: how the segmenter was trained to see volumes. With a prompt, prompts come from a reference label;
            logits of absent classes are put out of reach; ``labels`` are cleaned up as it has it; without a prompt the
            segmenter's head decides whether classes overlap.
        batch_size: slices at a time; by the device when None.
        output: ``labels`` gives classes (1, 1, X, Y, Z) uint8, holding the logits of one batch of slices at a time,
            or for overlapping classes masks (1, C, X, Y, Z); ``logits`` gives all logits (1, C + 1 or C, X, Y, Z).
        least: probability of a voxel's class, or that a class is there or is not, below which ``labels`` have
            `IGNORED`.
    """

    def __init__(
        self,
        slicing: SlicingSpec,
        batch_size: int | None = None,
        output: Literal["labels", "logits"] = "labels",
        least: float = 0.0,
    ) -> None:
        self.slicing, self.batch_size, self.output, self.least = slicing, batch_size, output, least

    def at_least(self, least: float, cleaning: Sequence[ClassCleanUp]) -> SlicewiseInferer:
        """The same inferer, its labels cleaned up, and `IGNORED` where the probability is below ``least``."""
        slicing = self.slicing.slicing.model_copy(update={"cleaning": [*cleaning]})
        return SlicewiseInferer(slicing, self.batch_size, "labels", least)

    @torch.no_grad()
    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        """Segment one volume.

        Args:
            inputs: (1, 1, X, Y, Z), or (1, 3, X, Y, Z) in colour, in RAS order on the 0-255 scale; a MetaTensor brings
                its spacing, else 1 mm.
            network: the segmenter, bare or wrapped for distributed training.
            reference: keyword, classes (1, 1, X, Y, Z) from which prompts are taken, for prompted segmenters.
            table: keyword, (1, P, C) where the reference holds the parts of classes that may overlap.

        Raises:
            InputError: for a prompted segmenter without a reference.
        """
        reference = None if self.slicing.prompt == "none" else kwargs.get("reference")
        structures = None if reference is None else np.asarray(torch.as_tensor(reference)[0, 0].cpu())
        table = None if reference is None or "table" not in kwargs else np.asarray(kwargs["table"][0].cpu())
        source = PromptSource(structures, table)
        colours = np.asarray(torch.as_tensor(inputs)[0].cpu())
        volume = colours[0] if len(colours) == 1 else np.moveaxis(colours, 0, -1)
        spacing = affine_to_spacing(inputs.affine.squeeze(0)) if isinstance(inputs, MetaTensor) else np.ones(3)
        sides = [float(side) for side in spacing]
        slices, *others = (
            SliceLogits(plane, volume, sides, network, source, batch_size=self.batch_size)
            for plane in self.slicing.planes
        )
        of_batch = slices.logits if self.output == "logits" else slices.classes
        if others or self.least:
            of_batch = partial(self._fused, [slices, *(OtherAxis(each, self.slicing.axis) for each in others)])
        found = on_host((None, (of_batch(batch),)) for batch in slices.batches())
        together = np.concatenate([of_slices for _, (of_slices,) in found])
        if self.least:
            together, unsure = np.split(together, 2, axis=1)
        if self.output == "labels" and (cleanings := self.slicing.cleanings):
            together[:, 0] = clean_each(together[:, 0], cleanings, slices.sides)
        if self.least:
            together[unsure > 0] = IGNORED  # only now: without them a structure would be in pieces
        return self._assemble(together, inputs)

    def _fused(self, planes: Sequence[SliceLogits | OtherAxis], indices: np.ndarray) -> Tensor:
        """What the mean of the probabilities of all planes gives for the slices ``indices``."""
        scores = Scores((plane.logits(indices) for plane in planes), self.slicing.overlapping)
        if self.least:
            return torch.cat([decided := scores.decide(), self._unsure(scores).expand_as(decided)], dim=1)
        if self.output == "labels":
            return scores.decide()
        return logits_of(scores.probabilities, self.slicing.overlapping)

    def _unsure(self, scores: Scores) -> Tensor:
        """(n, 1 or C, rows, columns) uint8: 1 where the probability of what is decided is below ``least``."""
        chances = scores.probabilities
        likely = torch.maximum(chances, 1 - chances) if scores.overlapping else chances.amax(dim=1, keepdim=True)
        return (likely < self.least).to(torch.uint8)

    def _assemble(self, slices: np.ndarray, like: Tensor) -> Tensor:
        """(N, K, rows, columns) -> (1, K, X, Y, Z), with the geometry of ``like``."""
        volumes = [slices_to_volume(slices[:, channel], self.slicing.axis) for channel in range(slices.shape[1])]
        stacked = torch.from_numpy(np.ascontiguousarray(np.stack(volumes)))[None].to(like.device)
        return MetaTensor(stacked, meta=like.meta) if isinstance(like, MetaTensor) else stacked


class SlicewiseSegmenter(nn.Module):
    """A segmenter as a 3D network, (B, 1, X, Y, Z) -> logits (B, C + 1 or C, X, Y, Z), for MONAI's bundle tools.

    Args:
        segmenter: the network that sees slices.
        slicing: how the segmenter was trained to see volumes; it gets no prompts here.
        batch_size: slices at a time; by the device when None.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        slicing: SlicingSpec,
        batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.inferer = SlicewiseInferer(slicing.model_copy(update={"prompt": "none"}), batch_size, "logits")

    def forward(self, volume: Tensor) -> Tensor:
        """Logits of volumes in RAS order on the 0-255 scale.

        Raises:
            RunError: when it is traced: the loop over slices would be recorded as the answer for one volume.
        """
        if torch.jit.is_tracing():
            raise RunError("ckpt_export: a loop over slices cannot be traced. Use medsam-adapt export.")
        results = [self.inferer(volume[index : index + 1], self.segmenter) for index in range(len(volume))]
        return torch.cat(results)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Loads the weights of the segmenter: a run's ``model.pt`` holds those, whatever wraps it."""
        return self.segmenter.load_state_dict(state_dict, strict, assign)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The weights of the segmenter."""
        return self.segmenter.state_dict(*args, **kwargs)
