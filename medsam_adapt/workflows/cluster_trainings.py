"""The trainings of a comparison by the workers of a cluster, each training a task."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

from medsam_adapt.comparison.plan import ComparisonPlan, PlannedRun, is_scored
from medsam_adapt.core.errors import InputError, RunError
from medsam_adapt.core.folder_lock import FolderLock
from medsam_adapt.core.parts import device_of_process
from medsam_adapt.scoring.metrics import MetricRules
from medsam_adapt.workflows import command
from medsam_adapt.workflows.reporter import Reporter

_PAUSE = 5.0  # seconds between two looks at a folder that another process still trains in


@dataclass(frozen=True)
class _Training:
    """One training as a task."""

    run: PlannedRun

    @property
    def name(self) -> str:
        return str(self.run.folder)


@dataclass(frozen=True)
class _TrainingJob:
    """How runs are trained and scored; see `Job`."""

    plan: ComparisonPlan
    splits: Path
    rules: MetricRules
    device: str

    def start(self, device: int | None) -> _Trainer:
        """A trainer on the device of this process."""
        return _Trainer(self, device_of_process(self.device, device))

    def lost(self, item: _Training, reason: str) -> RunError | None:
        """What happened to a training that ended every worker that began it."""
        return RunError(f"{item.name}: {reason}. Give the workers more memory, and run the same command again.")


class _Trainer:
    """Trains one run at a time; see `Worker`."""

    def __init__(self, job: _TrainingJob, device: str) -> None:
        self._job, self._device, self._one_at_a_time = job, device, threading.Lock()

    def run(self, item: _Training) -> RunError | None:
        """Train a run, or resume it, and score it."""
        job, run = self._job, item.run
        with self._one_at_a_time:
            _wait_until_free(run.folder)  # where a worker is lost, the training that it began may go on for a while
            try:
                if run.state() != "trained":
                    command.run_command(run.train_arguments(job.plan, job.splits, self._device), item.name, quiet=True)
                if not is_scored(run.folder, job.rules):
                    arguments = score_arguments(run.folder, job.rules, self._device)
                    command.run_command(arguments, f"evaluation of {item.name}", quiet=True)
            except RunError as error:
                return error
        return None


def score_arguments(run: Path, rules: MetricRules, device: str) -> list[str]:
    """What ``medsam-adapt`` gets to score a run: all its cases, whatever a scheduler's environment sets."""
    return ["evaluate", str(run), "--protocol", rules.protocol, "--device", device, "--part", "1/1"]


def train_on_cluster(
    plan: ComparisonPlan,
    splits: Path,
    output: Path,
    rules: MetricRules,
    device: str,
    address: str,
    reporter: Reporter,
) -> None:
    """Train and score every run of a comparison that is not there yet.

    Args:
        plan: of the comparison.
        splits: file of its splits, with its complete path.
        output: folder of the comparison, with its complete path.
        rules: of the scores.
        device: as the user gave it.
        address: of the cluster.
        reporter: receives notes and progress.

    Raises:
        InputError: as `open_cluster`.
        RunError: a training or an evaluation failed; the log of the worker has its reason.
    """
    from medsam_adapt.core.cluster import open_cluster

    todo = [_Training(run) for run in plan.runs(output) if run.state() != "trained" or not is_scored(run.folder, rules)]
    if not todo:
        return
    with open_cluster(address) as cluster, reporter.progress("trainings", len(todo)) as progress:
        if not cluster.workers:
            reporter.note(f"--cluster {address}: it has no worker yet. Waiting for one.")
        for item, failed in cluster.run(_TrainingJob(plan, splits, rules, device), todo):
            if failed is not None:
                raise failed
            progress.update(1, detail=item.name)


def _wait_until_free(folder: Path) -> None:
    while folder.is_dir():
        try:
            return FolderLock.refuse_if_held(folder)
        except InputError:
            time.sleep(_PAUSE)
