"""What an evaluation writes: scores, pictures, and the cases that ``medsam-adapt report`` shows."""

from __future__ import annotations

import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Events

from medsam_adapt.core.literals import as_typed
from medsam_adapt.evaluation.evaluator import VolumeScores, comparable, without_classes
from medsam_adapt.evaluation.packing import Volumes, pack
from medsam_adapt.evaluation.pictures import CaseView, mean_dsc, save_pictures
from medsam_adapt.evaluation.shown_cases import PackedCase, ShownCases, choose_cases, write_shown_cases
from medsam_adapt.scoring.metrics import MetricRules
from medsam_adapt.scoring.summary import write_metrics


class WriteScores:
    """Handler of an evaluator: ``metrics.csv``, ``metrics.json``, ``pictures/`` and ``shown_cases.json``.

    Which cases are shown is known when all are scored. Until then the masks are kept on disk, compressed; the volumes
    of the few cases shown are read again.

    Args:
        folder: where they are written when all volumes are scored.
        rules: which metrics are computed; all of them by default.
    """

    def __init__(self, folder: str | Path, rules: MetricRules | None = None) -> None:
        self.folder, self.rules = Path(as_typed(folder, "output_dir")), rules or MetricRules()

    def attach(self, engine: Any) -> None:
        """Register with the evaluator."""
        engine.scores.rules = self.rules
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._keep)
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        scores: VolumeScores = engine.scores
        write_metrics(self.folder, scores.summary())
        means = mean_dsc(scores.cases)
        packed: dict[str, PackedCase] = {}
        views: dict[str, CaseView] = {}
        for role, case in choose_cases(means).items():
            volumes = self._read_again(engine, case)
            first = volumes.image[0] if volumes.images else volumes.image
            views[case] = CaseView.of(first, volumes.prediction, volumes.reference, volumes.spacing)
            packed[role] = pack(volumes, engine.inferer.slicing.axis, len(scores.class_names))
        save_pictures(self.folder / "pictures", scores.cases, views, scores.class_names)
        write_shown_cases(
            self.folder, ShownCases(cases=packed, mean_dsc={case.case: means[case.case] for case in packed.values()})
        )
        self._masks.cleanup()

    def _start(self, engine: Any) -> None:
        self._masks = tempfile.TemporaryDirectory(prefix="medsam-adapt-")
        self._at = {entry["id"]: index for index, entry in enumerate(engine.data_loader.dataset.data)}

    def _keep(self, engine: Any) -> None:
        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):
            mask = np.asarray(output["pred"]).astype(np.min_scalar_type(len(engine.scores.class_names)))
            content = zlib.compress(mask.tobytes(), level=1)
            self._file(batch["id"]).write_bytes(content)

    def _file(self, case: str) -> Path:
        return Path(self._masks.name) / str(self._at[case])

    def _read_again(self, engine: Any, case: str) -> Volumes:
        """A case that was scored, with the mask that was kept of it."""
        item = engine.data_loader.dataset[self._at[case]]
        image, label = np.asarray(item["image"]), np.asarray(item["label"])
        classes = engine.scores.class_names
        mask = np.frombuffer(zlib.decompress(self._file(case).read_bytes()), np.min_scalar_type(len(classes)))
        prediction, reference = comparable(mask.reshape(-1, *label.shape[-3:]), label, item.get("table"))
        hidden = [int(number) for number in str(item.get("unannotated", "")).split()]
        prediction, reference = (without_classes(each, hidden) for each in (prediction, reference))
        spacing = tuple(float(side) for side in item["image"].pixdim)
        names = tuple(engine.inferer.slicing.images)
        shown = image[: len(names)] if names else image if len(image) > 1 else image[0]  # of two, without their mean
        return Volumes(case, shown, prediction, reference, spacing, names)
