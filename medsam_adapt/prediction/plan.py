"""Many volumes through one model: what is to be done, checked before the model is loaded, then done case by case.

Every output is whole or absent, and the segmentation is written after all that goes beside it, so that a case whose
outputs are all there is done.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from medsam_adapt.core.errors import InputError, problems_error
from medsam_adapt.core.files import look_for_outputs
from medsam_adapt.core.parts import Part
from medsam_adapt.core.text import counted
from medsam_adapt.data.datasets.scans import find_inputs
from medsam_adapt.data.volumes.formats.dicom_headers import quiet_dicom
from medsam_adapt.data.volumes.image_set import ImageSet, ImageSource, reference_series
from medsam_adapt.data.volumes.io import VolumeHeader, read_header
from medsam_adapt.outputs import get_format
from medsam_adapt.runs.record import RunRecord

_READERS = 8  # threads that read headers
_TOGETHER = 50  # headers that a thread reads in turn: handing over each one by itself costs as much as reading it


@dataclass(frozen=True)
class Outputs:
    """What is written for each case.

    Attributes:
        format: name of the segmentation's file format.
        per_class: one file for each class, in a folder for each case.
        itk_snap: names and colours for ITK-SNAP, beside NIfTI.
        probabilities: a map for each class, in a folder for each case.
        uncertainty: a map.
    """

    format: str = "nifti"
    per_class: bool = False
    itk_snap: bool = False
    probabilities: bool = False
    uncertainty: bool = False

    def of(self, name: str, folder: Path) -> dict[str, Path]:
        """Paths by kind; the segmentation is the last one."""
        suffix = get_format(self.format).SUFFIX
        paths: dict[str, Path] = {}
        if self.itk_snap:
            paths["label description"] = folder / f"{name}_seg.label.txt"
        if self.probabilities:
            paths["probabilities"] = folder / f"{name}_probabilities"
        if self.uncertainty:
            paths["uncertainty"] = folder / f"{name}_uncertainty.nii.gz"
        paths["segmentation"] = folder / (f"{name}_seg" if self.per_class else f"{name}{suffix}")
        return paths

    def checked(self, overlapping: bool, names: Sequence[str] = (), painted: bool = False) -> Outputs:
        """These, with a file for each class where the format cannot hold classes that overlap.

        Args:
            overlapping: whether the run's classes may overlap.
            names: of the run's classes.
            painted: whether classes that overlap are painted into one label map.

        Raises:
            InputError: an unknown format, one whose library is not installed or that takes none of these classes, or
                ITK-SNAP's file beside another one.
        """
        chosen = get_format(self.format)
        chosen.require()
        if (check_names := getattr(chosen, "check_names", None)) is not None:
            check_names(names)
            if self.per_class:
                raise InputError(f"--format {self.format}: it holds all classes in one file. Leave out --per-class.")
        per_class = self.per_class or (overlapping and not chosen.HOLDS_OVERLAP and not painted)
        if self.itk_snap and (self.format != "nifti" or per_class):
            raise InputError(
                "--itk-snap: it describes one NIfTI label map of all classes. Leave out the other options."
            )
        return Outputs(self.format, per_class, self.itk_snap, self.probabilities, self.uncertainty)


@dataclass(frozen=True, eq=False)
class PlannedCase:
    """One volume to segment, its header checked, the paths of its outputs by kind, and which DICOM series it is.

    Where several images are taken together, ``images`` are these.
    """

    name: str
    header: VolumeHeader
    outputs: dict[str, Path]
    series: str | None = None
    images: ImageSet | None = None

    @property
    def source(self) -> ImageSource:
        """What `read_volume` reads."""
        return self.images or self.header.path


@dataclass(frozen=True)
class Unreadable:
    """A volume that cannot be segmented, where it is, and why."""

    name: str
    path: Path
    error: InputError


@dataclass
class PredictionPlan:
    """What is to be done.

    Attributes:
        cases: to segment.
        skipped: names of those that are done already.
        failed: those whose header cannot be read.
        notes: what was recognised and what was left out, in sentences.
    """

    cases: list[PlannedCase] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: list[Unreadable] = field(default_factory=list)
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Of all volumes, whether they can be segmented or not."""
        return [*(case.name for case in self.cases), *self.skipped, *(each.name for each in self.failed)]


