"""Zero-shot segmentation with a tight box a slice, against two baselines that never look at the image.

Every slice of a structure gives the box around it, and the masks of all slices make one volume, which is scored as a
whole: DSC = 2|A∩B| / (|A| + |B|). The baselines are the filled box and the ellipse inscribed in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from medsam_adapt.data.prompts.simulated import tight_box
from medsam_adapt.data.slices.geometry import SlicePlan, as_tensor, volume_to_slices
from medsam_adapt.data.slices.intensity import choose_policy
from medsam_adapt.data.slices.padding import pad_image
from medsam_adapt.data.volumes.io import read_label, read_volume, to_ras
from medsam_adapt.networks.segmenter import Segmenter

SMALLEST_STRUCTURE = 200  # voxels
_SLICES = 8  # encoded at a time


class Scores(NamedTuple):
    """DSC of one structure in one volume, by how it was drawn."""

    voxels: int
    network: float
    box: float
    ellipse: float


def score_folder(
    network: Segmenter, folder: str | Path, names: list[str] | None = None, batch_size: int = 64
) -> dict[str, Scores]:
    """Scores by structure of a folder with ``image.nii.gz``, ``labels.nii.gz`` and ``labels.json`` (id -> name).

    Args:
        network: a segmenter with the ``structure`` head.
        folder: as above.
        names: structures to score; None scores all of at least 200 voxels.
        batch_size: boxes decoded at a time.
    """
    folder = Path(folder)
    known = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    image, header = read_volume(folder / "image.nii.gz")
    label, _ = read_label(folder / "labels.nii.gz")
    structures = {name: int(number) for number, name in known.items() if names is None or name in names}
    return score_volume(network, image, label, header.affine, structures, batch_size)


@torch.no_grad()
def score_volume(
    network: Segmenter,
    image: np.ndarray,
    label: np.ndarray,
    affine: np.ndarray,
    structures: Mapping[str, int],
    batch_size: int = 64,
) -> dict[str, Scores]:
    """Scores of each structure of at least 200 voxels, in axial slices.

    Args:
        network: a segmenter with the ``structure`` head.
        image: (X, Y, Z), in the scanner's units; windowed as in training of a run (policy ``auto``).
        label: (X, Y, Z) whole numbers.
        affine: (4, 4) from voxel index to RAS millimetres.
        structures: number in ``label`` by name.
        batch_size: boxes decoded at a time.
    """
    network = network.eval()
    grey, ras_affine = to_ras(choose_policy("auto", [image]).apply(image), affine)
    x, y, z = (float(length) for length in np.linalg.norm(ras_affine[:3, :3], axis=0))
    plan = SlicePlan.of(grey.shape, (x, y, z), "axial", network.image_size)
    slices = as_tensor(volume_to_slices(grey, "axial"))
    labels = volume_to_slices(to_ras(label, affine)[0], "axial")
    sizes = {name: int((labels == number).sum()) for name, number in structures.items()}
    scored = {name: number for name, number in structures.items() if sizes[name] >= SMALLEST_STRUCTURE}
    shown = np.isin(labels, list(scored.values())).any(axis=(1, 2))  # the others have no box
    embeddings = _encode(network, plan, slices[torch.from_numpy(shown)], batch_size)
    rows = np.cumsum(shown) - 1
    scores = {}
    for name, number in scored.items():
        truth = labels == number
        drawn = _draw(network, plan, embeddings, rows, truth, batch_size)
        boxes, ellipses = (np.stack([shape(mask) for mask in truth]) for shape in (filled_box, inscribed_ellipse))
        scores[name] = Scores(sizes[name], *(dice(prediction, truth) for prediction in (drawn, boxes, ellipses)))
    return scores


def _encode(network: Segmenter, plan: SlicePlan, slices: Tensor, batch_size: int) -> Tensor:
    resized = plan.resize_image(slices)
    square = pad_image(resized[:, None].repeat(1, 3, 1, 1), plan.image_size, network.input_scaling)
    return torch.cat([network.encode(part) for part in square.split(min(batch_size, _SLICES))])


def _draw(
    network: Segmenter, plan: SlicePlan, embeddings: Tensor, rows: np.ndarray, truth: np.ndarray, batch_size: int
) -> np.ndarray:
    """What the network draws (N, rows, columns) when it is given the box of each slice of ``truth``.

    ``rows`` (N,) is where the slices' embeddings are.
    """
    resized = plan.resize_label(as_tensor(truth, torch.uint8)).numpy() > 0
    places = [(index, box) for index, mask in enumerate(resized) if (box := tight_box(mask)) is not None]
    drawn = np.zeros(truth.shape, dtype=bool)
    for first in range(0, len(places), batch_size):
        indices, boxes = zip(*places[first : first + batch_size], strict=True)
        logits = network.decode(embeddings[rows[list(indices)]], boxes=torch.from_numpy(np.stack(boxes))).logits
        drawn[list(indices)] = plan.restore_logits(logits)[:, 0].numpy() > 0
    return drawn


def filled_box(mask: np.ndarray) -> np.ndarray:
    """The pixels (rows, columns) of the tight box around a mask."""
    box = tight_box(mask)
    drawn = np.zeros(mask.shape, dtype=bool)
    if box is not None:
        x0, y0, x1, y1 = box.astype(int)
        drawn[y0 : y1 + 1, x0 : x1 + 1] = True
    return drawn


def inscribed_ellipse(mask: np.ndarray) -> np.ndarray:
    """The pixels (rows, columns) whose centres lie in the ellipse that touches the four sides of the tight box."""
    box = tight_box(mask)
    if box is None:
        return np.zeros(mask.shape, dtype=bool)
    x0, y0, x1, y1 = box
    rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
    across = (columns - (x0 + x1) / 2) / ((x1 - x0 + 1) / 2)  # a pixel is one wide, so the box ends half a pixel out
    down = (rows - (y0 + y1) / 2) / ((y1 - y0 + 1) / 2)
    return across**2 + down**2 <= 1


def dice(drawn: np.ndarray, truth: np.ndarray) -> float:
    """DSC of two masks of any shape, of which one at least is not empty."""
    return float(2 * (drawn & truth).sum() / (drawn.sum() + truth.sum()))


def mean_scores(scores: Mapping[str, Scores]) -> Scores:
    """The mean of each DSC over structures, and the sum of the voxels."""
    voxels, *columns = zip(*scores.values(), strict=True)
    return Scores(sum(voxels), *(float(np.mean(column)) for column in columns))
