"""The table of ``reproduction.py``: pairs of arms, mean ± sd over seeds, and a paired test with Holm's correction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.stats import ttest_rel

from medsam_adapt.comparison.run import holm

Row = dict[str, str]
Comparison = tuple[str, str, tuple[str, str], np.ndarray, np.ndarray]
FILLED = "filled boxes"
UNTRAINED = "no training"
CONTROL = "decoder alone"
PAIRS = {
    "a": (("COBOT on LoRA", "LoRA"), ("COBOT on AdaptFormer", "AdaptFormer")),
    "b": (("PARSER", "LoRA"),),
    "c": (("BLO-SAM", "one level"),),
    "d": (("InfoSAM", "InfoSAM's adapter alone"),),
    "e": tuple(
        (arm, CONTROL) for arm in ("LoRA", "COBOT on LoRA", "AdaptFormer", "COBOT on AdaptFormer", "PARSER", "InfoSAM")
    ),
}
IN_DOMAIN = ("test patients", "training")


def table(rows: Sequence[Row]) -> str:
    """Markdown: a line for each pair of arms, data set, number of slices and what was scored; then two more tables.

    p: two-sided t-test of the differences, paired by seed, by Holm's method over the lines of a claim. Behind it, in
    how many seeds the first arm is ahead.
    """
    lines = [
        "| claim | data | scored on | method | DSC | against | DSC | difference | p (Holm) | ahead in seeds |",
        "|---|---|---|---|---:|---|---:|---:|---:|---:|",
    ]
    for claim in PAIRS:
        comparisons = list(_comparisons(rows, claim))
        p_values = holm([_paired_test(first, second) for *_, first, second in comparisons])
        for (where, scored, names, first, second), p in zip(comparisons, p_values, strict=True):
            cells = [claim, where, scored, names[0], _spread(first), names[1], _spread(second)]
            cells += [f"{np.mean(first - second):+.3f}", "–" if np.isnan(p) else f"{p:.3f}"]
            lines.append(f"| {' | '.join(cells)} | {(first > second).sum()} of {len(first)} |")
    return "\n".join([*lines, "", *_untrained(rows), "", *_counts(rows)])


def _comparisons(rows: Sequence[Row], claim: str) -> Iterator[Comparison]:
    """Where, what was scored, the names of two arms and their DSC by seed, of the seeds that have both."""
    places = dict.fromkeys((row["data"], row["slices"]) for row in rows)
    for data, slices in places:
        if (claim == "c") != (slices != "0"):
            continue
        for pair in PAIRS[claim]:
            found = [_by_seed(rows, data, slices, arm) for arm in pair]
            seeds = sorted(set(found[0]) & set(found[1]))
            if not seeds:
                continue
            where = data if slices == "0" else f"{data}, {slices} slices"
            scored = [name for name in found[0][seeds[0]] if claim in "de" or name in IN_DOMAIN]
            for name in scored:
                first, second = (np.array([arm[seed][name] for seed in seeds]) for arm in found)
                yield where, name, pair, first, second
            if "training" in scored:
                first, second = (
                    np.array([arm[seed]["training"] - arm[seed]["test patients"] for seed in seeds]) for arm in found
                )
                yield where, "gap (training − test)", pair, first, second


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


def _untrained(rows: Sequence[Row]) -> list[str]:
    """The DSC of the filled boxes, of the weights as they are in the same boxes, and after training the decoder."""
    arms = (FILLED, UNTRAINED, CONTROL)
    lines = [f"| data | scored on | {' | '.join(arms)} |", "|---|---|---:|---:|---:|"]
    places = {row["data"]: None for row in rows if row["slices"] == "0"}
    for data in places:
        found = [list(_by_seed(rows, data, "0", arm).values()) for arm in arms]
        for name in found[-1][0] if found[-1] else ():
            cells = [_spread(np.array([scores[name] for scores in seeds])) if seeds else "–" for seeds in found]
            lines.append(f"| {data} | {name} | {' | '.join(cells)} |")
    return lines


def _counts(rows: Sequence[Row]) -> list[str]:
    """What each arm trains; without prompts the decoder has a mask token for each class of a data set."""
    lines = ["| method | data | trained in the encoder | trained in all |", "|---|---|---:|---:|"]
    counts: dict[tuple[str, str, str], dict[str, None]] = {}
    for row in rows:
        if row["arm"] not in (FILLED, UNTRAINED):
            counts.setdefault((row["arm"], row["trained_in_encoder"], row["trained"]), {})[row["data"]] = None
    return [
        *lines,
        *(
            f"| {arm} | {', '.join(data)} | {int(inside):,} | {int(total):,} |"
            for (arm, inside, total), data in counts.items()
        ),
    ]