def plan_cases(
    inputs: Path,
    folder: Path,
    outputs: Outputs,
    overwrite: bool = False,
    skip_existing: bool = False,
    series: str | None = None,
    record: RunRecord | None = None,
    layout: str = "auto",
    fail_fast: bool = False,
    part: Part | None = None,
    recorded: Collection[str] | None = None,
) -> PredictionPlan:
    """Find the volumes and check every header.

    Args:
        inputs: a volume, a DICOM folder, a folder of either, or a data set in one of the layouts.
        folder: of the outputs.
        outputs: what is written.
        overwrite: whether outputs that exist are replaced.
        skip_existing: whether cases whose outputs all exist are left out.
        series: number, UID or description of the series wanted, for DICOM folders that hold several.
        record: of the run, which knows the images that it takes and the layout that it was trained on.
        layout: of the inputs; "auto" recognises it.
        fail_fast: whether one volume that cannot be read is an error for all.
        part: of the volumes, by their names; all of them when None.
        recorded: of the cases whose outputs exist, those that need not be done again; all of them when None.

    Raises:
        InputError: no volume; outputs that exist or cannot be written; all volumes that cannot be read, or that a DICOM
            output cannot refer to, if ``fail_fast`` or if no other is left.
    """
    _check_folder(inputs, folder)
    known, classes = (record.layout, record.class_names) if record else ("", [])
    images, may_lack = (record.images, record.may_lack_images) if record else ([], False)
    found = find_inputs(inputs, layout, known, images, series, classes, may_lack)
    if series is not None and (images or not any(_is_folder(source) for source in found.volumes.values())):
        raise InputError(f"{inputs}: it holds no DICOM series to choose from. Leave out --series.")
    plan, refused = PredictionPlan(notes=found.notes), []
    names = list(found.volumes) if part is None else part.of(found.volumes)
    if part is not None:
        plan.notes += (f"part {part.number} of {part.count}: {len(names)} of {counted(len(found.volumes), 'volume')}.",)
    paths_of = {name: outputs.of(name, folder) for name in names}
    there = look_for_outputs(folder, {path.name for paths in paths_of.values() for path in paths.values()})
    wanted = []
    for name, paths in paths_of.items():
        existing = [path for path in paths.values() if path.name in there]
        is_recorded = recorded is None or name in recorded
        if skip_existing and is_recorded and all(there.get(path.name) for path in paths.values()):
            plan.skipped.append(name)
        elif existing and not (overwrite or skip_existing):
            refused.append(
                f"{existing[0]}: it already exists. Name another --output, or add --skip-existing or --overwrite."
            )
        else:
            wanted.append(name)
    for name, header in _headers(wanted, found.volumes, series, outputs.format):
        source = found.volumes[name]
        if isinstance(header, InputError):
            plan.failed.append(Unreadable(name, Path(str(source)), header))
            continue
        if get_format(outputs.format).NEEDS_DICOM and reference_series(header) is None:
            refused.append(
                f"{source}: it is not a DICOM series, which --format {outputs.format} refers to. Choose another "
                "--format."
            )
        several = source if isinstance(source, ImageSet) else None
        plan.cases.append(PlannedCase(name, header, paths_of[name], _chosen(series, source), several))
    if refused or (plan.failed and (fail_fast or not plan.cases)):
        raise problems_error([*refused, *(str(each.error) for each in plan.failed)])
    return plan


def _is_folder(source: ImageSource) -> bool:
    return isinstance(source, Path) and source.is_dir()


def _headers(
    names: Sequence[str], volumes: Mapping[str, ImageSource], series: str | None, format: str
) -> Iterator[tuple[str, VolumeHeader | InputError]]:
    """The header of each volume, or what is wrong with it; several at a time, as a shared disk answers late."""
    needs_dicom = get_format(format).NEEDS_DICOM

    def read(name: str) -> VolumeHeader | InputError:
        try:
            header = read_header(volumes[name], _chosen(series, volumes[name]))
            if needs_dicom and reference_series(header) is not None:
                get_format(format).check(header)
        except InputError as error:
            return error
        return header

    if len(names) <= 1:
        yield from ((name, read(name)) for name in names)
        return
    # Threads that silence pydicom by turns would undo each other's silence.
    size = min(max(len(names) // (4 * _READERS), 1), _TOGETHER)
    pieces = [names[first : first + size] for first in range(0, len(names), size)]
    with quiet_dicom(), ThreadPoolExecutor(_READERS) as readers:
        for piece, headers in zip(pieces, readers.map(lambda piece: [*map(read, piece)], pieces), strict=True):
            yield from zip(piece, headers, strict=True)


def _chosen(series: str | None, source: ImageSource) -> str | None:
    """The series wanted of a DICOM folder; files have none."""
    return series if series is not None and _is_folder(source) else None


def _check_folder(inputs: Path, folder: Path) -> None:
    """Raise an InputError for a folder of outputs that cannot be."""
    if folder.is_file():
        raise InputError(f"{folder}: it is a file. Name a folder for the masks.")
    parent = next(each for each in (folder, *folder.resolve().parents) if each.exists())
    if not os.access(parent, os.W_OK):
        raise InputError(f"{parent}: it cannot be written to. Name another folder for the masks.")
    if inputs.is_dir() and inputs.resolve() == folder.resolve():
        raise InputError(f"{folder}: it holds the volumes themselves. Name another folder for the masks.")


def file_names(names: Sequence[str], label_ids: Sequence[int]) -> Iterator[str]:
    """A file name for each class; one that is not unique gets the label id."""
    plain = [re.sub(r"[^\w.-]+", "_", name).strip("._") for name in names]
    for name, label_id in zip(plain, label_ids, strict=True):
        unique = name and [other.casefold() for other in plain].count(name.casefold()) == 1
        yield name if unique else f"{name or 'class'}_{label_id}"
