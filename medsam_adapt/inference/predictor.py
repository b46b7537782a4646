"""A trained run as a function: ``predictor = load_run("runs/liver"); mask = predictor("scan.nii.gz")``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from medsam_adapt.config import checked_precision
from medsam_adapt.core.devices import select_device
from medsam_adapt.core.precision import run_as, running_of
from medsam_adapt.data.prompts.file import Prompt
from medsam_adapt.data.slices.device_transfer import on_host
from medsam_adapt.data.slices.geometry import count_slices, slices_to_volume
from medsam_adapt.data.slices.slicing_spec import joint_cleanings
from medsam_adapt.data.volumes.cleaning import clean_each
from medsam_adapt.data.volumes.image_set import ImageSet, refuse_misplaced
from medsam_adapt.data.volumes.io import from_ras, read_volume
from medsam_adapt.inference.byte_maps import map_on_disk, to_bytes
from medsam_adapt.inference.ensemble_slices import EnsembleSlices, prompt_source
from medsam_adapt.inference.run_network import load_network
from medsam_adapt.networks.segmenter import Segmenter
from medsam_adapt.runs.record import RunRecord, read_runs

Image: TypeAlias = np.ndarray | str | Path | ImageSet | Sequence[str | Path]


@dataclass(frozen=True, eq=False)
class Segmented:
    """One volume segmented, in the volume's own voxels.

    Attributes:
        voxels: label ids as in the training files (X, Y, Z) uint8 or uint16; for classes that may overlap masks of 0
            and 1 (C, X, Y, Z) uint8.
        probabilities: of each class (C, X, Y, Z) uint8, 255 for certain; None unless asked for.
        uncertainty: (X, Y, Z) uint8, 0 for sure to 255 for no idea (see :meth:`Predictor.segment`); None unless asked
            for.
    """

    voxels: np.ndarray
    probabilities: np.ndarray | None = None
    uncertainty: np.ndarray | None = None


class Predictor:
    """Segments volumes as the run was trained to; with several runs, by the mean of their probabilities.

    Attributes:
        record: what was trained on what; ``record.class_names[i - 1]`` is the name of class i.
        segmenter: the network, in evaluation mode; the first one of several.

    Args:
        record: of the run.
        segmenter: with the run's weights.
        batch_size: slices at a time; by the device when None.
        others: records and networks of further runs with the same classes; without prompts, of any slicing direction.
        clean_up: whether masks are cleaned up, as for :func:`load_run`.
    """

    def __init__(
        self,
        record: RunRecord,
        segmenter: Segmenter,
        batch_size: int | None = None,
        others: Sequence[tuple[RunRecord, Segmenter]] = (),
        clean_up: bool = True,
    ) -> None:
        self.record, self.segmenter = record, segmenter
        self.batch_size = batch_size
        self._members = [(each.slicing, network.eval()) for each, network in ((record, segmenter), *others)]
        self._cleanings = joint_cleanings([slicing for slicing, _ in self._members]) if clean_up else {}

    def __repr__(self) -> str:
        record, runs = self.record, len(self._members)
        return (
            f"Predictor({record.bundle}, {record.backbone} at {record.image_size} pixels, "
            f"{'axial, coronal and sagittal' if record.three_planes else record.axis} slices, "
            f"classes {', '.join(self.class_names)}"
            + f", prompt {record.prompt}" * (record.prompt != "none")
            + f", mean of {runs} runs" * (runs > 1)
            + f", {self.precision} on {self.device})"
        )

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of :meth:`probabilities`."""
        return list(self.record.class_names)

    @property
    def label_ids(self) -> list[int]:
        """The number of each class in a label map, in the order of `class_names`."""
        return list(self.record.label_ids)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.segmenter.sam.pixel_mean.device

    @property
    def precision(self) -> str:
        """What the image encoder computes in: ``fp32`` or ``bf16``."""
        return "bf16" if running_of(self.segmenter.sam.image_encoder).is_bf16(self.device) else "fp32"

    def slices_in(self, shape: Sequence[int], affine: np.ndarray) -> int:
        """How many slices a volume of this shape and affine has in the run's slicing direction."""
        return count_slices(shape, affine, self.record.axis)

    def __call__(
        self,
        image: Image,
        affine: np.ndarray | None = None,
        prompts: Sequence[Prompt] | None = None,
        reference: np.ndarray | None = None,
        flips: bool = False,
        propagate: bool = False,
    ) -> np.ndarray:
        """Segment a volume; arguments and errors as for :meth:`segment`.

        Returns:
            label ids as in the training files, (X, Y, Z) uint8 or uint16, in the image's own voxels; for classes that
            may overlap masks of 0 and 1, (C, X, Y, Z) uint8.
        """
        return self.segment(image, affine, prompts, reference, flips, propagate).voxels

    def probabilities(
        self,
        image: Image,
        affine: np.ndarray | None = None,
        prompts: Sequence[Prompt] | None = None,
        reference: np.ndarray | None = None,
        flips: bool = False,
        propagate: bool = False,
    ) -> np.ndarray:
        """The probability of each class, (C, X, Y, Z) float32 in the image's own voxels; arguments as :meth:`segment`.

        Where classes exclude each other, background has what is left to 1.
        """
        image, affine = _voxels_of(image, affine, self.record)
        slices = self._slices(image, affine, prompts, reference, propagate)
        maps = np.empty((len(self.record.class_names), *slices.shape), np.float32)
        found = ((at, [self._foreground(scores.probabilities)]) for at, scores in slices.scores(flips))
        for indices, (each,) in on_host(found):
            maps[:, indices] = each.swapaxes(0, 1)
        return self._in_place(maps, affine)

    def segment(
        self,
        image: Image,
        affine: np.ndarray | None = None,
        prompts: Sequence[Prompt] | None = None,
        reference: np.ndarray | None = None,
        flips: bool = False,
        propagate: bool = False,
        maps_in: Path | None = None,
        uncertainty: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Segmented:
        """Segment a volume, holding the logits of one batch of slices at a time.

        The uncertainty is the entropy of the mean probabilities over flips and runs, as a share of the entropy of
        not knowing at all: of the softmax for classes that exclude each other, else the largest of the classes' own.

        Args:
            image: (X, Y, Z) in the scanner's units (Hounsfield for CT), in any orientation; (X, Y, Z, 3) in colour;
                (X, Y, Z, images) for a run on several images of a case, NaN where one is missing. Or the path of a
                file or of a DICOM series' folder, or the paths of the images in the run's order.
            affine: (4, 4) from voxels to mm, as in NIfTI (RAS+); a file's own is used for a path.
            prompts: what points at the structures, for a run that was trained with prompts.
            reference: label ids (X, Y, Z), or masks (C, X, Y, Z), from which prompts are taken slice by slice instead.
            flips: whether to average over the slices as they are and mirrored along rows, columns, and both.
            propagate: whether prompts are followed from the slices they are on to their neighbours.
            maps_in: an existing folder; when given, the probabilities are kept too, in a temporary file there.
            uncertainty: whether to give the uncertainty.
            progress: called with the number of slices just done.

        Raises:
            InputError: for a run that needs prompts and gets none, prompts that do not fit the run or the volume, or a
                file that cannot be read.
            ValueError: an array without an affine.
        """
        image, affine = _voxels_of(image, affine, self.record)
        slices = self._slices(image, affine, prompts, reference, propagate)
        shape, count = slices.shape, len(self.record.class_names)
        classes = np.empty((count if self.record.overlapping else 1, *shape), np.uint8)
        maps = None if maps_in is None else map_on_disk((count, *shape), maps_in)
        unsure = np.empty((1, *shape), np.uint8) if uncertainty else None
        arrays = [array for array in (classes, maps, unsure) if array is not None]
        for indices, results in on_host(self._results(slices, flips, maps is not None, uncertainty)):
            for array, result in zip(arrays, results, strict=True):
                array[:, indices] = result.swapaxes(0, 1)
            if progress is not None:
                progress(len(indices))
        if self._cleanings:
            classes[0] = clean_each(classes[0], self._cleanings, slices.first.sides)
        return Segmented(
            self._as_ids(classes, affine),
            None if maps is None else self._in_place(maps, affine),
            None if unsure is None else self._in_place(unsure, affine)[0],
        )

    def _results(
        self, slices: EnsembleSlices, flips: bool, maps: bool, uncertainty: bool
    ) -> Iterator[tuple[np.ndarray, list[Tensor]]]:
        """Indices of each batch of slices; classes (n, 1 or C, rows, columns), and what else is wanted, in bytes."""
        if slices.alone and not (flips or maps or uncertainty):
            for indices in slices.first.batches():
                yield indices, [slices.first.classes(indices)]
            return
        for indices, scores in slices.scores(flips):
            results = [scores.decide()]
            if maps:
                results.append(to_bytes(self._foreground(scores.probabilities)))
            if uncertainty:
                results.append(to_bytes(scores.uncertainty())[:, None])
            yield indices, results

    def _slices(
        self,
        image: np.ndarray,
        affine: np.ndarray,
        prompts: Sequence[Prompt] | None,
        reference: np.ndarray | None,
        follow: bool,
    ) -> EnsembleSlices:
        """The volume's slices as the runs see them, with what points at the structures."""
        source = prompt_source(self.record, image.shape, affine, prompts, reference)
        slices = EnsembleSlices(self.record, self._members, image, affine, source, self.batch_size)
        if follow and prompts is not None and source.prompts is not None:
            slices.follow(source.prompts)
        return slices

    def _foreground(self, probabilities: Tensor) -> Tensor:
        return probabilities if self.record.overlapping else probabilities[:, 1:]

    def _as_ids(self, classes: np.ndarray, affine: np.ndarray) -> np.ndarray:
        """Classes (1, N, rows, columns) as label ids (X, Y, Z), or masks (C, N, rows, columns) as (C, X, Y, Z)."""
        if self.record.overlapping:
            return self._in_place(classes, affine)
        ids = np.array([0, *self.record.label_ids], dtype=np.uint16 if max(self.record.label_ids) > 255 else np.uint8)
        already = np.array_equal(ids, np.arange(len(ids)))
        return self._in_place(classes if already else ids[classes], affine)[0]

    def _in_place(self, slices: np.ndarray, affine: np.ndarray) -> np.ndarray:
        """A view (K, X, Y, Z) of (K, N, rows, columns), in the axis order of the image with this affine."""
        volume = slices_to_volume(np.moveaxis(slices, 0, -1), self.record.axis)
        return np.moveaxis(from_ras(volume, affine), -1, 0)


def _voxels_of(image: Image, affine: np.ndarray | None, record: RunRecord) -> tuple[np.ndarray, np.ndarray]:
    """Voxels, in the units of a run's policy, and affine of an array or of a volume on disk."""
    if not isinstance(image, np.ndarray):
        if isinstance(image, Sequence) and not isinstance(image, str):
            refuse_misplaced(record.images, image, "image")
        voxels, header = read_volume(image, suv=record.policy.suv)
        return voxels, header.affine
    if affine is None:
        raise ValueError("an array needs its affine, (4, 4) from voxels to mm; a path has its own affine")
    return image, affine


def load_run(
    folder: str | Path,
    device: str = "auto",
    batch_size: int | None = None,
    merge: bool = False,
    also: Sequence[str | Path] = (),
    precision: str = "auto",
    clean_up: bool = True,
) -> Predictor:
    """A trained run, ready to segment; reads ``run.json`` and weights, and executes nothing of the folder.

    Args:
        folder: the run's.
        device: auto, cpu, cuda, cuda:N or mps.
        batch_size: slices at a time; by the device when None.
        merge: whether a linear adapter is folded into SAM's weights, which is faster and differs by rounding.
        also: folders of further runs with the same classes: the mean of all runs' probabilities decides.
        precision: of the image encoder: ``fp32``, ``bf16``, or ``auto`` for bf16 on a GPU and fp32 elsewhere.
        clean_up: whether masks are cleaned up by the steps that the run's training chose; of several runs, by those
            that one of them chose and none rejected.

    Raises:
        InputError: no such run, a damaged one, one that was not finished, an unknown device or precision, or runs that
            do not segment the same.
    """
    wanted = checked_precision(precision)
    records = read_runs([folder, *also])
    target = select_device(device)
    networks = [load_network(path, record, merge).to(target) for path, record in records.items()]
    for network in networks:
        run_as(network.sam.image_encoder, wanted)
    first, *others = zip(records.values(), networks, strict=True)
    return Predictor(*first, batch_size, others, clean_up)
