"""A prediction as several processes do it: each loads the run once and segments the cases that it gets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.jobs import Progress
from medsam_adapt.core.parts import device_of_process
from medsam_adapt.data.prompts.file import Prompt, prompts_in
from medsam_adapt.data.volumes.image_set import ImageSet
from medsam_adapt.inference.zero_shot import names_weights, predictor_of
from medsam_adapt.prediction.plan import Outputs, PlannedCase
from medsam_adapt.prediction.prompt_sources import PromptOptions
from medsam_adapt.runs.record import RunRecord

if TYPE_CHECKING:  # they import torch
    from medsam_adapt.inference.predictor import Predictor
    from medsam_adapt.prediction.case_runner import CaseRunner, Outcome
    from medsam_adapt.prediction.prompt_sources import ReferenceOf


@dataclass(frozen=True)
class CasePaths:
    """What a cluster's scheduler learns of a case: its name, where it is, and where its outputs go.

    Where several images are taken together, ``images`` are these.
    """

    name: str
    path: Path
    outputs: Mapping[str, Path]
    series: str | None = None
    images: ImageSet | None = None

    @classmethod
    def of(cls, case: PlannedCase) -> CasePaths:
        """Of a planned case, with absolute paths."""
        outputs = {kind: path.absolute() for kind, path in case.outputs.items()}
        images = None if case.images is None else case.images.absolute()
        return cls(case.name, case.header.path.absolute(), outputs, case.series, images)


@dataclass(frozen=True)
class PredictionJob:
    """How cases are segmented; see `Job`.

    Attributes:
        runs: folders of the runs, or the name of weights.
        record: of the first one.
        outputs: what is written.
        cleaning: of the masks, by the names of `Cleaning`.
        device: as the user gave it.
        precision: as the user gave it.
        batch_size: slices at a time; None by the device.
        flips: whether mirrored slices are averaged.
        prompts: where a prompted run gets its prompts.
        clean_up: whether the clean-up that training chose is done.
    """

    runs: tuple[Path, ...]
    record: RunRecord
    outputs: Outputs
    cleaning: Mapping[str, Any]
    device: str
    precision: str
    batch_size: int | None
    flips: bool
    prompts: PromptOptions
    clean_up: bool

    def elsewhere(self) -> PredictionJob:
        """The same for processes with another working folder."""
        runs = tuple(run if names_weights(run) else run.absolute() for run in self.runs)
        return replace(self, runs=runs, prompts=self.prompts.absolute())

    def predictor(self) -> Predictor:
        """The predictor of the runs, or of the weights.

        Raises:
            InputError: no such run, or one that cannot be loaded.
        """
        from medsam_adapt.inference.predictor import load_run

        run, *others = self.runs
        if names_weights(run):
            return predictor_of(self.record, self.device, self.batch_size, self.precision)
        return load_run(
            run,
            self.device,
            self.batch_size,
            merge=True,
            also=others,
            precision=self.precision,
            clean_up=self.clean_up,
        )

    def runner(
        self,
        predictor: Predictor,
        prompts: Mapping[str, Sequence[Prompt]] | None,
        reference: ReferenceOf | None,
    ) -> CaseRunner:
        """What segments cases one after another."""
        from medsam_adapt.data.volumes.cleaning import Cleaning
        from medsam_adapt.prediction.case_runner import CaseRunner
        from medsam_adapt.runs.statistics import read_statistics

        clean, statistics = Cleaning(**self.cleaning), read_statistics(self.runs[0])
        follow = self.prompts.propagate
        return CaseRunner(predictor, self.outputs, clean, statistics, self.flips, follow, prompts, reference)

    def start(self, device: int | None) -> PredictionWorker:
        """Load the run in a process of several; ``auto`` is the GPU of the process's number there."""
        own = replace(self, device=device_of_process(self.device, device))
        prompts: dict[str, list[Prompt]] | None = None
        if self.prompts.file is not None:
            prompts = prompts_in(self.prompts.file)
            if list(prompts) == [""]:  # they are those of the one volume, whatever its name
                alone = prompts[""]
                prompts = defaultdict(lambda: alone)
        reference = self.prompts.reference_of_each(self.record, own.device, self.batch_size)
        return PredictionWorker(own.runner(own.predictor(), prompts, reference))

    def lost(self, item: Any, reason: str) -> InputError:
        """What is wrong with a case that ended the processes that segmented it."""
        return InputError(f"{item.name}: {reason}, possibly for lack of memory. Use a smaller --batch-size.")


class PredictionWorker:
    """A loaded run in one of several processes; see `Worker`."""

    def __init__(self, runner: CaseRunner) -> None:
        from medsam_adapt.data.volumes.formats.dicom_headers import quiet_dicom

        self.runner = runner
        # To the end of the process: threads that silence pydicom by turns would undo each other's silence.
        ExitStack().enter_context(quiet_dicom())

    def run(self, item: CasePaths) -> Outcome:
        """Segment one case, of which only the paths are known."""
        from medsam_adapt.data.volumes.io import read_header

        try:
            header = read_header(item.images or item.path, item.series)
        except InputError as error:
            return error
        outcome = self.runner.outcome(PlannedCase(item.name, header, dict(item.outputs), item.series, item.images))
        return self._with_device(outcome)

    def run_all(
        self, items: Iterable[PlannedCase], progress: Progress | None = None
    ) -> Iterator[tuple[PlannedCase, Outcome]]:
        """Segment planned cases in turn."""
        for case, outcome in self.runner.run_all(items, progress):
            yield case, self._with_device(outcome)

    def _with_device(self, outcome: Outcome) -> Outcome:
        """An outcome with what only this process knows: its device, and the precision that follows from it."""
        predictor = self.runner.predictor
        if isinstance(outcome, InputError):
            return outcome
        return {**outcome, "ran_on": (str(predictor.device), predictor.precision)}
