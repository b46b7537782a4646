"""The training of a round of annotation, in another process."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from medsam_adapt.core.errors import InputError

_GRACE = 30.0  # seconds in which a training that is stopped may write its checkpoint


class TrainingProcess:
    """A training that is running; what it prints is in a log beside its run.

    Args:
        command: that trains.
        run: the folder that it trains.
    """

    def __init__(self, command: Sequence[str], run: Path) -> None:
        self._run, self._log, self._stopped = run, run.with_name(f"{run.name}.log"), False
        run.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("wb") as file:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)

    def wait(self) -> None:
        """Return when the training has ended.

        Raises:
            InputError: it failed, and nobody stopped it.
        """
        if self._process.wait() != 0 and not self._stopped:
            raise InputError(self._reason())

    def stop(self) -> None:
        """Ask the training to end, and wait until it has."""
        self._stopped = True
        self._process.terminate()
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _reason(self) -> str:
        """The sentence with which the training ended."""
        lines = [line.strip() for line in self._log.read_text(encoding="utf-8", errors="replace").splitlines()]
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        return errors[-1] if errors else f"{self._run.name}: the training failed. Its output is in {self._log}."
