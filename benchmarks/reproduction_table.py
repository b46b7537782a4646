"""The table of ``reproduction.py``: pairs of arms, mean ± sd over seeds, and a paired test with Holm's correction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.stats import ttest_rel

from medsam_adapt.comparison.run import holm

Row = dict[str, str]
PAIRS = {
    "a": (("COBOT on LoRA", "LoRA"), ("COBOT on AdaptFormer", "AdaptFormer")),
    "b": (("PARSER", "LoRA"),),
    "c": (("BLO-SAM", "one level"),),
    "d": (("InfoSAM", "InfoSAM's adapter alone"),),
    "e": (("LoRA", "decoder alone"), ("AdaptFormer", "decoder alone"), ("InfoSAM", "decoder alone")),
}


def table(rows: Sequence[Row]) -> str:
    """Markdown: a line for each pair of arms, data set, number of slices and what was scored.

    p: two-sided t-test of the differences, paired by seed, by Holm's method over all lines of the table.
    """
    lines = [
        "| claim | data | scored on | method | DSC | against | DSC | difference | p (Holm) | seeds |",
        "|---|---|---|---|---:|---|---:|---:|---:|---:|",
    ]
    comparisons = list(_comparisons(rows))
    p_values = holm([_paired_test(first, second) for *_, first, second in comparisons])
    for (claim, where, scored, names, first, second), p in zip(comparisons, p_values, strict=True):
        cells = [claim, where, scored, names[0], _spread(first), names[1], _spread(second)]
        cells += [f"{np.mean(first - second):+.3f}", "–" if np.isnan(p) else f"{p:.3f}", str(len(first))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_counts(rows)])


def _comparisons(rows: Sequence[Row]) -> Iterator[tuple[str, str, str, tuple[str, str], np.ndarray, np.ndarray]]:
    places = dict.fromkeys((row["data"], row["slices"]) for row in rows)
    for claim, pairs in PAIRS.items():
        for (data, slices), pair in ((place, pair) for place in places for pair in pairs):
            found = {arm: _by_seed(rows, data, slices, arm) for arm in pair}
            scored = list(next(iter(found[pair[0]].values()), {}))
            seeds = sorted(set(found[pair[0]]) & set(found[pair[1]]))
            if not seeds or (claim == "c") != (slices != "0"):
                continue
            where = data if slices == "0" else f"{data}, {slices} slices"
            for name in scored if claim in "de" else [name for name in scored if name in ("held out", "training")]:
                first, second = (np.array([found[arm][seed][name] for seed in seeds]) for arm in pair)
                yield claim, where, name, pair, first, second
            if "training" in scored:
                gaps = [
                    np.array([found[arm][seed]["training"] - found[arm][seed]["held out"] for seed in seeds])
                    for arm in pair
                ]
                yield claim, where, "gap (training − held out)", pair, gaps[0], gaps[1]


def _by_seed(rows: Sequence[Row], data: str, slices: str, arm: str) -> dict[str, dict[str, float]]:
    """Seed -> what was scored -> DSC."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        if (row["data"], row["slices"], row["arm"]) == (data, slices, arm):
            found.setdefault(row["seed"], {})[row["scored_on"]] = float(row["dsc"])
    return found


def _paired_test(first: np.ndarray, second: np.ndarray) -> float:
    return float(ttest_rel(first, second).pvalue) if len(first) > 1 else float("nan")


def _spread(values: np.ndarray) -> str:
    return f"{values.mean():.3f}" + (f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else "")


def _counts(rows: Sequence[Row]) -> list[str]:
    """What each arm trains, by data set (the decoder has a mask token for each class)."""
    lines = ["| data | method | trained in the encoder | trained in all |", "|---|---|---:|---:|"]
    counts = dict.fromkeys((row["data"], row["arm"], row["trained_in_encoder"], row["trained"]) for row in rows)
    return [*lines, *(f"| {data} | {arm} | {int(e):,} | {int(t):,} |" for data, arm, e, t in counts)]
