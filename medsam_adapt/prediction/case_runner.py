"""One case after another: read, segmented, cleaned, measured, written."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np

from medsam_adapt.core.errors import InputError, is_out_of_memory
from medsam_adapt.core.files import folder_written_whole
from medsam_adapt.data.prompts.file import Prompt
from medsam_adapt.data.volumes.cleaning import Cleaning, bounding_boxes, piece_sizes, voxel_ml, voxel_sides
from medsam_adapt.data.volumes.formats.dicom_headers import quiet_dicom
from medsam_adapt.data.volumes.io import VolumeHeader, read_volume, write_label
from medsam_adapt.inference.byte_maps import LEVELS
from medsam_adapt.inference.predictor import Predictor, Segmented
from medsam_adapt.outputs import Segmentation, get_format
from medsam_adapt.outputs._label_file import write_label_file
from medsam_adapt.prediction.json_report import case_entry
from medsam_adapt.prediction.plan import Outputs, PlannedCase, file_names
from medsam_adapt.prediction.prompt_sources import ReferenceOf
from medsam_adapt.prediction.quality_flags import Flag, class_flags
from medsam_adapt.runs.statistics import TrainingStatistics

Item = TypeVar("Item")
Outcome = dict[str, Any] | InputError  # a case's entry in the report, or what was wrong with it


@dataclass(frozen=True, eq=False)
class _Drawn:
    """A case that is segmented and not yet written."""

    case: PlannedCase
    segmentation: Segmentation
    segmented: Segmented
    header: VolumeHeader
    entry: dict[str, Any]


@dataclass(frozen=True)
class CaseRunner:
    """Segments cases and writes their outputs.

    Args:
        predictor: of the run or runs.
        outputs: what is written.
        cleaning: of the masks.
        statistics: of the run's training cases, None where it has none.
        flips: whether mirrored slices are averaged.
        follow: whether prompts are followed to neighbouring slices.
        prompts: of each case by name.
        reference: gives the labels from which prompts are taken.
    """

    predictor: Predictor
    outputs: Outputs = field(default_factory=Outputs)
    cleaning: Cleaning = field(default_factory=Cleaning)
    statistics: TrainingStatistics | None = None
    flips: bool = False
    follow: bool = False
    prompts: Mapping[str, Sequence[Prompt]] | None = None
    reference: ReferenceOf | None = None
    _computes: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def run_all(
        self,
        cases: Iterable[PlannedCase],
        progress: Callable[[PlannedCase, int], None] | None = None,
        fail_fast: bool = False,
    ) -> Iterator[tuple[PlannedCase, Outcome]]:
        """Each case in turn with its entry in the report, or with what was wrong with it, which stops no other case.

        While one is computed, one thread reads the next one and another thread writes the one before. At most one
        volume is read ahead and one waits to be written, so memory does not grow with the number of cases.

        Args:
            cases: to segment; the next one is taken when its reading begins.
            progress: called with a case and the number of its slices just done, 0 as it begins.
            fail_fast: whether no further case is begun once one has failed.
        """
        report_progress = progress or (lambda case, count: None)
        # Threads that silence pydicom by turns would undo each other's silence, and its warnings quote values.
        with quiet_dicom(), ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
            volumes = _ahead((case, reader.submit(self._read, case)) for case in cases)
            last: tuple[PlannedCase, Future[dict[str, Any]]] | None = None
            for case, volume in volumes:
                report_progress(case, 0)
                written: Future[dict[str, Any]] = Future()
                failed = False
                try:
                    drawn = self._segment(case, *volume.result(), partial(report_progress, case))
                    written = writer.submit(self._write, drawn)
                    del drawn
                except Exception as error:  # `_outcome` decides whether the other cases go on
                    written.set_exception(error)
                    failed = True
                del volume
                if last is not None:
                    outcome = _outcome(*last)
                    failed |= isinstance(outcome, InputError)
                    yield last[0], outcome
                last = case, written
                if failed and fail_fast:
                    break
            if last is not None:
                yield last[0], _outcome(*last)

    def outcome(self, case: PlannedCase) -> Outcome:
        """One case; several threads may call this, of which one computes while the others read and write."""
        done: Future[dict[str, Any]] = Future()
        try:
            volume = self._read(case)
            with self._computes:
                drawn = self._segment(case, *volume)
            done.set_result(self._write(drawn))
        except Exception as error:
            done.set_exception(error)
        return _outcome(case, done)

    def run(self, case: PlannedCase) -> dict[str, Any]:
        """Segment one case; returns its entry in the report.

        Raises:
            InputError: unreadable voxels, prompts that do not fit, or an output that cannot be written.
        """
        return self._write(self._segment(case, *self._read(case)))

    def _read(self, case: PlannedCase) -> tuple[np.ndarray, VolumeHeader, float]:
        """Voxels, header, and the seconds it took."""
        started = time.perf_counter()
        image, header = read_volume(case.source, case.series, self.predictor.record.policy.suv)
        return image, header, time.perf_counter() - started

    def _segment(
        self,
        case: PlannedCase,
        image: np.ndarray,
        header: VolumeHeader,
        seconds: float,
        progress: Callable[[int], None] | None = None,
    ) -> _Drawn:
        started = time.perf_counter()
        record = self.predictor.record
        flags: list[Flag] = []
        if warning := record.policy.warning_for(image, header.modalities if case.images else header.modality):
            flags.append(Flag(structure=None, kind="modality", text=f"{warning}; do not trust its mask"))
        folder = case.outputs["segmentation"].parent
        folder.mkdir(parents=True, exist_ok=True)
        segmented = self.predictor.segment(
            image,
            header.affine,
            prompts=None if self.prompts is None else self.prompts[case.name],
            reference=None if self.reference is None else self.reference(case, image),
            flips=self.flips,
            propagate=self.follow,
            maps_in=folder if self.outputs.probabilities else None,
            uncertainty=self.outputs.uncertainty,
            progress=progress,
        )
        voxels = segmented.voxels
        if self.cleaning:
            voxels = self.cleaning(voxels, record.label_ids, voxel_sides(header.affine))
        segmentation = Segmentation(voxels, record.class_names, record.label_ids)
        volumes, more = self._measure(segmentation, image, header)
        entry = case_entry(seconds + time.perf_counter() - started, volumes, [*flags, *more], case.outputs)
        return _Drawn(case, segmentation, segmented, header, entry)

    def _measure(
        self, segmentation: Segmentation, image: np.ndarray, header: VolumeHeader
    ) -> tuple[dict[str, float], list[Flag]]:
        """Volume of each class in ml, and flags for review."""
        record = self.predictor.record
        window = record.policy.window_of(image)
        volumes: dict[str, float] = {}
        flags: list[Flag] = []
        for name, mask, crop in _crops(segmentation, image):
            pieces = piece_sizes(mask).tolist()
            grey = window.apply(_within(crop, mask))  # or the three levels of each colour
            mean = float(grey.mean(dtype=np.float64)) if pieces else float("nan")
            volumes[name] = round(sum(pieces) * voxel_ml(header.affine), 4)
            if name not in record.absent:  # that one is never emitted, as training reported
                known = self.statistics.classes.get(name) if self.statistics else None
                flags += class_flags(name, volumes[name], mean, pieces, known)
        return volumes, flags

    def _write(self, drawn: _Drawn) -> dict[str, Any]:
        """All files of a case, the segmentation last; returns its entry in the report."""
        started = time.perf_counter()
        self._write_files(drawn.case, drawn.segmentation, drawn.segmented, drawn.header)
        seconds = drawn.entry["seconds"] + time.perf_counter() - started
        return {**drawn.entry, "seconds": round(seconds, 2)}

    def _write_files(
        self, case: PlannedCase, segmentation: Segmentation, segmented: Segmented, header: VolumeHeader
    ) -> None:
        names = list(file_names(segmentation.names, segmentation.label_ids))
        paths = case.outputs
        if "label description" in paths:
            write_label_file(paths["label description"], segmentation)
        if segmented.probabilities is not None:
            with folder_written_whole(paths["probabilities"]) as folder:
                for name, levels in zip(names, segmented.probabilities, strict=True):
                    write_label(folder / f"{name}.nii.gz", levels, header, slope=1 / LEVELS)
        if segmented.uncertainty is not None:
            write_label(paths["uncertainty"], segmented.uncertainty, header, slope=1 / LEVELS)
        chosen = get_format(self.outputs.format)
        if not self.outputs.per_class:
            one_map = segmentation.overlapping and not chosen.HOLDS_OVERLAP
            whole = paint(segmentation, self.predictor.record.painted) if one_map else segmentation
            chosen.write(paths["segmentation"], whole, header)
            return
        suffix = chosen.SUFFIX[chosen.SUFFIX.index(".") :]
        with folder_written_whole(paths["segmentation"]) as folder:
            for file_name, (name, _, mask) in zip(names, segmentation.structures(), strict=True):
                alone = Segmentation(mask.astype(np.uint8), [name], [1])
                chosen.write(folder / f"{file_name}{suffix}", alone, header)


def paint(segmentation: Segmentation, labels: Sequence[int]) -> Segmentation:
    """Masks (C, X, Y, Z) as one label map: each class over those before it, with its label of ``labels``."""
    dtype = np.uint16 if max(labels) > 255 else np.uint8
    painted = np.zeros(segmentation.voxels.shape[1:], dtype)
    for mask, label in zip(segmentation.voxels, labels, strict=True):
        painted[mask > 0] = label
    return Segmentation(painted, segmentation.names, list(labels), segmentation.drawn)


def _ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The items, each given when the next one has been taken."""
    waiting: list[Item] = []
    for item in items:
        waiting.append(item)
        if len(waiting) > 1:
            yield waiting.pop(0)
    yield from waiting


