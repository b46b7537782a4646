"""Whether an exported model computes what the run's network does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medsam_adapt.config import PromptMode
from medsam_adapt.core.errors import InputError, RunError
from medsam_adapt.data.datasets.cases import find_cases
from medsam_adapt.data.slices.geometry import SlicePlan, as_tensor, slice_coordinates, volume_to_slices
from medsam_adapt.data.slices.padding import pad_image, pad_label
from medsam_adapt.data.volumes.io import read_volume, to_ras
from medsam_adapt.inference.class_scores import ABSENT_LOGIT
from medsam_adapt.runs.record import RunRecord

TOLERANCE = 1e-4  # of the largest logit
DIFFERING_PIXELS = 1e-5  # share of the pixels whose class may differ, since two logits there are almost equal

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Agreement:
    """How far an exported model is from the run's network.

    Attributes:
        difference: the greatest difference of two logits, relative to the largest logit.
        agreeing: share of the pixels of the same class.
        real: whether a slice of the run's own data was among those compared.
    """

    difference: float
    agreeing: float
    real: bool


def random_inputs(
    image_size: int, prompt: PromptMode, batch: int, points: int = 3, seed: int = 0, channels: int = 3
) -> Inputs:
    """Noise (batch, channels, S, S) on the 0-255 scale, and for a prompted run random boxes or points."""
    generator = torch.Generator().manual_seed(seed)
    inputs = {"image": 255 * torch.rand(batch, channels, image_size, image_size, generator=generator)}
    places = image_size * torch.rand(batch, points, 2, generator=generator)
    if prompt == "box":
        ends = image_size * torch.rand(batch, 2, 2, generator=generator)
        inputs["boxes"] = torch.cat([ends.amin(1), ends.amax(1)], dim=-1)
    elif prompt == "points":
        labels = torch.randint(-1, 2, (batch, points, 1), generator=generator)
        inputs["points"] = torch.cat([places, labels.float()], dim=-1)
    return inputs


def real_slice(record: RunRecord) -> Tensor | None:
    """The middle slice (1, 3, S, S) of one of the run's cases; None when they are no longer where they were."""
    if not record.dataset_dir:
        return None
    try:
        cases = find_cases(record.dataset_dir, record.layout).cases
        case = next((case for case in cases if case.id in {*record.held_out, *record.train}), None)
        if case is None:
            return None
        image, header = read_volume(case.image, suv=record.policy.suv)
    except (InputError, OSError):
        return None
    volume, affine = to_ras(image, header.affine)
    slices = volume_to_slices(record.policy.apply(volume), record.axis)
    size = record.slice_size or record.image_size
    plan = SlicePlan.of(volume.shape, np.linalg.norm(affine[:3, :3], axis=0), record.axis, size)
    offsets = (0,) if slices.ndim == 4 else (0, 0, 0) if record.channels == "repeat" else (-1, 0, 1)
    chosen = np.clip(len(slices) // 2 + np.array(offsets), 0, len(slices) - 1)
    resized = plan.resize_image(as_tensor(slices[chosen]))[..., : record.image_size, : record.image_size]
    seen = pad_image(resized if resized.ndim == 4 else resized[None], record.image_size, record.input_scaling)
    if not record.sees_coordinates:
        return seen
    located = slice_coordinates(record.axis, len(slices) // 2, len(slices), *plan.resized)
    located = located[:, : record.image_size, : record.image_size]
    return torch.cat([seen, pad_label(torch.from_numpy(located)[None], record.image_size)], dim=1)


def compare(exported: Callable[[Inputs], Tensor], network: Callable[[Inputs], Tensor], record: RunRecord) -> Agreement:
    """Both on random slices, in batches of two sizes, and on a slice of the run's data if it is still there.

    Args:
        exported, network: inputs by name -> logits (B, C', S, S).
        record: of the run.

    Raises:
        RunError: they differ by more than rounding.
    """
    real = real_slice(record)
    largest = difference = 0.0
    pixels = differing = 0
    for inputs in _examples(record, real):
        ours, theirs = network(inputs), exported(inputs)
        if ours.shape != theirs.shape or not theirs.isfinite().all():
            raise RunError(
                "--to: the logits of the exported model have a wrong shape. Nothing was written; try another --to."
            )
        present = ours[ours != ABSENT_LOGIT]
        largest = max(largest, float(present.abs().max()))
        difference = max(difference, float((theirs - ours).abs().max()))
        unequal = _decide(ours) != _decide(theirs)
        pixels, differing = pixels + unequal.numel(), differing + int(unequal.sum())
    agreement = Agreement(difference / max(largest, 1e-12), 1 - differing / pixels, real is not None)
    if not agreement.difference <= TOLERANCE or differing > math.ceil(DIFFERING_PIXELS * pixels):
        raise RunError(
            f"--to: the exported model differs from the run by {agreement.difference:.1e} of the largest logit "
            f"({TOLERANCE:.0e} is allowed), and its classes agree in {agreement.agreeing:.4%} of the pixels. Nothing "
            "was written; try another --to."
        )
    return agreement


def _examples(record: RunRecord, real: Tensor | None) -> Iterator[Inputs]:
    channels = len(record.network_channels)
    for batch, points in ((1, 1), (3, 4)):
        yield random_inputs(record.image_size, record.prompt, batch, points, seed=batch, channels=channels)
    if real is not None:
        yield {**random_inputs(record.image_size, record.prompt, batch=1), "image": real}


def _decide(logits: Tensor) -> Tensor:
    """Pixels as decided by either kind of head: the likeliest channel, and each channel by itself."""
    return torch.cat([logits.argmax(dim=1, keepdim=True), (logits > 0).long()], dim=1)
