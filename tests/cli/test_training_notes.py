"""What a training prints to a terminal, and to a file."""

import io
import re
from contextlib import contextmanager

import pytest
from ignite.engine import Engine
from rich.console import Console

from medsam_adapt.cli import console
from medsam_adapt.cli.reporter import TERMINAL
from medsam_adapt.workflows.training_notes import Display

LOSSES = [[3.0, 1.0], [0.5, 0.25], [0.125, 0.0625]]


@contextmanager
def trained(monkeypatch, is_terminal):
    """The text of a training of three epochs of two steps, and a validation after the second and third."""
    file = io.StringIO()
    monkeypatch.setattr(console, "console", Console(file=file, force_terminal=is_terminal, width=80, soft_wrap=True))
    trainer = Engine(lambda engine, loss: [{"loss": loss}])
    trainer.data_loader = LOSSES[0]
    with TERMINAL.progress("training", 6) as progress:
        Display(progress, len(LOSSES)).attach(trainer, None)
        for epoch, losses in enumerate(LOSSES, start=1):
            trainer.run(losses, max_epochs=epoch)
    yield file.getvalue()


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_log_has_a_line_per_epoch_with_its_mean_loss(monkeypatch, is_terminal):
    with trained(monkeypatch, is_terminal) as text:
        found = re.findall(r"^epoch (\d) of 3: loss ([\d.]+), 2 steps in [\d.]+ s$", text, re.MULTILINE)
        expected = [(str(at), f"{sum(losses) / 2:.4f}") for at, losses in enumerate(LOSSES, start=1)]
        assert found == ([] if is_terminal else expected)