def _outcome(case: PlannedCase, written: Future[dict[str, Any]]) -> dict[str, Any] | InputError:
    """The entry of a case once it is written, or what about this one case kept it from that; raises all else."""
    try:
        return written.result()
    except InputError as error:
        return error
    except (MemoryError, RuntimeError, OSError) as error:
        if is_out_of_memory(error):
            size = " × ".join(map(str, case.header.shape))
            return InputError(
                f"{case.header.path}: {size} voxels need more memory than there is. Use a smaller --batch-size, or "
                "--device cpu."
            )
        if isinstance(error, OSError):
            return InputError(f"{case.header.path}: {error.strerror or error}. Check the file and the disk.")
        raise


def _crops(segmentation: Segmentation, image: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, mask and image of each structure in the box around it; both are empty where it was not found."""
    named = dict(zip(segmentation.names, segmentation.label_ids, strict=True))
    maps = [(segmentation.voxels, named)]
    if segmentation.overlapping:
        maps = [(mask, {name: 1}) for mask, name in zip(segmentation.voxels, named, strict=True)]
    for voxels, labels in maps:
        boxes = bounding_boxes(voxels, list(labels.values()))
        for name, label_id in labels.items():
            box = boxes.get(label_id, (slice(0),) * 3)
            yield name, voxels[box] == label_id, image[box]


def _within(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The voxels of an image (X, Y, Z, …) in a mask (X, Y, Z), in the order in which the image has them in memory."""
    order = np.argsort(np.abs(image.strides[:3]))[::-1]
    return image.transpose(*order, *range(3, image.ndim))[mask.transpose(order)]
