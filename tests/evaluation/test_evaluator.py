import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ignite.engine import Engine

from medsam_adapt.evaluation.evaluator import VolumeScores
from medsam_adapt.evaluation.write_scores import WriteScores
from medsam_adapt.runs.cost import TrainingCost
from medsam_adapt.scoring.metrics import ALL, QUICK, MetricRules
from medsam_adapt.training.setup import prepare_volume

NAMES = ["liver", "spleen"]
SPACING = (1.0, 2.0, 5.0)


def volumes():
    reference = np.zeros((8, 8, 8), np.uint8)
    reference[1:6, 1:6, 1:6], reference[6:, 6:, 6:] = 1, 2
    return np.roll(reference, 1, axis=2), reference


def test_a_validation_scores_the_overlap_alone():
    scores = VolumeScores(NAMES)
    assert math.isnan(scores.compute())
    scores.update(("a", *volumes(), SPACING))
    assert scores.rules is QUICK
    assert set(scores.cases["a"]["liver"]) == {"dsc", "iou", "reference_ml", "prediction_ml"}
    assert scores.compute() == pytest.approx((0.8 + 0.5) / 2)
    assert scores.summary()["cases"]["a"]["spacing_mm"] == list(SPACING)


def test_volumes_stay_where_they_are_whatever_the_device():
    image, label = torch.rand(1, 1, 4, 4, 4), torch.ones(1, 1, 4, 4, 4)
    found, truth, _, given = prepare_volume({"image": image, "label": label}, torch.device("meta"))
    assert found is image  # what is on a GPU, numpy could not score
    assert truth is given["reference"] is label


def test_a_class_that_training_never_saw_counts_for_nothing():
    scores = VolumeScores(NAMES, absent=["spleen"])
    scores.update(("a", *volumes(), SPACING))
    assert scores.compute() == pytest.approx(0.8)
    assert scores.summary()["classes"]["spleen"]["undefined"] == 1
    assert scores.summary()["absent"] == ["spleen"]


def test_a_report_asks_for_all_metrics_in_mm(tmp_path, monkeypatch):
    monkeypatch.setattr("medsam_adapt.evaluation.write_scores.save_pictures", lambda *arguments: [])
    monkeypatch.setattr("medsam_adapt.evaluation.write_scores.choose_cases", lambda means: {})
    engine = Engine(lambda engine, batch: None)
    engine.data_loader = SimpleNamespace(dataset=SimpleNamespace(data=[]))
    engine.scores = scores = VolumeScores(NAMES)
    report = WriteScores(tmp_path)
    report.attach(engine)
    report._start(engine)
    assert scores.rules == MetricRules()
    scores.update(("a", *volumes(), SPACING))
    scores.notes.append("reported")
    report(engine)
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert set(ALL) <= set(content["classes"]["liver"])
    assert content["classes"]["liver"]["hd95"] == 5  # one slice further
    assert content["classes"]["liver"]["nsd"] < 1
    assert content["notes"] == ["reported"]


def train(folder, epochs, before=None):
    """A training of nothing whose epochs take no time; the cost that it wrote."""
    trainer = Engine(lambda engine, batch: None)
    trainer.state.device = torch.device("cpu")
    cost = TrainingCost(folder)
    cost.before = before or {}
    cost.attach(trainer)
    trainer.run([0, 1], max_epochs=epochs)
    return json.loads((folder / "training.json").read_text())


def test_the_cost_of_a_training_is_kept(tmp_path, monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr("medsam_adapt.runs.cost.time", SimpleNamespace(monotonic=lambda: next(clock)))
    cost = train(tmp_path, 2)
    assert (cost["seconds"], cost["epochs"], cost["finished"], cost["device"]) == (30, 2, True, "cpu")
    assert cost["peak_memory_bytes"] > 1 << 20
    assert train(tmp_path, 1, before=cost)["seconds"] == 30 + 20
    assert train(tmp_path, 1)["seconds"] == 20
