from types import SimpleNamespace

import pytest
from ignite.engine import Engine

from medsam_adapt.methods import SegmentationLoss
from medsam_adapt.training.balance import FADED, FadingBalance


def balances(steps, epochs, budget=None):
    """The balance of every step of a training."""
    loss, seen = SegmentationLoss(balance=0.5), []
    trainer = Engine(lambda engine, batch: seen.append(loss.balance))
    FadingBalance(loss, budget).attach(trainer)
    trainer.run([0] * steps, max_epochs=epochs)
    return seen


def test_falls_from_the_setting_to_zero_and_stays_there():
    seen = balances(steps=10, epochs=10)
    assert seen[0] == 0.5
    assert seen[35] == pytest.approx(0.25)
    assert seen == sorted(seen, reverse=True)
    assert seen[69] > 0
    assert set(seen[int(100 * FADED) :]) == {0.0}


def test_follows_the_time_of_a_budget():
    budget = SimpleNamespace(share=0.35)
    assert balances(steps=2, epochs=1, budget=budget) == pytest.approx([0.25, 0.25])
