"""The tables of trainings in docs are those of the scores that are kept in the repository."""

import csv
import importlib

import pytest

from .doc_blocks import REPOSITORY


@pytest.mark.parametrize(
    ("module", "scores", "page"),
    [
        ("reproduction_table", "reproduction", "reproduction.md"),
        ("pretrained_start", "pretrained_start", "pretrained_start.md"),
    ],
)
def test_a_page_has_the_table_of_the_saved_scores(module, scores, page, monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    with (REPOSITORY / "benchmarks/scores" / scores / "scores.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert importlib.import_module(module).table(rows) in (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
