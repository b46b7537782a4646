"""Volumes in, segmentations out: the slice loop that training, evaluation, prediction and the MONAI bundles share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.inferers import Inferer
from torch import Tensor, nn

from medsam_adapt.config import Axis, Channels, PromptMode
from medsam_adapt.data.geometry import SlicePlan, as_tensor, slices_to_volume, volume_to_slices
from medsam_adapt.data.prompts import exact_prompt
from medsam_adapt.data.transforms import pad_image
from medsam_adapt.errors import InputError
from medsam_adapt.networks.segmenter import Segmenter

_NEVER = -1e4  # a logit that no softmax and no argmax brings back, finite in half precision too


class SlicewiseInferer(Inferer):
    """Runs a :class:`Segmenter` over the slices of a volume, in the volume's own voxels.

    Args:
        axis: slicing direction.
        channels: the slice repeated, or between its two neighbours.
        prompt: what the segmenter was trained with; any but ``none`` takes prompts from a reference label.
        num_classes: C.
        absent: classes (1..C) that no training label held: their logits are put out of reach.
        batch_size: slices at a time.
        output: ``labels`` gives classes (1, 1, X, Y, Z) uint8, holding the logits of one batch of slices at a time,
            or for overlapping classes masks (1, C, X, Y, Z); ``logits`` gives all logits (1, C + 1 or C, X, Y, Z).
    """

    def __init__(
        self,
        axis: Axis = "axial",
        channels: Channels = "repeat",
        prompt: PromptMode = "none",
        num_classes: int = 1,
        absent: Sequence[int] = (),
        batch_size: int = 8,
        output: Literal["labels", "logits"] = "labels",
    ) -> None:
        self.axis, self.channels, self.prompt = axis, channels, prompt
        self.num_classes, self.absent = num_classes, tuple(absent)
        self.batch_size, self.output = batch_size, output

    @torch.no_grad()
    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        """Segment one volume.

        Args:
            inputs: (1, 1, X, Y, Z) in RAS order on the 0-255 scale; a MetaTensor brings its spacing, else 1 mm.
            network: the segmenter, bare or wrapped for distributed training.
            reference: keyword, classes (1, 1, X, Y, Z) from which prompts are taken, for prompted segmenters.

        Raises:
            InputError: for a prompted segmenter without a reference.
        """
        segmenter = cast("Segmenter", getattr(network, "module", network))
        reference = None if self.prompt == "none" else kwargs.get("reference")
        if self.prompt != "none" and reference is None:
            raise InputError(
                f"this run was trained with a {self.prompt} prompt and cannot segment without one: "
                "train one with --prompt none."
            )
        volume = np.asarray(torch.as_tensor(inputs)[0, 0].cpu())
        spacing = affine_to_spacing(inputs.affine.squeeze(0)) if isinstance(inputs, MetaTensor) else np.ones(3)
        plan = SlicePlan.of(volume.shape, tuple(float(s) for s in spacing), self.axis, segmenter.image_size)
        structures = None if reference is None else np.asarray(torch.as_tensor(reference)[0, 0].cpu())
        results = [
            self._finish(logits, segmenter.head).cpu()
            for logits in self._slice_logits(volume, structures, plan, segmenter)
        ]
        return self._assemble(torch.cat(results).numpy(), inputs)

    def _slice_logits(
        self, volume: np.ndarray, reference: np.ndarray | None, plan: SlicePlan, segmenter: Segmenter
    ) -> Iterator[Tensor]:
        """Logits (n, K, rows, columns) of each batch of slices in turn."""
        device = segmenter.sam.pixel_mean.device
        grey = volume_to_slices(volume, self.axis)
        labels = None if reference is None else volume_to_slices(reference, self.axis)
        count = len(grey)
        for start in range(0, count, self.batch_size):
            indices = np.arange(start, min(start + self.batch_size, count))
            images = self._images(grey, indices, plan).to(device)
            if labels is None:
                logits = segmenter(images)
            else:
                resized = plan.resize_label(as_tensor(labels[indices], torch.int64))
                logits = self._prompted(images, resized.numpy(), segmenter)
            logits = plan.restore_logits(logits.float())
            for absent in self.absent:
                logits[:, absent - int(segmenter.head == "overlapping")] = _NEVER
            yield logits

    def _images(self, grey: np.ndarray, indices: np.ndarray, plan: SlicePlan) -> Tensor:
        """(n, 3, S, S) of the slices wanted."""
        offsets = (0, 0, 0) if self.channels == "repeat" else (-1, 0, 1)
        wanted = np.clip(indices[:, None] + np.array(offsets), 0, len(grey) - 1)
        unique, position = np.unique(wanted, return_inverse=True)
        resized = plan.resize_image(as_tensor(grey[unique]))
        return pad_image(resized[torch.from_numpy(position.reshape(wanted.shape))], plan.image_size)

    def _prompted(self, images: Tensor, labels: np.ndarray, segmenter: Segmenter) -> Tensor:
        """(n, C + 1, S, S): background 0, and each structure's logits on the slices where it has a prompt."""
        size = segmenter.image_size
        logits = images.new_full((len(images), self.num_classes + 1, size, size), _NEVER)
        logits[:, 0] = 0.0
        embedding = segmenter.encode(images)
        for index, label in enumerate(labels):
            for structure in np.unique(label[label > 0]):
                prompt = exact_prompt(label == structure, self.prompt)
                batch: Any = {name: torch.from_numpy(value)[None].to(images.device) for name, value in prompt.items()}
                logits[index, structure] = segmenter.decode(embedding[index : index + 1], **batch).logits[0, 0]
        return logits

    def _finish(self, logits: Tensor, head: str) -> Tensor:
        if self.output == "logits":
            return logits
        if head == "overlapping":
            return (logits > 0).to(torch.uint8)
        return logits.argmax(dim=1, keepdim=True).to(torch.uint8)

    def _assemble(self, slices: np.ndarray, like: Tensor) -> Tensor:
        """(N, K, rows, columns) -> (1, K, X, Y, Z), with the geometry of ``like``."""
        volumes = [slices_to_volume(slices[:, channel], self.axis) for channel in range(slices.shape[1])]
        stacked = torch.from_numpy(np.ascontiguousarray(np.stack(volumes)))[None].to(like.device)
        return MetaTensor(stacked, meta=like.meta) if isinstance(like, MetaTensor) else stacked


class SlicewiseSegmenter(nn.Module):
    """A segmenter as a 3D network, (B, 1, X, Y, Z) -> logits (B, C + 1 or C, X, Y, Z), for MONAI's bundle tools.

    Args:
        segmenter: the network that sees slices.
        axis: slicing direction.
        channels: the slice repeated, or between its two neighbours.
        absent: classes that are never emitted.
        batch_size: slices at a time.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        axis: Axis = "axial",
        channels: Channels = "repeat",
        absent: Sequence[int] = (),
        batch_size: int = 8,
    ) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.inferer = SlicewiseInferer(axis, channels, absent=absent, batch_size=batch_size, output="logits")

    def forward(self, volume: Tensor) -> Tensor:
        """Logits of volumes in RAS order on the 0-255 scale."""
        results = [self.inferer(volume[index : index + 1], self.segmenter) for index in range(len(volume))]
        return torch.cat(results)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Loads the weights of the segmenter: a run's ``model.pt`` holds those, whatever wraps it."""
        return self.segmenter.load_state_dict(state_dict, strict, assign)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The weights of the segmenter."""
        return self.segmenter.state_dict(*args, **kwargs)
