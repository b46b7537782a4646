"""Time budgets, with clocks that the tests move."""

from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events
from monai.optimizers import WarmupCosineSchedule
from torch import nn
from torch.optim.lr_scheduler import PolynomialLR

from medsam_adapt.training.time_budget import (
    PARTS,
    StepTimes,
    TimeBudget,
    seconds_of_validation,
    seconds_of_volume,
)


class Clock:
    """Seconds that pass where a test adds them."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Validator:
    """Takes four seconds a volume."""

    def __init__(self, clock, volumes):
        self.clock, self.data_loader, self.network = clock, [{"image": 0}] * volumes, nn.Linear(1, 1)
        self.state = SimpleNamespace(device=torch.device("cpu"))
        self.seen = []

    def prepare_batch(self, batch, device):
        del device
        return batch["image"], None, (), {}

    def inferer(self, image, network):
        self.seen.append((image, network.training))
        self.clock.now += 4.0


def schedules():
    optimizers = [torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0) for _ in range(2)]
    warm = WarmupCosineSchedule(optimizers[0], warmup_steps=50, t_total=PARTS)
    return [warm, PolynomialLR(optimizers[1], total_iters=PARTS, power=1.0)]


def train(budget, clock, seconds_of_step, stop=None):
    """Rates of both schedules after every step, and how many epochs were begun."""
    rates = []

    def step(engine, batch):
        del batch
        if engine.state.iteration == stop:
            engine.terminate()
        for schedule in budget.schedules:
            schedule.optimizer.step()
        clock.now += seconds_of_step(engine.state.iteration)

    engine = Engine(step)
    budget.attach(engine)
    engine.add_event_handler(
        Events.ITERATION_COMPLETED, lambda _: rates.append([s.get_last_lr()[0] for s in budget.schedules])
    )
    state = engine.run([0] * 10, max_epochs=2)
    return rates, state.epoch


@pytest.mark.parametrize("seconds_of_step", [lambda _: 0.25, lambda n: 0.1 if n < 200 else 0.5, lambda n: 1.0 + n % 2])
def test_rates_reach_zero_when_the_time_is_over(seconds_of_step):
    clock = Clock()
    budget = TimeBudget(100.0, schedules(), clock=clock)
    clock.now += 9.0  # preparation
    rates, epochs = train(budget, clock, seconds_of_step)
    assert 95.0 <= clock.now - 1000.0 <= 102.0
    assert epochs == -(-len(rates) // 10)
    warm, polynomial = zip(*rates, strict=True)
    assert max(warm) > 0.9
    assert warm[-1] < 0.001
    assert polynomial[-1] < 0.02
    # The second schedule is a line: what is used is what has passed since the first step.
    assert polynomial == pytest.approx(sorted(polynomial, reverse=True))


def test_what_comes_before_the_trainer_counts():
    clock = Clock()
    budget = TimeBudget(100.0, schedules(), clock=clock)
    budget.started = 960.0
    train(budget, clock, lambda _: 0.5)
    assert 55.0 <= clock.now - 1000.0 <= 60.0


def test_the_validation_is_kept_free_and_changes_nothing():
    clock = Clock()
    validator = Validator(clock, volumes=5)
    budget = TimeBudget(100.0, schedules(), validator, clock)
    train(budget, clock, lambda _: 0.5)
    assert validator.seen == [(0, False)]
    assert validator.network.training
    assert 70.0 <= clock.now - 1000.0 <= 80.0  # five volumes of four seconds, and a fifth more, are left
    assert seconds_of_validation(Validator(clock, volumes=0), clock) == 0.0


class Judge(Validator):
    """Takes 0.1 seconds a slice, of volumes of 40 slices in each direction; reading one takes a second."""

    def __init__(self, clock, volumes, axes=("axial",)):
        super().__init__(clock, volumes)
        self.clean_up = SimpleNamespace(held_out=False, most=volumes)
        self.inferer = self.Inferer(self, axes)

    def prepare_batch(self, batch, device):
        self.clock.now += 1.0
        return torch.zeros(1, 1, 40, 40, 40), None, (), {}

    class Inferer:
        def __init__(self, judge, axes):
            self.judge, self.slicing = judge, SimpleNamespace(planes=[SimpleNamespace(axis=axis) for axis in axes])

        def __call__(self, image, network):
            self.judge.seen.append((tuple(image.shape[2:]), network.training))
            self.judge.clock.now += 0.1 * sum(
                image.shape[2 + "sca".index(plane.axis[0])] for plane in self.slicing.planes
            )


@pytest.mark.parametrize(
    ("axes", "seconds", "most"),
    [
        (("axial",), 1000.0, 5),
        (("axial",), 250.0, 4),
        (("axial", "coronal", "sagittal"), 500.0, 3),
        (("axial",), 50.0, 1),  # a single one may take a fifth
        (("axial",), 25.0, 0),
    ],
)
def test_training_volumes_judge_a_clean_up_for_a_tenth_of_the_time(axes, seconds, most):
    clock = Clock()
    judge = Judge(clock, 5, axes)
    budget = TimeBudget(seconds, schedules(), judge, clock)
    train(budget, clock, lambda _: 0.5)
    assert judge.clean_up.most == most
    assert judge.seen == [((16, 16, 16), False)] * 2  # the middle of one volume is timed
    left = seconds - (clock.now - 1000.0)
    volume = 1.0 + 4.0 * len(axes)
    assert most * volume <= left <= 1.2 * most * volume + 3.0  # and what is kept for the end of the process
    assert judge.network.training


def test_a_resumed_training_has_what_is_left():
    clock = Clock()
    first = TimeBudget(100.0, schedules(), clock=clock)
    rates, _ = train(first, clock, lambda _: 1.0, stop=60)
    state, rate = first.state_dict(), rates[-1][1]
    assert state == {"used": 60.0, "first": 0.0}
    clock.now += 5000.0  # until it is resumed
    begun = clock.now
    second = TimeBudget(100.0, first.schedules, clock=clock)
    second.load_state_dict(state)
    rates, _ = train(second, clock, lambda _: 1.0)
    assert 37.0 <= clock.now - begun <= 41.0
    assert rates[-1][1] < 0.03 < rate
    assert rates[0][1] == pytest.approx(rate, abs=0.03)


@pytest.mark.parametrize(("seconds", "epochs"), [(100, 10), (1000, 100), (1, 1), (0, 1)])
def test_a_budget_buys_epochs(seconds, epochs):
    assert StepTimes(step=0.1).epochs(seconds, steps_per_epoch=100) == epochs


def test_validation_and_frozen_work_count():
    assert StepTimes(step=0.1, validation=20, frozen=30).epochs(1000, 100) == 95


def test_a_volume_is_timed_by_slices_of_its_middle():
    """Its corners may be air, which the network skips."""
    volume = torch.zeros(1, 1, 40, 40, 40)
    volume[..., 15:25, 15:25, 15:25] = 1
    seen = []

    def inferer(image, network):
        seen.append(image)

    inferer.slicing = SimpleNamespace(planes=[SimpleNamespace(axis="axial")])
    validator = SimpleNamespace(
        data_loader=[volume],
        prepare_batch=lambda batch, device: (batch, None, (), {}),
        state=SimpleNamespace(device=None),
        network=nn.Identity(),
        inferer=inferer,
    )
    assert seconds_of_volume(validator, iter([0.0, 1.0, 5.0, 10.0, 14.0]).__next__) == pytest.approx(1 + 4 * 40 / 16)
    assert all(image.shape == (1, 1, 16, 16, 16) and image.sum() == 1000 for image in seen)
