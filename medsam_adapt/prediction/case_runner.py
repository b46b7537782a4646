"""One case after another: read, segmented, cleaned, measured, written; and the report of them all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medsam_adapt.data.io import VolumeHeader, read_volume, write_label
from medsam_adapt.data.prompt_file import Prompt
from medsam_adapt.errors import InputError
from medsam_adapt.files import folder_written_whole, write_json
from medsam_adapt.outputs import Segmentation, get_format
from medsam_adapt.outputs._label_file import write_label_file
from medsam_adapt.prediction.byte_maps import LEVELS
from medsam_adapt.prediction.plan import Case, Outputs, file_names
from medsam_adapt.prediction.postprocessing import Cleaning, bounding_box, piece_sizes
from medsam_adapt.prediction.predictor import Predictor, Segmented
from medsam_adapt.prediction.prompt_sources import ReferenceOf
from medsam_adapt.prediction.second_look import Flag, TrainingStatistics, class_flags
from medsam_adapt.runs import RunRecord, versions


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

    def run(self, case: Case, progress: Callable[[int], None] | None = None) -> dict[str, Any]:
        """Segment one case; returns its entry in the report.

        Raises:
            InputError: unreadable voxels, prompts that do not fit, or an output that cannot be written.
        """
        started = time.perf_counter()
        image, header = read_volume(case.header.path)
        record = self.predictor.record
        flags: list[Flag] = []
        if warning := record.policy.warning_for(image):
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
            voxels = self.cleaning(voxels, record.label_ids, _voxel_ml(header))
        segmentation = Segmentation(voxels, record.class_names, record.label_ids)
        volumes, more = self._measure(segmentation, image, header)
        self._write(case, segmentation, segmented, header)
        return {
            "seconds": round(time.perf_counter() - started, 2),
            "volumes_ml": volumes,
            "flags": [flag.model_dump() for flag in (*flags, *more)],
            "files": {kind: str(path) for kind, path in case.outputs.items()},
        }

    def _measure(
        self, segmentation: Segmentation, image: np.ndarray, header: VolumeHeader
    ) -> tuple[dict[str, float], list[Flag]]:
        """Volume of each class in ml, and what is worth a second look."""
        record = self.predictor.record
        grey = record.policy.apply(image)
        if grey.ndim == 4:  # a picture in colour
            grey = grey.mean(axis=3)
        volumes: dict[str, float] = {}
        flags: list[Flag] = []
        for index, (name, label_id) in enumerate(zip(segmentation.names, segmentation.label_ids, strict=True)):
            voxels, number = (
                (segmentation.voxels[index], 1) if segmentation.overlapping else (segmentation.voxels, label_id)
            )
            mean, pieces = float("nan"), []
            for box in bounding_box(voxels, number):
                mask = voxels[box] == number
                mean, pieces = float(grey[box][mask].mean(dtype=np.float64)), piece_sizes(mask).tolist()
            volumes[name] = round(sum(pieces) * _voxel_ml(header), 4)
            if name not in record.absent:  # that one is never emitted, as training told
                known = self.statistics.classes.get(name) if self.statistics else None
                flags += class_flags(name, volumes[name], mean, pieces, known)
        return volumes, flags

    def _write(self, case: Case, segmentation: Segmentation, segmented: Segmented, header: VolumeHeader) -> None:
        """All files of a case, the segmentation last."""
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
            chosen.write(paths["segmentation"], segmentation, header)
            return
        suffix = chosen.SUFFIX[chosen.SUFFIX.index(".") :]
        with folder_written_whole(paths["segmentation"]) as folder:
            for file_name, (name, _, mask) in zip(names, segmentation.structures(), strict=True):
                alone = Segmentation(mask.astype(np.uint8), [name], [1])
                chosen.write(folder / f"{file_name}{suffix}", alone, header)


def _voxel_ml(header: VolumeHeader) -> float:
    return abs(float(np.linalg.det(header.affine[:3, :3]))) / 1000


class Report:
    """``report.json``: written anew after each case, so that a run that is killed leaves the report of what it did.

    Args:
        path: the file, None for none.
        records: of the runs, by folder.
        device: on which they run.
        options: of the command, as they were given.
        earlier: entries of cases that were done before.
        notes: what a reader of the report must know.
    """

    def __init__(
        self,
        path: Path | None,
        records: Mapping[Any, RunRecord],
        device: str,
        options: Mapping[str, Any],
        earlier: Mapping[str, Any],
        notes: Sequence[str] = (),
    ) -> None:
        self.path = path
        record = next(iter(records.values()))
        self.content: dict[str, Any] = {
            "versions": versions(),
            "device": device,
            "runs": [{"folder": str(folder), "bundle": each.bundle} for folder, each in records.items()],
            "classes": dict(zip(record.class_names, record.label_ids, strict=True)),
            "options": dict(options),
            "notes": list(notes),
            "cases": dict(earlier),
            "failed": {},
        }
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._write()

    def add(self, name: str, entry: Mapping[str, Any]) -> None:
        """A case that is done."""
        self.content["cases"][name] = dict(entry)
        self._write()

    def fail(self, name: str, error: InputError) -> None:
        """A case that could not be done."""
        self.content["failed"][name] = str(error)
        self._write()

    def _write(self) -> None:
        if self.path is not None:
            write_json(self.path, self.content)
