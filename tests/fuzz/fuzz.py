"""The loop: input after input, each in a separate folder, each decided by the seed and its number alone."""

import os
import shutil
import tempfile
from collections import Counter
from functools import cache

import numpy as np
import typer

from medsam_adapt.inference import predictor
from tests.fuzz import other_kinds  # noqa: F401 (it registers them)
from tests.fuzz.kinds import KINDS
from tests.fuzz.samples import SECRETS, make_samples
from tests.fuzz.watch import Verdict, watch

OUTCOMES = ("done", "refused", "failed")


class Fuzzer:
    """Inputs by number; kinds take turns.

    Args:
        folder: for samples and inputs; inputs are removed when they are judged.
        seed: decides all inputs.
        kinds: names of the kinds wanted; all when None.
    """

    def __init__(self, folder, seed=0, kinds=None):
        self.folder, self.seed, self.kinds = folder, seed, list(kinds or KINDS)
        self._before = {"home": os.environ.get("MEDSAM_ADAPT_HOME"), "temporary": tempfile.tempdir}
        self._load_run, self._get_command = predictor.load_run, typer.main.get_command
        typer.main.get_command = cache(self._get_command)  # the commands are built once, not for every input
        os.environ["MEDSAM_ADAPT_HOME"] = str(folder / "home")
        self.samples = make_samples(folder / "samples")
        self._loaded = {}
        predictor.load_run = self._load_once

    def _load_once(self, run, *arguments, **options):
        """The samples' own runs, which no input changes, are loaded once."""
        key = (str(run), repr(arguments), repr(options))
        if not key[0].startswith(str(self.samples.folder)):
            return self._load_run(run, *arguments, **options)
        if key not in self._loaded:
            self._loaded[key] = self._load_run(run, *arguments, **options)
        return self._loaded[key]

    def close(self):
        """Put back what was replaced, and remove all files."""
        typer.main.get_command = self._get_command
        predictor.load_run, tempfile.tempdir = self._load_run, self._before["temporary"]
        os.environ.pop("MEDSAM_ADAPT_HOME")
        if self._before["home"] is not None:
            os.environ["MEDSAM_ADAPT_HOME"] = self._before["home"]
        shutil.rmtree(self.folder, ignore_errors=True)

    def kind_of(self, number):
        """The kind of this input."""
        return self.kinds[number % len(self.kinds)]

    def attempt(self, number, keep=False):
        """Kind and verdict of one input."""
        kind = self.kind_of(number)
        rng = np.random.default_rng([self.seed, number])
        folder = self.folder / f"input_{number}"
        for part in ("home", "temporary"):
            (folder / part).mkdir(parents=True)
        os.environ["MEDSAM_ADAPT_HOME"], tempfile.tempdir = str(folder / "home"), str(folder / "temporary")
        call = KINDS[kind](rng, self.samples, folder)
        verdict = watch(call, folder, SECRETS)
        if (folder / "marker").exists():
            verdict = Verdict("ran planted code", verdict.detail)
        if not keep:
            shutil.rmtree(folder)
        return kind, verdict


def print_tally(tally):
    """A row for each kind: how many inputs ended how."""
    breaches = sorted({verdict.outcome for verdicts in tally.values() for verdict in verdicts} - {*OUTCOMES})
    heads = ("kind", "inputs", *OUTCOMES, *(breaches or ["breaches"]))
    rows = []
    for kind, verdicts in tally.items():
        counts = Counter(verdict.outcome for verdict in verdicts)
        rows.append((kind, len(verdicts), *(counts[outcome] for outcome in (*OUTCOMES, *(breaches or ["breaches"])))))
    rows.append(("all", *(sum(column) for column in zip(*(row[1:] for row in rows), strict=True))))
    widths = [max(len(str(cell)) for cell in column) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
