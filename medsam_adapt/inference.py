"""Volumes in, segmentations out: the slice loop that training, evaluation, prediction and the MONAI bundles share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.inferers import Inferer
from torch import Tensor, nn

from medsam_adapt.config import Axis, Channels, PromptMode
from medsam_adapt.data.geometry import SlicePlan, as_tensor, slices_to_volume, volume_to_slices
from medsam_adapt.data.parts import classes_in, mask_of
from medsam_adapt.data.prompts import SlicePrompt, SlicePrompts, exact_prompt, flip_prompt
from medsam_adapt.data.transforms import pad_image
from medsam_adapt.errors import InputError, RunError
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
        overlapping: whether the structures that a prompted segmenter draws may overlap; without prompts its head tells.
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
        overlapping: bool = False,
    ) -> None:
        self.axis, self.channels, self.prompt, self.overlapping = axis, channels, prompt, overlapping
        self.num_classes, self.absent = num_classes, tuple(absent)
        self.batch_size, self.output = batch_size, output

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
        reference = None if self.prompt == "none" else kwargs.get("reference")
        structures = None if reference is None else np.asarray(torch.as_tensor(reference)[0, 0].cpu())
        table = None if reference is None or "table" not in kwargs else np.asarray(kwargs["table"][0].cpu())
        colours = np.asarray(torch.as_tensor(inputs)[0].cpu())
        volume = colours[0] if len(colours) == 1 else np.moveaxis(colours, 0, -1)
        spacing = affine_to_spacing(inputs.affine.squeeze(0)) if isinstance(inputs, MetaTensor) else np.ones(3)
        slices = self.slices_of(volume, [float(s) for s in spacing], network, structures, table=table)
        results = [self._finish(slices.logits(batch), slices.overlapping).cpu() for batch in slices.batches()]
        return self._assemble(torch.cat(results).numpy(), inputs)

    def slices_of(
        self,
        volume: np.ndarray,
        spacing: Sequence[float],
        network: Callable[..., Any],
        reference: np.ndarray | None = None,
        prompts: SlicePrompts | None = None,
        table: np.ndarray | None = None,
    ) -> SliceLogits:
        """The slices of one volume, ready to be segmented batch by batch.

        Args:
            volume: (X, Y, Z), or (X, Y, Z, 3) in colour, in RAS order on the 0-255 scale.
            spacing: of its voxels, mm.
            network: the segmenter, bare or wrapped for distributed training.
            reference: classes (X, Y, Z) from which the prompts of a prompted segmenter are taken.
            prompts: those prompts themselves; slices are counted as :func:`volume_to_slices` gives them.
            table: (P, C), where ``reference`` holds the parts of classes that may overlap.

        Raises:
            InputError: for a prompted segmenter with neither.
        """
        if self.prompt != "none" and reference is None and prompts is None:
            raise InputError(
                f"this run was trained with a {self.prompt} prompt and cannot segment without one: "
                "train one with --prompt none."
            )
        return SliceLogits(self, volume, spacing, network, reference, prompts, table)

    def _finish(self, logits: Tensor, overlapping: bool) -> Tensor:
        if self.output == "logits":
            return logits
        if overlapping:
            return (logits > 0).to(torch.uint8)
        return logits.argmax(dim=1, keepdim=True).to(torch.uint8)

    def _assemble(self, slices: np.ndarray, like: Tensor) -> Tensor:
        """(N, K, rows, columns) -> (1, K, X, Y, Z), with the geometry of ``like``."""
        volumes = [slices_to_volume(slices[:, channel], self.axis) for channel in range(slices.shape[1])]
        stacked = torch.from_numpy(np.ascontiguousarray(np.stack(volumes)))[None].to(like.device)
        return MetaTensor(stacked, meta=like.meta) if isinstance(like, MetaTensor) else stacked


class SliceLogits:
    """Logits of the slices of one volume in the volume's own pixels, for as many slices at a time as are wanted.

    Args:
        inferer: how the volume is sliced and prompted.
        volume, spacing, network, reference, prompts, table: as for :meth:`SlicewiseInferer.slices_of`.

    Attributes:
        overlapping: whether the channels of the logits are C classes that may overlap, without background.
    """

    def __init__(
        self,
        inferer: SlicewiseInferer,
        volume: np.ndarray,
        spacing: Sequence[float],
        network: Callable[..., Any],
        reference: np.ndarray | None = None,
        prompts: SlicePrompts | None = None,
        table: np.ndarray | None = None,
    ) -> None:
        self.inferer, self.prompts, self.table = inferer, prompts, table
        self.segmenter = cast("Segmenter", getattr(network, "module", network))
        self.overlapping = inferer.overlapping or self.segmenter.head == "overlapping"
        self.grey = volume_to_slices(volume, inferer.axis)
        self.reference = None if reference is None else volume_to_slices(reference, inferer.axis)
        size = self.segmenter.image_size
        self.plan = SlicePlan.of(volume.shape, tuple(float(s) for s in spacing), inferer.axis, size)

    def batches(self) -> Iterator[np.ndarray]:
        """Indices of the slices of each batch in turn."""
        for start in range(0, len(self.grey), self.inferer.batch_size):
            yield np.arange(start, min(start + self.inferer.batch_size, len(self.grey)))

    @torch.no_grad()
    def logits(self, indices: np.ndarray, flip: Sequence[int] = ()) -> Tensor:
        """Logits (n, K, rows, columns) of the slices ``indices``.

        Args:
            indices: of the slices.
            flip: the segmenter sees them mirrored along these of (-2, -1), rows and columns; the logits are turned
                back.
        """
        height, width = self.plan.resized
        images = self._images(indices, flip).to(self.segmenter.sam.pixel_mean.device)
        logits = self.segmenter(images) if self.inferer.prompt == "none" else self._prompted(images, indices, flip)
        logits = self.plan.restore_logits(logits[..., :height, :width].flip(list(flip)).float())
        for absent in self.inferer.absent:
            logits[:, absent - int(self.overlapping)] = _NEVER
        return logits

    @torch.no_grad()
    def draw(self, index: int, prompt: SlicePrompt) -> np.ndarray:
        """The mask (rows, columns) bool that one prompt draws on one slice."""
        images = self._images(np.array([index])).to(self.segmenter.sam.pixel_mean.device)
        logits = self._decode(self.segmenter.encode(images), prompt.resized(self.plan))
        return (self.plan.restore_logits(logits[None, None].float()) > 0)[0, 0].cpu().numpy()

    def _images(self, indices: np.ndarray, flip: Sequence[int] = ()) -> Tensor:
        """(n, 3, S, S) of the slices wanted."""
        if self.grey.ndim == 4:
            return pad_image(
                self.plan.resize_image(as_tensor(self.grey[indices])).flip(list(flip)), self.plan.image_size
            )
        offsets = (0, 0, 0) if self.inferer.channels == "repeat" else (-1, 0, 1)
        wanted = np.clip(indices[:, None] + np.array(offsets), 0, len(self.grey) - 1)
        unique, position = np.unique(wanted, return_inverse=True)
        resized = self.plan.resize_image(as_tensor(self.grey[unique])).flip(list(flip))
        return pad_image(resized[torch.from_numpy(position.reshape(wanted.shape))], self.plan.image_size)

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
        """Logits of volumes in RAS order on the 0-255 scale.

        Raises:
            RunError: when it is traced: the loop over slices would be recorded as the answer for one volume.
        """
        if torch.jit.is_tracing():
            raise RunError("a loop over slices cannot be traced: use medsam-adapt export instead of ckpt_export.")
        results = [self.inferer(volume[index : index + 1], self.segmenter) for index in range(len(volume))]
        return torch.cat(results)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Loads the weights of the segmenter: a run's ``model.pt`` holds those, whatever wraps it."""
        return self.segmenter.load_state_dict(state_dict, strict, assign)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The weights of the segmenter."""
        return self.segmenter.state_dict(*args, **kwargs)
