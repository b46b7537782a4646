"""Which clean-up each class gets: what its training labels suggest, tried on the predictions of a validation.

A class that is one piece in every training label hardly has another piece beside the largest; of other classes, the
smallest piece in a label shows how small a piece may be. From `ENOUGH` held-out patients on, the step with the highest
mean DSC is taken if that is above the DSC without a step. Fewer of them, or training patients where nobody is held out,
are too little to choose by: there the labels' suggestion is taken unless it lowers the mean DSC, and of a class that is
one piece in the labels the largest piece alone where that raises it further.

A lesion may be alone in one patient, and one of many in the next: a class with such a name keeps its pieces unless it
is one piece in the labels of enough patients (`may_be_several`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from ignite.engine import Events

from medsam_adapt.core.distributed import merge
from medsam_adapt.data.slices.clean_up import ClassCleanUp, Step
from medsam_adapt.data.slices.findings import may_be_several
from medsam_adapt.data.slices.geometry import resized_sides
from medsam_adapt.data.slices.training_data import TrainingData
from medsam_adapt.data.volumes.cleaning import bounding_boxes, diagonal, largest_box, piece_sizes, voxel_ml
from medsam_adapt.data.volumes.label_coding import IGNORED

ENOUGH = 5  # held-out patients whose DSC chooses; fewer can only reject
FRAGMENT = 0.25  # of the largest piece
FARTHEST = 1.2  # times the longest diagonal in the training labels of a class that is one piece there
_ONE_PIECE = 0.98  # share of a class's voxels that its largest piece has where the class is one piece
TRAINING_VOLUMES = 5  # that are segmented where nobody is held out
_LABELS = 30  # of the training cases, which are looked at
Scores = dict[str, dict[Step, float]]  # class -> step -> DSC in one volume


class CleanUpChoice:
    """Handler of an evaluator that tries clean-up steps on the predictions of every pass, and chooses by the last one.

    Args:
        data: the training data, whose labels suggest the steps.
        held_out: whether the evaluator's volumes are held out of the training.

    Attributes:
        most: volumes after which a pass over training volumes ends.
    """

    def __init__(self, data: TrainingData, held_out: bool) -> None:
        self.data, self.held_out, self.most = data, held_out, TRAINING_VOLUMES
        self._suggested: list[list[ClassCleanUp]] | None = None
        self._scores: dict[str, Scores] = {}

    def attach(self, evaluator: Any) -> None:
        """Register with the evaluator."""
        evaluator.add_event_handler(Events.STARTED, lambda _: self._scores.clear())
        evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._try)
        evaluator.add_event_handler(Events.COMPLETED, self._gather)

    def choices(self) -> list[ClassCleanUp]:
        """What is chosen for each class that has a step to try."""
        return [
            choose(steps, [scores[steps[0].name] for scores in self._scores.values() if steps[0].name in scores])
            for steps in self.suggested
        ]

    def first_choices(self) -> list[ClassCleanUp]:
        """What the labels suggest for each class, before anything was tried."""
        return [steps[0] for steps in self.suggested]

    @property
    def suggested(self) -> list[list[ClassCleanUp]]:
        """The steps to try on each class, the labels' suggestion first; found when they are first needed."""
        if self._suggested is None:
            self._suggested = suggestions(self.data, self.held_out)
        return self._suggested

    def scores_of(self, case: Mapping[str, Any], prediction: Any) -> Scores:
        """The DSC of one volume without and with each step, by class.

        Args:
            case: image and label (1, X, Y, Z), and which classes nobody annotated.
            prediction: classes (1, X, Y, Z).
        """
        unannotated = {self.data.class_names[int(number) - 1] for number in str(case.get("unannotated", "")).split()}
        steps = [each for each in self.suggested if each[0].name not in unannotated]
        sides = [float(side) for side in case["image"].pixdim]
        return score_steps(np.asarray(prediction[0]), np.asarray(case["label"][0]), self.data.class_names, steps, sides)

    def _try(self, evaluator: Any) -> None:
        for case, output in zip(evaluator.state.batch, evaluator.state.output, strict=True):
            self._scores[case["id"]] = self.scores_of(case, output["pred"])
        if not self.held_out and len(self._scores) >= self.most:
            evaluator.terminate()

    def _gather(self, evaluator: Any) -> None:
        del evaluator
        self._scores = merge(self._scores)  # of all processes that train together


