import numpy as np
import pytest
from ignite.engine import Engine, Events
from torch.utils.tensorboard import SummaryWriter

from medsam_adapt.report.curves import Curve, draw_curve, nice_ticks, read_curves
from medsam_adapt.training.run_handler import log_validations


def test_the_later_of_two_values_of_a_step_counts_and_what_is_not_finite_does_not(tmp_path):
    for values in ({1: 3.0, 2: 2.0, 3: 9.0}, {3: 1.0, 4: float("nan")}):
        with SummaryWriter(str(tmp_path)) as writer:
            for step, value in values.items():
                writer.add_scalar("loss", value, step)
    (curve,) = read_curves(tmp_path)
    assert (curve.name, curve.steps.tolist(), curve.values.tolist()) == ("loss", [1, 2, 3], [3, 2, 1])


def test_no_events_are_no_curves(tmp_path):
    assert read_curves(tmp_path) == []
    assert read_curves(tmp_path / "logs") == []


def test_a_long_curve_is_drawn_as_means_and_tells_its_true_extremes():
    values = np.ones(1000)
    values[500] = 7
    drawn = draw_curve(Curve("<loss>", np.arange(1000.0), values))
    assert drawn.count(",") < 400
    assert "&lt;loss&gt; over 1,000 logged steps: first 1, lowest 1, highest 7, last 1." in drawn
    assert "the mean of 4 steps" in drawn


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.2, 0.3), (-5, 123), (2, 2), (0, 0), (1e-7, 3e-7)])
def test_ticks_span_the_values_in_few_steps(low, high):
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 2 <= len(ticks) <= 7


def test_a_constant_curve_of_one_step_is_drawn():
    drawn = draw_curve(Curve("loss", np.array([1.0]), np.array([0.5])))
    assert "nan" not in drawn.lower()
    assert "loss over 1 logged step: first 0.5" in drawn
    assert drawn.count("<circle") == 1


def test_the_validations_of_a_training_are_a_curve_by_its_steps(tmp_path):
    trainer, validator = Engine(lambda engine, batch: None), Engine(lambda engine, batch: None)
    log_validations(validator, trainer, tmp_path)
    validator.add_event_handler(Events.STARTED, lambda engine: engine.state.metrics.update(val_mean_dsc=0.25))
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: validator.run([0]))
    trainer.run([0, 1, 2], max_epochs=2)
    (curve,) = read_curves(tmp_path)
    assert (curve.name, curve.steps.tolist(), curve.values.tolist()) == ("val_mean_dsc", [3, 6], [0.25, 0.25])
    assert "mean DSC of the held-out cases over 2 logged steps: first 0.25" in draw_curve(curve)
