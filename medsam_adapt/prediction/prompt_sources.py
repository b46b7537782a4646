"""Where prompts are taken from when nobody draws them: label files, or what another run proposes.

Structures are matched by name, whatever their ids in the other place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medsam_adapt.core.errors import InputError, problems_error
from medsam_adapt.core.text import class_key
from medsam_adapt.data.prompts.file import Prompt, read_prompts
from medsam_adapt.data.prompts.placement import prompts_on_slices
from medsam_adapt.data.volumes.image_set import refuse_other_images
from medsam_adapt.prediction.label_prompts import PromptsFromLabels, ids_by_name, translate
from medsam_adapt.prediction.plan import PlannedCase, PredictionPlan
from medsam_adapt.runs.record import RunRecord, read_runs

if TYPE_CHECKING:  # it imports torch
    from medsam_adapt.inference.predictor import Predictor

#: gives a case's label ids, or masks, from which prompts are taken; also takes its voxels
ReferenceOf = Callable[[PlannedCase, np.ndarray], np.ndarray]

SEES_THE_ANSWER = (
    "the prompts were taken from labels: the model saw where the answer is, so these masks are for evaluation only"
)


@dataclass(frozen=True)
class PromptOptions:
    """Where a prompted run gets its prompts.

    Attributes:
        file: JSON of boxes and points.
        from_run: folder of a run that proposes.
        from_labels: a label file, or a folder of them.
        propagate: whether the prompts of ``file`` are followed to neighbouring slices.
    """

    file: Path | None = None
    from_run: Path | None = None
    from_labels: Path | None = None
    propagate: bool = False

    def given_options(self) -> dict[str, Path | bool]:
        """The options that were given, by name, for the report."""
        given = {"prompts": self.file, "prompts-from-run": self.from_run, "prompts-from": self.from_labels}
        paths = {name: path for name, path in given.items() if path is not None}
        return {**paths, "propagate": self.propagate}

    def check(self, record: RunRecord, run: Path) -> None:
        """Raise an InputError unless the run gets prompts as it needs them: none, or from one source.

        Args:
            record: of the run.
            run: its folder, for the sentence.
        """
        given = [f"--{name}" for name in self.given_options() if name != "propagate"]
        if len(given) > 1:
            raise InputError(f"{' and '.join(given)}: both give prompts. Choose one of them.")
        if record.prompt == "none" and given:
            raise InputError(f"{run}: it was trained without prompts and takes none. Leave out {given[0]}.")
        if self.propagate and self.file is None:
            raise InputError("--propagate: it follows the boxes and points of --prompts. Give these too.")
        if record.prompt != "none" and not given:
            raise InputError(
                f"{run}: it was trained with a {record.prompt} prompt and cannot segment without one. Train with "
                "--prompt none, or give --prompts, --prompts-from-run or --prompts-from."
            )

    def of_cases(self, plan: PredictionPlan, record: RunRecord) -> dict[str, list[Prompt]] | None:
        """The prompts of the file by case, None without a file.

        Raises:
            InputError: as `read_case_prompts`.
        """
        return None if self.file is None else read_case_prompts(self.file, plan.cases, plan.names, record)

    def reference(
        self, cases: Sequence[PlannedCase], record: RunRecord
    ) -> Callable[[str, int | None], ReferenceOf | None]:
        """What gives the labels from which prompts are taken, once a device and a batch size are known.

        Raises:
            InputError: labels or a proposing run that do not fit.
        """
        if self.from_labels is not None:
            labels = PromptsFromLabels(self.from_labels, cases, record)
            return lambda device, batch_size: labels
        if self.from_run is None:
            return lambda device, batch_size: None
        folder = self.from_run
        check_proposer(read_runs([folder])[folder], folder, record)

        def load(device: str, batch_size: int | None) -> ReferenceOf:
            from medsam_adapt.inference.predictor import load_run

            return PromptsFromRun(load_run(folder, device, batch_size, merge=True), record)

        return load

    def absolute(self) -> PromptOptions:
        """The same with absolute paths."""
        places = self.file, self.from_run, self.from_labels
        file, from_run, from_labels = (None if path is None else path.absolute() for path in places)
        return PromptOptions(file, from_run, from_labels, self.propagate)

    def reference_of_each(self, record: RunRecord, device: str, batch_size: int | None) -> ReferenceOf | None:
        """As `reference`, for cases that are not known beforehand: the label of each is looked for when it comes."""
        if self.from_labels is not None:
            labels = self.from_labels
            return lambda case, image: PromptsFromLabels(labels, [case], record)(case, image)
        return self.reference([], record)(device, batch_size)


def read_case_prompts(
    path: Path, cases: Sequence[PlannedCase], names: Sequence[str], record: RunRecord
) -> dict[str, list[Prompt]]:
    """The prompts of all cases, checked against the run and the volumes.

    Args:
        path: the JSON file.
        cases: to segment.
        names: of all inputs, also of those that are done or cannot be read.
        record: of the run.

    Raises:
        InputError: all faults with their places.
    """
    found = read_prompts(path, names)
    problems: list[str] = []
    for case in cases:
        where = f"{path}, " + ("prompts" if len(names) == 1 else f"cases.{case.name}")
        try:
            prompts_on_slices(found[case.name], record, case.header.shape, case.header.affine, where)
        except InputError as error:
            problems += error.problems
    if problems:
        raise problems_error(problems)
    return found


class PromptsFromRun:
    """What a run that needs no prompts proposes.

    Args:
        proposer: the predictor of that run.
        record: of the run that is to be prompted.
    """

    def __init__(self, proposer: Predictor, record: RunRecord) -> None:
        self.proposer, self.record = proposer, record

    def __call__(self, case: PlannedCase, image: np.ndarray) -> np.ndarray:
        """Label ids of the prompted run, (X, Y, Z), or masks (C, X, Y, Z) of a proposer whose classes overlap."""
        proposed = self.proposer(image, case.header.affine)
        theirs = ids_by_name(self.proposer.record.class_names, self.proposer.record.label_ids)
        wanted = [theirs[class_key(name)] for name in self.record.class_names]
        if proposed.ndim == 4:
            return proposed[[self.proposer.record.label_ids.index(label_id) for label_id in wanted]]
        return translate(proposed, wanted, self.record.label_ids)


def check_proposer(proposer: RunRecord, folder: Path, record: RunRecord) -> None:
    """Raise an InputError unless a run can propose for another: it needs no prompts and has all its classes."""
    refuse_other_images(record.images, proposer.images, "the prompted run", folder)
    if proposer.prompt != "none":
        raise InputError(f"{folder}: it needs prompts itself. Give --prompts-from-run one trained with --prompt none.")
    missing = sorted({*map(class_key, record.class_names)} - {*map(class_key, proposer.class_names)})
    if missing:
        raise InputError(
            f"{folder}: it does not segment {', '.join(missing)}, which the run does. Give --prompts-from-run another."
        )