def suggestions(data: TrainingData, held_out: bool) -> list[list[ClassCleanUp]]:
    """The steps to try on each class that has one, by the training labels; the first of a class is their suggestion.

    Where nobody is held out, holes are not filled.
    """
    numbers = [*range(1, len(data.class_names) + 1)]
    one_piece, smallest = dict.fromkeys(numbers, True), dict.fromkeys(numbers, np.inf)
    patients, longest = dict.fromkeys(numbers, 0), dict.fromkeys(numbers, 0.0)
    for _, (case_id, case) in zip(range(_LABELS), data.store().items(), strict=False):
        labels = np.stack([case.labels[index] for index in range(len(case.voxels))])
        header = data.check.headers[case_id]
        volumes = case.voxels.sum(axis=0) * voxel_ml(header.affine)
        sides = resized_sides(header.shape, header.affine, data.axis, labels.shape)
        for number, box in bounding_boxes(labels, numbers).items():
            patients[number] += 1
            mask = labels[box] == number
            sizes = piece_sizes(mask)
            one_piece[number] &= bool(sizes[0] >= _ONE_PIECE * sizes.sum())
            if one_piece[number]:
                around = box if len(sizes) == 1 else largest_box(mask)  # a stray voxel of a label does not count
                longest[number] = max(longest[number], diagonal(around, sides))
            smallest[number] = min(smallest[number], float(volumes[number] * sizes[-1] / sizes.sum()))
    found = []
    for number, name in zip(numbers, data.class_names, strict=True):
        step = partial(ClassCleanUp, name=name, held_out=held_out)
        if one_piece[number] and may_be_several(name, patients[number]):
            continue
        if one_piece[number] and patients[number]:
            near = step(step="fragments", min_share=FRAGMENT, longest_mm=round(FARTHEST * longest[number], 1))
            found.append([near, step(step="largest"), step(step="holes")])
        elif patients[number]:
            found.append([step(step="small", min_volume_ml=round(smallest[number] / 2, 4)), step(step="holes")])
    return found if held_out else [[each for each in steps if each.step != "holes"] for steps in found]


def score_steps(
    prediction: np.ndarray,
    reference: np.ndarray,
    names: Sequence[str],
    steps: Sequence[Sequence[ClassCleanUp]],
    sides: Sequence[float],
) -> Scores:
    """The DSC of each class without and with each of its steps; none of a class that is in neither map.

    A class that a step removes where the reference does not have it either has 1.

    Args:
        prediction: classes (X, Y, Z).
        reference: classes (X, Y, Z), `IGNORED` where nobody labelled.
        names: of the classes, from 1.
        steps: to try, of each class.
        sides: of a voxel, mm.
    """
    scores: Scores = {}
    boxes = bounding_boxes(prediction, [*range(1, len(names) + 1)])
    for of_class in steps:
        number = names.index(of_class[0].name) + 1
        size = int(np.count_nonzero(reference == number))
        if (box := boxes.get(number)) is None:
            if size:
                scores[of_class[0].name] = dict.fromkeys(["none", *(each.step for each in of_class)], 0.0)
            continue
        mask, free = prediction[box] == number, prediction[box] == 0
        known, truth = reference[box] != IGNORED, reference[box] == number
        masks = {"none": mask, **{each.step: each.cleaning.of_class(mask, free, sides) for each in of_class}}
        scores[of_class[0].name] = {step: _dsc(each & known, truth, size) for step, each in masks.items()}
    return scores


def choose(steps: Sequence[ClassCleanUp], scores: Sequence[Mapping[Step, float]]) -> ClassCleanUp:
    """The step for one class, with the evidence; the step ``none`` where no other is worth it.

    Args:
        steps: those tried, the labels' suggestion first.
        scores: the DSC of each volume with each step.
    """
    tried: list[Step] = ["none", *(each.step for each in steps)]
    means = {step: round(float(np.mean([each[step] for each in scores])), 4) for step in tried} if scores else {}
    first = steps[0]
    if first.held_out and len(scores) >= ENOUGH:
        best = max(steps, key=lambda each: means[each.step])
        taken = means[best.step] > means["none"]
    else:
        more = [each for each in steps if each.step == "largest" and scores and means["largest"] > means[first.step]]
        best = (more or [first])[0]
        taken = not scores or means[best.step] >= means["none"]
    chosen = best if taken else ClassCleanUp(name=first.name, held_out=first.held_out)
    return chosen.model_copy(update={"dsc": means, "patients": len(scores)})


def _dsc(mask: np.ndarray, truth: np.ndarray, size: int) -> float:
    """Of a mask and the part of the reference that is in its box; ``size`` are the reference's voxels anywhere."""
    both = int(np.count_nonzero(mask)) + size
    return 2 * int(np.count_nonzero(mask & truth)) / both if both else 1.0
