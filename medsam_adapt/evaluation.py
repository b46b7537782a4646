"""Evaluation through MONAI's engine: volumes in, scores in native geometry, tables and pictures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from ignite.metrics import Metric
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.inferers import Inferer
from torch import nn

from medsam_adapt.data.cases import check_cases, find_cases
from medsam_adapt.data.intensity import IntensityPolicy
from medsam_adapt.data.training import TrainingData
from medsam_adapt.data.transforms import volume_transforms
from medsam_adapt.engine import prepare_volume
from medsam_adapt.errors import InputError
from medsam_adapt.inference import SlicewiseInferer
from medsam_adapt.metrics import Scores, score_volume, summarise, write_metrics
from medsam_adapt.pictures import CaseView, save_pictures

KEY_METRIC = "val_mean_dsc"
_KEYS = ("image", "label")


class VolumeScores(Metric):
    """DSC and IoU of every volume that an evaluator segments; its value is the mean DSC over classes.

    Attributes:
        cases: scores by case id.
        views: by case id, the slice with most of the reference, for pictures.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = list(class_names)
        super().__init__()

    def reset(self) -> None:
        self.cases: dict[str, Scores] = {}
        self.views: dict[str, CaseView] = {}

    def iteration_completed(self, engine: Any) -> None:
        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):
            prediction, reference, image = (np.asarray(output[key])[0] for key in ("pred", "label", "image"))
            self.update((batch["id"], prediction, reference))
            spacing = output["image"].pixdim.tolist()
            self.views[batch["id"]] = CaseView.of(image, prediction, reference, spacing)

    def update(self, output: tuple[str, np.ndarray, np.ndarray]) -> None:
        case_id, prediction, reference = output
        self.cases[case_id] = score_volume(prediction, reference, self.class_names)

    def compute(self) -> float:
        dsc = self.summary()["mean"]["dsc"]
        return float("nan") if dsc is None else dsc

    def summary(self) -> dict[str, Any]:
        """The content of ``metrics.json``."""
        return summarise(self.cases, self.class_names)


class WriteReport:
    """Handler of an evaluator from :func:`volume_evaluator`: ``metrics.csv``, ``metrics.json``, ``pictures/``.

    Args:
        folder: where they are written when all volumes are scored.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def attach(self, engine: Any) -> None:
        """Register with the evaluator."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        scores: VolumeScores = engine.scores
        write_metrics(self.folder, scores.cases, scores.summary())
        save_pictures(self.folder / "pictures", scores.cases, scores.views, scores.class_names)


def volume_evaluator(
    dataset: Dataset,
    network: nn.Module,
    inferer: Inferer,
    class_names: Sequence[str],
    device: torch.device,
    handlers: Sequence[Any] = (),
) -> SupervisedEvaluator:
    """MONAI's evaluator over whole volumes; its key metric is the mean DSC, and ``scores`` holds them all.

    Args:
        dataset: {id, image, label} through :func:`volume_transforms`.
        network: the segmenter.
        inferer: a :class:`SlicewiseInferer` that gives labels.
        class_names: of the classes, from 1.
        device: where the network runs.
        handlers: attached to the evaluator.
    """
    scores = VolumeScores(class_names)
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


def validation_set(data: TrainingData) -> Dataset:
    """The held-out volumes of a training run."""
    return Dataset(data.volumes(), volume_transforms(data.policy, data.label_ids, _KEYS))


def inferer_for(data: TrainingData) -> SlicewiseInferer:
    """How a training run segments its held-out volumes."""
    absent = [data.class_names.index(name) + 1 for name in data.absent]
    return SlicewiseInferer(data.axis, data.channels, data.prompt, len(data.class_names), absent)


def labelled_volumes(
    root: str | Path,
    layout: str,
    cases: Sequence[str] | None,
    policy: IntensityPolicy | Mapping[str, Any],
    label_ids: Sequence[int],
) -> Dataset:
    """Labelled volumes to score.

    Args:
        root: the data set's folder.
        layout: its layout, or ``auto``.
        cases: ids of the cases wanted; all when None.
        policy: the run's intensity policy.
        label_ids: the ids in the label files of classes 1, 2, ….

    Raises:
        InputError: a case that is not there, or whatever the layout refuses.
    """
    case_list = find_cases(root, layout)
    found = {case.id: case for case in case_list.cases}
    missing = sorted(set(cases or ()) - set(found))
    if missing:
        raise InputError(f"{root} has no case '{missing[0]}': give the folder that the run was trained on, or --data.")
    wanted = tuple(case for case in found.values() if cases is None or case.id in cases)
    check_cases(replace(case_list, cases=wanted))
    volumes = [{"id": case.id, "image": str(case.image), "label": str(case.label)} for case in wanted]
    return Dataset(volumes, volume_transforms(policy, list(label_ids), _KEYS))
