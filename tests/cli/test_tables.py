"""Tables of the commands, on narrow terminals."""

import io
import re

import numpy as np
import pytest
from rich.console import Console

from medsam_adapt.cli import console as ours
from medsam_adapt.cli import evaluate
from medsam_adapt.cli.compare import _print
from medsam_adapt.comparison.run import compare_runs
from medsam_adapt.data.datasets.layouts import segrap
from medsam_adapt.scoring.metrics import MetricRules
from medsam_adapt.scoring.summary import summarise
from tests.comparison.test_comparison import run_of

NAMES = [*segrap.PARTS, "portal vein and splenic vein"]


@pytest.fixture
def printed(monkeypatch):
    """What is printed on a terminal of so many columns."""

    def on(width, function, *arguments):
        console = Console(file=io.StringIO(), width=width, highlight=False, soft_wrap=True)
        for module in (ours, evaluate):
            monkeypatch.setattr(module, "console", console, raising=False)
        monkeypatch.setattr("medsam_adapt.cli.compare.console", console)
        function(*arguments)
        return console.file.getvalue()

    return on


@pytest.mark.parametrize("width", [200, 80, 40])
def test_every_class_keeps_its_name_and_its_numbers(printed, width):
    score = {"dsc": 0.9124, "iou": 0.8388, "hd95": 123.45, "nsd": 0.9871, "volume_difference_ml": -1234.5,
             "volume_difference_relative": -0.1, "reference_ml": 1.0, "prediction_ml": 1.0}  # fmt: skip
    summary = summarise({"case": {name: dict(score) for name in NAMES}}, NAMES, MetricRules())
    out = printed(width, evaluate._print_table, summary)
    lines = out.splitlines()
    for name in NAMES:
        (line,) = [line for line in lines if re.match(rf"\s*{re.escape(name)}\s", line)]
        assert re.findall(r"[\d.]+", line.replace(name, ""))[:5] == ["0.912", "0.839", "123.5", "0.987", "1234.5"]
    assert "…" not in out
    if width >= 80:
        short = [line for line in lines if line.strip().startswith("TympanicCavity")]
        assert all(len(line.rstrip()) <= max(width, 96) for line in short)


def test_methods_and_their_scores_stay_whole(printed):
    scores = {f"adaptformer/with_a_long_name_of_fold_{number}": 0.5 + number / 10 for number in range(4)}
    content = compare_runs([run_of(method, np.full((3, 2), dsc)) for method, dsc in scores.items()])
    out = printed(80, _print, content)
    for method in scores:
        assert out.count(method) >= 3
    assert "…" not in out
