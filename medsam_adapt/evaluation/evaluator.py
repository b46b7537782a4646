"""Evaluation through MONAI's engine: volumes in, scores in native geometry, tables and pictures out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.metrics import Metric
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from torch import nn

from medsam_adapt.core.distributed import merge, shard
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.literals import as_typed
from medsam_adapt.data.datasets.case_checks import check_cases
from medsam_adapt.data.datasets.cases import find_cases, images_in_order
from medsam_adapt.data.slices.slicing_spec import SlicingSpec
from medsam_adapt.data.slices.training_data import TrainingData
from medsam_adapt.data.slices.volume_transforms import volume_transforms
from medsam_adapt.data.volumes.image_set import refuse_other_images
from medsam_adapt.data.volumes.label_coding import IGNORED
from medsam_adapt.evaluation.clean_up_choice import TRAINING_VOLUMES, CleanUpChoice
from medsam_adapt.inference.inferer import SlicewiseInferer
from medsam_adapt.scoring.metrics import QUICK, MetricRules, Scores, background_iou, score_volume
from medsam_adapt.scoring.summary import CaseFacts, mean_scores, summarise
from medsam_adapt.training.setup import prepare_volume

KEY_METRIC = "val_mean_dsc"
_KEYS = ("image", "label")


class VolumeScores(Metric):
    """The scores of every volume that an evaluator segments; its value is the mean DSC over classes.

    Of a volume nothing else is kept, so that thousands can be scored.

    Args:
        class_names: of the classes, from 1.
        absent: those among them that training never saw.
        rules: which metrics; DSC and IoU alone unless something else is wanted.

    Attributes:
        cases: scores by case id.
        facts: spacing, shape and background by case id.
        notes: what a reader of the scores must know.
    """

    def __init__(self, class_names: Sequence[str], absent: Sequence[str] = (), rules: MetricRules = QUICK) -> None:
        self.class_names, self.absent, self.rules = list(class_names), list(absent), rules
        self.notes: list[str] = []
        super().__init__()

    def reset(self) -> None:
        self.cases: dict[str, Scores] = {}
        self.facts: dict[str, CaseFacts] = {}

    def iteration_completed(self, engine: Any) -> None:
        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):
            prediction, reference = comparable(output["pred"], output["label"], batch.get("table"))
            spacing = tuple(float(side) for side in output["image"].pixdim)
            unannotated = [int(number) for number in str(batch.get("unannotated", "")).split()]
            prediction, reference = (without_classes(each, unannotated) for each in (prediction, reference))
            self.update((batch["id"], prediction, reference, spacing), [self.class_names[n - 1] for n in unannotated])

    def update(
        self, output: tuple[str, np.ndarray, np.ndarray, tuple[float, ...]], unannotated: Sequence[str] = ()
    ) -> None:
        case_id, prediction, reference, spacing = output
        undefined = [*self.absent, *unannotated]
        self.cases[case_id] = score_volume(prediction, reference, self.class_names, spacing, self.rules, undefined)
        self.facts[case_id] = CaseFacts(spacing, reference.shape[-3:], background_iou(prediction, reference))

    def compute(self) -> float:
        cases = merge(self.cases)  # of all processes that train together
        return mean_scores(cases, self.class_names, ["dsc"])["dsc"] if cases else math.nan

    def summary(self) -> dict[str, Any]:
        """The content of ``metrics.json``."""
        return summarise(self.cases, self.class_names, self.rules, self.facts, self.absent, self.notes)


def volume_evaluator(
    dataset: Dataset,
    network: nn.Module,
    inferer: SlicewiseInferer,
    device: torch.device,
    handlers: Sequence[Any] = (),
) -> SupervisedEvaluator:
    """MONAI's evaluator over whole volumes; its key metric is the mean DSC, and ``scores`` holds them all.

    Args:
        dataset: {id, image, label} through :func:`volume_transforms`.
        network: the segmenter.
        inferer: a :class:`SlicewiseInferer` that gives labels.
        device: where the network runs.
        handlers: attached to the evaluator.
    """
    scores = VolumeScores(inferer.slicing.class_names, inferer.slicing.absent)
    evaluator: Any = SupervisedEvaluator(  # Any: it gets an attribute
        device=device,
        val_data_loader=DataLoader(dataset, batch_size=1),
        network=network,
        inferer=inferer,
        prepare_batch=prepare_volume,
        key_val_metric={KEY_METRIC: scores},
    )
    evaluator.scores = scores
    for handler in handlers:  # after the metric, so that it is complete when they look
        handler.attach(evaluator)
    return evaluator


def validation_set(data: TrainingData, training: int = 0) -> Dataset:
    """The held-out volumes of a training run, or this process's part of them.

    Without held-out volumes it has the first ``training`` volumes of the training itself.
    """
    volumes = data.volumes() or [case.entry() for case in data.cases.cases if case.id in {*data.split.train}][:training]
    return Dataset(shard(volumes), volume_transforms(data.policy, data.label_ids, _KEYS, data.cases.coding))


def validator_of(
    data: TrainingData, network: nn.Module, device: torch.device, clean_up: bool = False
) -> SupervisedEvaluator:
    """MONAI's evaluator over the held-out volumes of a training run.

    With ``clean_up`` its attribute of this name chooses a clean-up by its predictions (`CleanUpChoice`), and where no
    volume is held out, it has a few training volumes. It is None without ``clean_up``, where structures are prompted
    one by one, and where classes may overlap.
    """
    chooses = clean_up and data.prompt == "none" and not data.overlapping
    volumes = validation_set(data, TRAINING_VOLUMES if chooses else 0)
    evaluator: Any = volume_evaluator(volumes, network, SlicewiseInferer(data.slicing), device)
    evaluator.clean_up = CleanUpChoice(data, bool(data.split.held_out)) if chooses else None
    if chooses:
        evaluator.clean_up.attach(evaluator)
    return evaluator


def labelled_volumes(
    root: str | Path,
    layout: str,
    cases: Sequence[str] | None,
    slicing: SlicingSpec,
) -> Dataset:
    """Labelled volumes to score.

    Args:
        root: the data set's folder.
        layout: its layout, or ``auto``.
        cases: ids of the cases wanted; all when None.
        slicing: of the run; its label ids are those in this data set.

    Raises:
        InputError: a case that is not there, other images of a case than the run takes, or whatever the layout
            refuses.
    """
    root = as_typed(root, "dataset_dir")
    case_list = images_in_order(find_cases(root, layout), slicing.images)
    refuse_other_images(case_list.images, slicing.images, root, "the run")
    found = {case.id: case for case in case_list.cases}
    missing = sorted(set(cases or ()) - set(found))
    if missing:
        raise InputError(
            f"{root}: it has no case '{missing[0]}'. Give the folder that the run was trained on, or --data."
        )
    wanted = tuple(case for case in found.values() if cases is None or case.id in cases)
    check_cases(replace(case_list, cases=wanted))
    volumes = [case.entry() for case in wanted]
    return Dataset(volumes, volume_transforms(slicing.policy, slicing.label_ids, _KEYS, case_list.coding))


def without_classes(labels: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
    """Classes (X, Y, Z), or masks (C, X, Y, Z), in which nothing is of the classes with these numbers (from 1)."""
    if not numbers:
        return labels
    if labels.ndim == 4:
        kept = ~np.isin(np.arange(1, len(labels) + 1), numbers)
        return labels * kept[:, None, None, None]
    return np.where(np.isin(labels, numbers), 0, labels)


def comparable(prediction: Any, reference: Any, table: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and reference without what nobody labelled, each as classes (X, Y, Z) or masks (C, X, Y, Z).

    Args:
        prediction: classes (1, X, Y, Z), or masks (C, X, Y, Z) of classes that may overlap.
        reference: classes (1, X, Y, Z), or parts.
        table: (P, C) of the parts.
    """
    predicted, labels = np.asarray(prediction), np.asarray(reference)
    if table is None:
        known = labels != IGNORED
        truth = labels
    else:
        rows = np.asarray(table)
        known = ~(rows == IGNORED).any(axis=1)[labels]
        truth = np.stack([rows[:, index][labels[0]] for index in range(rows.shape[1])])
    if not known.all():
        predicted, truth = predicted * known, truth * known
    return predicted[0] if len(predicted) == 1 else predicted, truth[0] if len(truth) == 1 else truth
