"""Scores by the workers of a cluster: parts of the cases are its tasks, whose scores lie in the output folder."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from medsam_adapt.core.errors import RunError
from medsam_adapt.core.parts import Part, device_of_process
from medsam_adapt.scoring.parts import part_file
from medsam_adapt.workflows.mask_scoring import MaskScoring
from medsam_adapt.workflows.reporter import SILENT, Reporter
from medsam_adapt.workflows.run_scoring import RunScoring

_PARTS = 4  # for each worker, so that those that are fast, or join late, take more of them


@dataclass(frozen=True)
class _NamedPart:
    """A part as a task."""

    part: Part

    @property
    def name(self) -> str:
        return str(self.part)


@dataclass(frozen=True)
class ScoringJob:
    """How parts are scored; see `Job`."""

    scoring: RunScoring | MaskScoring

    def start(self, device: int | None) -> _Scorer:
        """The scoring on the device of this process."""
        scoring = self.scoring
        if isinstance(scoring, RunScoring):
            scoring = scoring.on(device_of_process(scoring.device, device))
        return _Scorer(scoring)

    def lost(self, item: _NamedPart, reason: str) -> RunError:
        """What happened to a part that ended every worker that began it."""
        part = item.part
        return RunError(
            f"part {part.number} of {part.count}: {reason}. Give the workers more memory, and evaluate again."
        )


class _Scorer:
    """Scores one part at a time; see `Worker`."""

    def __init__(self, scoring: RunScoring | MaskScoring) -> None:
        self._scoring, self._one_at_a_time = scoring, threading.Lock()

    def run(self, item: _NamedPart) -> None:
        with self._one_at_a_time:
            self._scoring.score_part(item.part, SILENT)


def score_on_cluster(scoring: RunScoring | MaskScoring, address: str, reporter: Reporter) -> dict[str, Any]:
    """Score all cases; the content of ``metrics.json``.

    Args:
        scoring: what is scored, and how.
        address: of the cluster.
        reporter: receives notes and progress.

    Raises:
        InputError: as for the scoring, and as `open_cluster`.
        RunError: the workers were lost.
    """
    from medsam_adapt.core.cluster import open_cluster

    ids = scoring.ids
    with open_cluster(address) as cluster, reporter.progress("scoring", len(ids)) as progress:
        count = max(1, min(len(ids), _PARTS * max(cluster.workers, 1)))
        parts = [_NamedPart(Part(number, count)) for number in range(1, count + 1)]
        for item, failed in cluster.run(ScoringJob(scoring.elsewhere()), parts):
            if failed is not None:
                raise failed
            progress.update(len(item.part.of(ids)))
    summary, _ = scoring.merged(count, reporter)
    for item in parts:
        part_file(scoring.output, item.part).unlink(missing_ok=True)
    return summary
