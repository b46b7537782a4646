"""``metrics.json`` as it is read back: checked, since a page or a comparison of a damaged one would answer wrongly.

What is checked is what readers rely on: every metric of ``rules`` in every class, case and mean, as a number or None.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from medsam_adapt.scoring.metrics import METRICS

Score = float | None


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class _Scores(_Part):
    """Scores by metric, and counts."""

    __pydantic_extra__: dict[str, Score]


class _Statistics(_Part):
    sd: Score
    low: Score
    high: Score


class _ClassSummary(_Scores):
    cases: int = Field(ge=0)
    undefined: int = Field(ge=0)
    missed: int = Field(ge=0)
    spurious: int = Field(ge=0)
    statistics: dict[str, _Statistics]


class _CaseClass(_Scores):
    outcome: str


class _Case(_Part):
    mean: dict[str, Score]
    classes: dict[str, _CaseClass]


class _Rules(_Part):
    protocol: str
    metrics: dict[str, dict[str, str]]
    empty_policy: str
    empty_rule: str
    surface: str
    tolerances_mm: dict[str, float]
    interval: str


class StoredMetrics(_Part):
    """The content of ``metrics.json``."""

    rules: _Rules
    notes: list[str]
    absent: list[str]
    mean: dict[str, Score]
    intervals: dict[str, tuple[Score, Score]]
    classes: dict[str, _ClassSummary]
    cases: dict[str, _Case]

    @model_validator(mode="after")
    def _is_whole(self) -> StoredMetrics:
        metrics = set(self.rules.metrics)
        if unknown := sorted(metrics - set(METRICS)):
            raise ValueError(f"there is no metric {unknown[0]!r}")
        for place, held in self._tables():
            if lacking := sorted(metrics - set(held)):
                raise ValueError(f"{place} lacks {lacking[0]}")
        for name, case in self.cases.items():
            if set(case.classes) != set(self.classes):
                raise ValueError(f"case {name!r} has other classes")
        return self

    def _tables(self) -> Iterator[tuple[str, Any]]:
        """Every place that has a value for each metric."""
        yield "mean", self.mean
        yield "intervals", self.intervals
        for name, row in self.classes.items():
            yield f"class {name!r}", row.__pydantic_extra__
            yield f"class {name!r}", row.statistics
        for name, case in self.cases.items():
            yield f"case {name!r}", case.mean
            for scores in case.classes.values():
                yield f"case {name!r}", scores.__pydantic_extra__
