import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from medsam_adapt.report.curves import Curve, draw_curve, nice_ticks, read_curves


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
