"""Which scans may be suggested: those that nobody has labelled and no run was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import file_sha256
from medsam_adapt.data.datasets.cases import find_cases, find_images, recognised_layout
from medsam_adapt.data.datasets.scans import find_inputs
from medsam_adapt.data.volumes.image_set import ImageSet, ImageSource
from medsam_adapt.runs.record import RunRecord


@dataclass(frozen=True)
class Candidates:
    """The scans of a folder.

    Attributes:
        scans: name -> volume, or the images of a case, of those that may be suggested.
        left_out: name -> why it may not be.
        notes: what was recognised, in sentences.
    """

    scans: Mapping[str, ImageSource]
    left_out: dict[str, str]
    notes: tuple[str, ...] = ()


def find_candidates(
    source: Path,
    record: RunRecord,
    labelled: Mapping[str, ImageSource],
    layout: str = "auto",
    series: str | None = None,
) -> Candidates:
    """The scans that ``source`` names, without those that have a label.

    Args:
        source: whatever ``predict --input`` takes, but for archives.
        record: of a run, or what takes its place.
        labelled: case id -> volume of the runs' training and held-out cases.
        layout: of ``source``; "auto" recognises it.
        series: number, UID or description of the DICOM series wanted.

    Raises:
        InputError: no volume there, or none without a label.
    """
    found = find_inputs(
        source, layout, record.layout, record.images, series, record.class_names, record.may_lack_images
    )
    own = _labelled_in(source, layout)
    places = {first_file(image).resolve() for image in labelled.values()}
    scans: dict[str, ImageSource] = {}
    left_out: dict[str, str] = {}
    for name, image in found.volumes.items():
        path = first_file(image)
        if path.resolve() in places or (name in labelled and _is_copy(path, first_file(labelled[name]))):
            left_out[name] = "it is a case of the run's data set"
        elif name in own:
            left_out[name] = "it has a label"
        else:
            scans[name] = image
    if not scans:
        raise InputError(
            f"{source}: it holds no scan without a label that is not a case of the run's data set already. Give a "
            "folder with scans without labels."
        )
    return Candidates(scans, left_out, found.notes)


def labelled_cases(records: Iterable[RunRecord], data: Path | None = None) -> tuple[dict[str, ImageSource], list[str]]:
    """Case id -> volume of the cases that runs were trained or scored on, and notes about those that are not there.

    Args:
        records: of the runs.
        data: folder of the data set, where it is no longer where the runs found it.

    Raises:
        InputError: ``data`` holds none of the cases.
    """
    found: dict[str, ImageSource] = {}
    notes: list[str] = []
    for record in records:
        folder = data or (Path(record.dataset_dir) if record.dataset_dir else None)
        wanted = {*record.train, *record.held_out}
        volumes: Mapping[str, ImageSource] = {}
        try:
            if folder is not None:
                _, volumes = find_images(folder, record.layout)
        except InputError:
            if data is not None:
                raise
        present = {name: image for name, image in volumes.items() if name in wanted}
        if data is not None and not present:
            raise InputError(f"--data {data}: it holds none of the run's cases. Give the folder of its data set.")
        if not present and wanted:
            notes.append(
                "the run's data set was not found: distances are between the scans alone. Give --data FOLDER to "
                "compare them with the training cases"
            )
        found |= present
    return found, list(dict.fromkeys(notes))


def first_file(image: ImageSource) -> Path:
    """The file or folder of a volume, or of the first image of a case."""
    return image.first if isinstance(image, ImageSet) else image


def evenly(names: Sequence[str], most: int) -> list[str]:
    """At most ``most`` of the sorted names, evenly spaced."""
    names = sorted(names)
    if len(names) <= most:
        return names
    return [names[index * len(names) // most] for index in range(most)]


def _labelled_in(source: Path, layout: str) -> set[str]:
    """Names of the scans that have a label in a data set's layout."""
    try:
        layout = (recognised_layout(source) or "") if layout == "auto" else layout
        cases = find_cases(source, layout, need_labels=False).cases if layout and source.is_dir() else ()
    except InputError:  # labels that cannot be matched concern those who train on them, and `predict` neither
        return set()
    return {case.id for case in cases if case.label_source is not None}


def _is_copy(path: Path, other: Path) -> bool:
    """Whether two files of one name hold the same bytes."""
    if not (path.is_file() and other.is_file()) or path.stat().st_size != other.stat().st_size:
        return False
    return file_sha256(path) == file_sha256(other)
