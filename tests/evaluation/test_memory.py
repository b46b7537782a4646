"""What an evaluation keeps in memory of each case: its scores, and nothing of the size of a slice."""

import gc
import tracemalloc
import weakref
from types import SimpleNamespace

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor

from medsam_adapt.data.slices.intensity import IntensityPolicy
from medsam_adapt.data.slices.slicing_spec import SlicingSpec
from medsam_adapt.evaluation.evaluator import VolumeScores
from medsam_adapt.evaluation.shown_cases import read_shown_cases
from medsam_adapt.evaluation.write_scores import WriteScores
from medsam_adapt.scoring import summary
from medsam_adapt.scoring.metrics import QUICK

CASES = 8
SIDE = 96
SPEC = SlicingSpec(
    class_names=["liver", "spleen"], label_ids=[1, 2], policy=IntensityPolicy(kind="window", low=-160, high=240)
)


class Volumes:
    """A data set that makes its volumes when they are asked for, and knows which of their tensors are still there."""

    def __init__(self):
        self.data = [{"id": f"case_{number}"} for number in range(CASES)]
        self.alive, self.read = weakref.WeakSet(), []

    def __getitem__(self, index):
        self.read.append(index)
        label = np.zeros((1, SIDE, SIDE, 6), np.uint8)
        label[0, 10:50, 10:50, 1:4], label[0, 50:70, 50:70, 4] = 1, 2
        tensors = [MetaTensor(torch.rand(label.shape)), torch.from_numpy(label)]
        self.alive.update(tensors)
        return {"id": f"case_{index}", "image": tensors[0], "label": tensors[1]}


def test_no_voxels_of_a_case_that_was_scored_stay_in_memory(tmp_path):
    volumes, tensors, held = Volumes(), [], []

    def score(engine, index):
        item = volumes[index]
        engine.state.batch = [item]
        return [{**item, "pred": torch.roll(item["label"], index % 4, dims=1)}]

    def count(engine):
        engine.state.batch = engine.state.output = None
        gc.collect()
        tensors.append(len(volumes.alive))
        held.append(tracemalloc.get_traced_memory()[0])
        if len(held) == CASES:
            tracemalloc.stop()  # it slows down what follows, which is not measured

    engine = Engine(score)
    engine.scores = scores = VolumeScores(SPEC.class_names)
    engine.inferer = SimpleNamespace(slicing=SPEC)
    engine.data_loader = SimpleNamespace(dataset=volumes)
    engine.add_event_handler(Events.ITERATION_COMPLETED, scores.iteration_completed)
    WriteScores(tmp_path, QUICK).attach(engine)
    engine.add_event_handler(Events.ITERATION_COMPLETED, count)
    tracemalloc.start()
    try:
        engine.run(range(CASES), max_epochs=1)
    finally:
        tracemalloc.stop()
    assert tensors == [0] * CASES
    assert np.median(np.diff(held)) < SIDE * SIDE / 2  # bytes of a case; what is imported on the way is in few of them
    assert len(scores.cases) == CASES
    shown = read_shown_cases(tmp_path).cases
    assert [int(case.case[5:]) for case in shown.values()] == volumes.read[CASES:]  # read again, and no other
    assert sorted(path.stem for path in (tmp_path / "pictures").iterdir()) == ["best", "median", "worst"]


def test_resamples_are_drawn_a_few_at_a_time(monkeypatch):
    chance = np.random.default_rng(0)
    values = chance.random((30, 2, 3))
    values[chance.random(values.shape) < 0.1] = np.nan
    (whole,) = summary._resampled_means([values], seed=4)
    monkeypatch.setattr(summary, "_WEIGHTS", 7 * len(values))
    assert {len(rows) for rows in summary._resamples(len(values), seed=4)} == {7, summary.RESAMPLES % 7}
    np.testing.assert_allclose(summary._resampled_means([values], seed=4)[0], whole, rtol=1e-13)
