"""Collects the content of a run's page: the cases shown and the notes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from medsam_adapt.core.text import counted
from medsam_adapt.evaluation.shown_cases import PackedCase, read_shown_cases
from medsam_adapt.report.curves import read_curves
from medsam_adapt.report.facts import facts_of
from medsam_adapt.report.page import PageContent, make_page
from medsam_adapt.runs.record import LOG_FOLDER, RunRecord

SAME_SCORE = 1e-6  # DSC: a score that was written to a file and read again


def report_of(
    run: Path, record: RunRecord, metrics: Mapping[str, Any], images: bool = True, keep_identifiers: bool = False
) -> tuple[str, list[str]]:
    """The HTML page of a run, and notes on how it was made.

    Args:
        run: its folder.
        record: of the run.
        metrics: content of its ``metrics.json``.
        images: whether to include slices of patients.
        keep_identifiers: whether to show the folders of run and data set.

    Raises:
        InputError: the evaluation stored no cases, or a bundle that does not exist in this version.
    """
    facts = facts_of(run, record, keep_identifiers)
    shown, notes = _stored(run, metrics) if images else ([], [])
    trained_on = sorted(set(record.train) & set(metrics["cases"])) if record.held_out else []
    page = make_page(
        PageContent(
            run=run.resolve().name,
            facts=facts,
            metrics=metrics if keep_identifiers else _without_folders(metrics, [record.dataset_dir, str(run)]),
            trained_on=trained_on,
            curves=read_curves(run / LOG_FOLDER),
            axis=record.axis,
            letters=record.layout != "image2d",
            shown=shown,
            notes=[*_about_cases(metrics, trained_on), *notes],
            about_slices=_about_slices(metrics, shown),
        )
    )
    return page, notes


def _stored(run: Path, metrics: Mapping[str, Any]) -> tuple[list[tuple[str, PackedCase]], list[str]]:
    """The cases shown with their roles; and a note on each whose masks are not those that ``metrics`` scores."""
    stored = read_shown_cases(run)
    shown = [(role, case) for role, case in stored.cases.items() if case.case in metrics["cases"]]
    notes = []
    for case in (case.case for _, case in shown):
        score = metrics["cases"][case]["mean"]["dsc"]
        if score is None or not abs(score - stored.mean_dsc.get(case, math.nan)) <= SAME_SCORE:
            notes.append(
                f"Case {case}: the scores of the masks shown differ from the tables. Run 'medsam-adapt evaluate' again."
            )
    return shown, notes


def _without_folders(metrics: Mapping[str, Any], folders: Sequence[str]) -> dict[str, Any]:
    """The same with no path of these folders in its notes."""
    notes = list(metrics["notes"])
    for folder in filter(None, folders):
        notes = [note.replace(folder, "(folder)") for note in notes]
    return {**metrics, "notes": notes}


def _about_cases(metrics: Mapping[str, Any], trained_on: Sequence[str]) -> list[str]:
    if not trained_on:
        return []
    share = f"{len(trained_on)} of {counted(len(metrics['cases']), 'case')}"
    return [f"Scores of cases that were trained on are optimistic: {share}."]


def _about_slices(metrics: Mapping[str, Any], shown: Sequence[tuple[str, PackedCase]]) -> list[str]:
    """How the slices in the page differ from the volumes, and their size."""
    if not shown:
        return []
    cases = [packed for _, packed in shown]
    notes = []
    if len(cases) < len(metrics["cases"]):
        notes.append(f"Slices of {len(cases)} of {counted(len(metrics['cases']), 'case')} are shown.")
    if smaller := [packed for packed in cases if max(packed.native) > max(packed.width, packed.height)]:
        sizes = " and ".join(sorted({f"{packed.width} × {packed.height}" for packed in smaller}))
        notes.append(f"Slices and outlines are reduced to {sizes} pixels; scores are computed at full size.")
    for packed in cases:
        if len(packed.numbers) < packed.slices:
            notes.append(f"{len(packed.numbers)} of {counted(packed.slices, 'slice')} of {packed.case} are shown.")
    size = decimal(sum(packed.packed_bytes for packed in cases))
    notes.append(f"The page contains slices of patients ({size}): treat it like the images.")
    return notes
