"""Collects the content of a run's page: the cases shown and the notes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from medsam_adapt.evaluation.pictures import choose_cases
from medsam_adapt.report.curves import read_curves
from medsam_adapt.report.facts import facts_of
from medsam_adapt.report.figures import saved_pictures
from medsam_adapt.report.page import Report, make_page
from medsam_adapt.report.volumes import PackedCase, pack, segmented_cases
from medsam_adapt.runs.record import LOG_FOLDER, RunRecord

SAME_SCORE = 1e-3  # DSC: a GPU may move a voxel, other weights or labels move more


@dataclass(frozen=True)
class Place:
    """Where labelled volumes are.

    Attributes:
        data: the data set's folder.
        layout: its layout.
        label_ids: that the run's classes have there.
    """

    data: Path
    layout: str
    label_ids: Sequence[int]


def report_of(
    run: Path,
    record: RunRecord,
    metrics: Mapping[str, Any],
    place: Place | None,
    device: str = "auto",
    images: bool = True,
    keep_identifiers: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[str, list[str]]:
    """The HTML page of a run, and notes on how it was made.

    Args:
        run: its folder.
        record: of the run.
        metrics: content of its ``metrics.json``.
        place: where the volumes are; None for a page with the pictures in the run's folder instead of slices.
        device: where the cases shown are segmented.
        images: whether to include slices of patients.
        keep_identifiers: whether to show the folders of run and data set.
        progress: called with how many cases are done, and how many there are.

    Raises:
        InputError: missing or unreadable volumes, or a bundle that does not exist in this version.
    """
    facts = facts_of(run, record, keep_identifiers)
    shown, notes = ([], []) if place is None or not images else _show(run, record, metrics, place, device, progress)
    trained_on = sorted(set(record.train) & set(metrics["cases"])) if record.held_out else []
    page = make_page(
        Report(
            run=run.resolve().name,
            facts=facts,
            metrics=metrics if keep_identifiers else _without_folders(metrics, [record.dataset_dir, str(run)]),
            trained_on=trained_on,
            curves=read_curves(run / LOG_FOLDER),
            axis=record.axis,
            letters=record.layout != "image2d",
            shown=shown,
            pictures=saved_pictures(run) if images and place is None else {},
            notes=[*_about_cases(metrics, trained_on), *notes],
            about_slices=_about_slices(metrics, shown),
        )
    )
    return page, notes


def _show(
    run: Path,
    record: RunRecord,
    metrics: Mapping[str, Any],
    place: Place,
    device: str,
    progress: Callable[[int, int], None],
) -> tuple[list[tuple[str, PackedCase]], list[str]]:
    """The worst, the median and the best case, packed; and a note where their scores are not those in ``metrics``."""
    means = {case: content["mean"]["dsc"] for case, content in metrics["cases"].items()}
    chosen = choose_cases({case: math.nan if mean is None else mean for case, mean in means.items()})
    packed: dict[str, PackedCase] = {}
    differing: list[str] = []
    progress(0, len(chosen))
    ids = list(chosen.values())
    for volumes in segmented_cases(run, record, ids, place.data, place.layout, place.label_ids, device) if ids else ():
        if not abs(volumes.mean_dsc(record.class_names, record.absent) - means[volumes.case]) <= SAME_SCORE:
            differing.append(volumes.case)
        packed[volumes.case] = pack(volumes, record.axis, len(record.class_names))
        progress(len(packed), len(chosen))
    notes = [
        f"Case {case}: the scores of the masks shown differ from the tables, because weights, labels or rules have "
        "changed. Run 'medsam-adapt evaluate' again."
        for case in differing
    ]
    return [(role, packed[case]) for role, case in chosen.items()], notes


def _without_folders(metrics: Mapping[str, Any], folders: Sequence[str]) -> dict[str, Any]:
    """The same with no path of these folders in its notes."""
    notes = list(metrics["notes"])
    for folder in filter(None, folders):
        notes = [note.replace(folder, "(folder)") for note in notes]
    return {**metrics, "notes": notes}


def _about_cases(metrics: Mapping[str, Any], trained_on: Sequence[str]) -> list[str]:
    if not trained_on:
        return []
    return [f"{len(trained_on)} of the {len(metrics['cases'])} cases were trained on; their scores are optimistic."]


def _about_slices(metrics: Mapping[str, Any], shown: Sequence[tuple[str, PackedCase]]) -> list[str]:
    """How the slices in the page differ from the volumes, and their size."""
    if not shown:
        return []
    cases = [packed for _, packed in shown]
    notes = []
    if len(cases) < len(metrics["cases"]):
        notes.append(f"Slices of {len(cases)} of {len(metrics['cases'])} cases are shown.")
    if smaller := [packed for packed in cases if max(packed.native) > max(packed.width, packed.height)]:
        sizes = " and ".join(sorted({f"{packed.width} × {packed.height}" for packed in smaller}))
        notes.append(f"Slices and outlines are reduced to {sizes} pixels; scores are computed at full size.")
    for packed in cases:
        if len(packed.numbers) < packed.slices:
            notes.append(f"{len(packed.numbers)} of {packed.slices} slices of {packed.case} are shown.")
    size = decimal(sum(packed.packed_bytes for packed in cases))
    notes.append(f"The page contains slices of patients ({size}): treat it like the images.")
    return notes
