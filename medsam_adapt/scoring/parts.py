"""Scores of cases that several processes share: ``metrics.2-of-8.json`` of each part, put together by the last one.

A part's file has the scores as they are computed, so that the summary of all parts is the one that a single process
writes. Parts that were scored by other rules, with other weights or on other cases are not put together.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from medsam_adapt.core.files import write_json
from medsam_adapt.core.json_files import peek_object
from medsam_adapt.core.parts import Part
from medsam_adapt.scoring.metrics import MetricRules, Scores
from medsam_adapt.scoring.summary import CaseFacts, without_nan


@dataclass
class PartScores:
    """Scores of one part of the cases, or of all.

    Attributes:
        cases: scores by case id.
        facts: what else is known of the cases.
        label_ids: that the masks hold, or names of structures; only where masks are scored.
        notes: what a reader must know.
        classes: names of the classes by label id; only where masks are scored.
    """

    cases: dict[str, Scores] = field(default_factory=dict)
    facts: dict[str, CaseFacts] = field(default_factory=dict)
    label_ids: list[Any] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    classes: dict[str, str] = field(default_factory=dict)


def scored_by(rules: MetricRules, cases: Sequence[str], **more: Any) -> dict[str, Any]:
    """What parts must agree on: the rules, all cases, and what the scores depend on beside them."""
    return json.loads(json.dumps({"rules": asdict(rules), "cases": list(cases), **more}))


def part_file(folder: Path, part: Part) -> Path:
    """Where the scores of a part are stored."""
    return folder / f"metrics.{part}.json"


def write_part(folder: Path, part: Part, settings: Mapping[str, Any], scores: PartScores) -> Path:
    """Store the scores of a part, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = part_file(folder, part)
    write_json(path, without_nan({"settings": settings, **asdict(scores)}))
    return path


def read_parts(folder: Path, count: int, settings: Mapping[str, Any]) -> tuple[PartScores, list[int]]:
    """The scores of all parts, in the order of the settings' cases, and the numbers of the parts that are missing.

    Args:
        folder: of the parts' files.
        count: of the parts.
        settings: as `scored_by` gives them; a part with others is missing.
    """
    whole, missing = PartScores(), []
    if folder.is_dir():
        with os.scandir(folder):  # opened, or NFS may still hold that a file of another host is not there
            pass
    for number in range(1, count + 1):
        content = peek_object(part_file(folder, Part(number, count)))
        if content.get("settings") != settings:
            missing.append(number)
            continue
        whole.cases |= {
            case: {name: {metric: _number(value) for metric, value in row.items()} for name, row in scores.items()}
            for case, scores in content["cases"].items()
        }
        whole.facts |= {
            case: CaseFacts(tuple(fact["spacing"]), tuple(fact["shape"]), _number(fact["background_iou"]))
            for case, fact in content["facts"].items()
        }
        whole.label_ids += [label_id for label_id in content["label_ids"] if label_id not in whole.label_ids]
        whole.classes |= content["classes"]
        whole.notes += [note for note in content["notes"] if note not in whole.notes]
    whole.cases = {case: whole.cases[case] for case in settings["cases"] if case in whole.cases}
    return whole, missing


def _number(value: float | None) -> float:
    """A score as it was before JSON, which has no NaN."""
    return math.nan if value is None else value
