"""Rounds of annotation: train on what is labelled, rank what is not, and propose labels for it, in the background."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medsam_adapt.annotation.drawing import take_images
from medsam_adapt.annotation.proposals import Proposals
from medsam_adapt.annotation.proposing_models import run_model
from medsam_adapt.annotation.round_progress import Progress, Status
from medsam_adapt.annotation.round_training import TrainingProcess
from medsam_adapt.annotation.session import Session
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.text import class_key
from medsam_adapt.data.volumes.image_set import ImageSet, ImageSource
from medsam_adapt.data.volumes.io import VolumeHeader, read_volume
from medsam_adapt.runs.record import RunRecord, read_cost, read_run
from medsam_adapt.runs.resume import is_finished
from medsam_adapt.suggestion.candidates import Candidates
from medsam_adapt.suggestion.suggest import Suggestion, rank_scans

RUNS = "runs"  # folder in a session's output
_GRACE = 30.0  # seconds in which a thread that is stopped may end


class Rounds:
    """Trains, ranks and proposes for one session, one round at a time; safe to use from several threads.

    Runs are kept as ``OUTPUT/runs/round_01``, ``round_02``, …. Each starts from the run before it, so that patients
    who were held out once stay held out.

    Args:
        session: the scans.
        proposals: gets the new run, which then labels whole scans.
        start: the run that the first round continues from, if there is one.
        device: of the trainings.
        options: further options for ``medsam-adapt train``.

    Attributes:
        order: scans without a label, the one to label first in front; empty before the first ranking.
    """

    def __init__(
        self,
        session: Session,
        proposals: Proposals,
        start: Path | None = None,
        device: str = "auto",
        options: Sequence[str] = (),
    ) -> None:
        self.session, self.proposals, self.device, self.options = session, proposals, device, tuple(options)
        self.start_run = start
        self.order: list[Suggestion] = []
        self._progress = Progress()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._process: TrainingProcess | None = None
        self._thread: threading.Thread | None = None

    @property
    def folder(self) -> Path:
        """Where the runs are."""
        return self.session.output / RUNS

    @property
    def progress(self) -> Progress:
        """What the round is doing now; epochs are read from the run's record."""
        with self._lock:
            progress = self._progress
        if progress.status != "training":
            return progress
        try:
            record = read_run(self.folder / progress.run)
            epochs, held_out = int(record.knobs["epochs"]), len(record.held_out)
            cost = read_cost(self.folder / progress.run)
        except (InputError, KeyError):  # it is not there before the first epoch
            return progress
        return replace(progress, total=epochs, held_out=held_out, done=0 if cost is None else cost.epochs or 0)

    def latest(self) -> Path | None:
        """The last run that was finished, or the one to start from; None where there is neither."""
        finished = [path for path in sorted(self.folder.glob("round_*")) if is_finished(path)]
        return finished[-1] if finished else self.start_run

    def use_latest(self) -> Path | None:
        """Have the last run of an earlier session propose, where no other run does; returns it.

        Raises:
            InputError: a damaged run.
        """
        run = self.latest()
        if self.proposals.automatic is not None or run is None or not self._knows_classes(run):
            return None
        self.proposals.automatic = run_model(run, self.device)
        return run

    def train(self, minutes: float | None = None) -> Progress:
        """Begin a round with a training; returns at once.

        Args:
            minutes: time budget of the training; the bundle's own number of epochs when None.

        Raises:
            InputError: a round is in progress, no scan is labelled, or the labels cannot be written.
        """
        with self._begin("training"):
            data = self.session.training_folder()
            earlier = [path for path in self.folder.glob("round_*") if path.is_dir()]
            run = self.folder / f"round_{len(earlier) + 1:02d}"
            labelled = len([scan for scan in self.session.scans if self.session.status(scan) == "labelled"])
            self._update(run=run.name, labelled=labelled)
            self._work(self._train, data, run, minutes)
        return self.progress

    def rank(self) -> Progress:
        """Begin to rank the scans without labels; returns at once.

        Raises:
            InputError: a round is in progress.
        """
        with self._begin("ranking"):
            self._work(self._rank)
        return self.progress

    def stop(self) -> Progress:
        """Ask the round to end, and wait until it has."""
        self._stopped.set()
        process, thread = self._process, self._thread
        if process is not None:
            process.stop()
        if thread is not None:
            thread.join(_GRACE)
        return self.progress

    def next_scan(self) -> str | None:
        """The scan to label next: the first of `order`, else of all scans; None where all are labelled."""
        left = [scan for scan in self.session.scans if self.session.status(scan) != "labelled"]
        return next((each.name for each in self.order if each.name in left), left[0] if left else None)

    # ------------------------------------------------------------------------------------------------ in the background

    def _begin(self, status: Status) -> _Beginning:
        return _Beginning(self, status)

    def _work(self, work: Any, *arguments: Any) -> None:
        self._thread = threading.Thread(target=self._kept, args=[work, *arguments], name="round", daemon=True)
        self._thread.start()

    def _kept(self, work: Any, *arguments: Any) -> None:
        """Do the work, and keep how it ended."""
        try:
            work(*arguments)
            self._end("stopped" if self._stopped.is_set() else "done", "")
        except InputError as error:
            self._end(*(("stopped", "") if self._stopped.is_set() else ("failed", str(error))))
        except Exception as error:  # a thread that ends silently would leave the page waiting
            self._end("failed", f"{type(error).__name__}: {error}")
            raise

    def _end(self, status: Status, message: str) -> None:
        self._update(status=status, message=message, ended=time.time())

    def _update(self, **changes: Any) -> None:
        with self._lock:
            self._progress = replace(self._progress, **changes)

    def _train(self, data: Path, run: Path, minutes: float | None) -> None:
        self._process = TrainingProcess(self.command(data, run, minutes), run)
        if self._stopped.is_set():  # before it was there
            self._process.stop()
        self._process.wait()
        if self._stopped.is_set():
            return
        self.proposals.automatic = run_model(run, self.device)
        self._rank()
        self._propose()

    def command(self, data: Path, run: Path, minutes: float | None = None) -> list[str]:
        """The command that trains ``run`` on ``data``: from the run before, if it knows all classes of the session."""
        start = self.latest()
        begin = ["--from", str(start)] if start is not None and self._knows_classes(start) else []
        budget = [] if minutes is None else ["--minutes", f"{minutes:g}"]
        how = [*begin, *budget, "--device", self.device, *self.options]
        return [sys.executable, "-m", "medsam_adapt.cli", "train", "--data", str(data), "--output", str(run), *how]

    def _knows_classes(self, run: Path) -> bool:
        record = read_run(run)
        known = dict(zip(record.label_ids, map(class_key, record.class_names), strict=True))
        same = all(known.get(number) == class_key(name) for number, name in self.session.classes.items())
        return same and record.prompt == "none"

    def _rank(self) -> None:
        session = self.session
        statuses = {scan: session.status(scan) for scan in session.scans}
        left = {scan: session.scans[scan].image for scan, status in statuses.items() if status != "labelled"}
        labelled = {scan: session.scans[scan].image for scan, status in statuses.items() if status == "labelled"}
        self._update(status="ranking", done=0, total=len(session.scans))
        if not left:
            self.order = []
            return
        trained = self.proposals.automatic is not None
        model = self.proposals.automatic or self.proposals.prompted
        series = next((scan.series for scan in session.scans.values() if scan.series), None)
        read = partial(_seen_by, model.predictor.record, series)
        found = rank_scans(
            [model.predictor], Candidates(left, {}), labelled, len(left), trained, read, self._report_ranked
        )
        self.order = found.scans

    def _report_ranked(self, name: str, done: int, total: int) -> None:
        if self._stopped.is_set():
            raise InputError("rounds: the ranking was stopped. Start it again.")
        self._update(done=done, total=total)

    def _propose(self) -> None:
        """The new run's labels of all scans that no person has worked on, in the order in which to look at them."""
        assert self.proposals.automatic is not None, "it was just loaded"
        self._update(status="proposing", done=0, total=len(self.order))
        for done, scan in enumerate(self.order, start=1):
            if self._stopped.is_set():
                return
            drawing = self.session.drawing(scan.name)
            if not drawing.worked_on():
                label = self.proposals.segment(drawing, self.session.classes)
                self.session.propose(scan.name, label, self.proposals.automatic.author)
            self._update(done=done)


def _seen_by(record: RunRecord, series: str | None, source: ImageSource) -> tuple[np.ndarray, VolumeHeader]:
    """The voxels of a scan that a model sees: the images that it takes, in its order, or the first one."""
    if not isinstance(source, ImageSet):
        return read_volume(source, series if source.is_dir() else None, record.policy.suv)
    suv = dict(zip(map(class_key, record.images), record.policy.suv, strict=False))
    voxels, header = read_volume(source, suv=[suv.get(class_key(name), False) for name in source.names])
    return (take_images(str(source), voxels, source.names, record.images) if record.images else voxels[..., 0]), header


class _Beginning:
    """Takes the place of a round before its work is started, and gives it back when that fails."""

    def __init__(self, rounds: Rounds, status: Status) -> None:
        self.rounds, self.status = rounds, status

    def __enter__(self) -> None:
        with self.rounds._lock:
            if self.rounds._progress.running:
                raise InputError(
                    f"rounds: a round is in progress ({self.rounds._progress.status}). Wait for its end, or stop it."
                )
            self.before = self.rounds._progress
            self.rounds._progress = Progress(self.status, started=time.time())
            self.rounds._stopped.clear()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is not None:
            with self.rounds._lock:
                self.rounds._progress = self.before
