"""What a round of annotation is doing, as the page shows it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["idle", "training", "ranking", "proposing", "done", "stopped", "failed"]


@dataclass(frozen=True)
class Progress:
    """What a round is doing.

    Attributes:
        status: of the round; ``done``, ``stopped`` and ``failed`` stay until the next one.
        run: name of the run's folder.
        done: epochs, or scans, that are done.
        total: epochs or scans; 0 while it is not known.
        message: one sentence, such as why it failed.
        labelled: scans with a finished label when the training began.
        held_out: how many of these the run holds out; 0 while it is not known.
        started: in seconds since 1970; None before the first round.
        ended: the same; None while it runs.
    """

    status: Status = "idle"
    run: str = ""
    done: int = 0
    total: int = 0
    message: str = ""
    labelled: int = 0
    held_out: int = 0
    started: float | None = None
    ended: float | None = None

    @property
    def running(self) -> bool:
        """Whether a round is in progress."""
        return self.status in ("training", "ranking", "proposing")

    def as_json(self) -> dict[str, Any]:
        """The same in values that JSON knows."""
        return {**asdict(self), "running": self.running}
