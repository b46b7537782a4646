"""A comparison as files: tables of methods and classes, and the scores of every case that they were made from.

OUTPUT/compare.json          all of it
       compare.csv           a row for each method and class
       compare_cases.csv     a row for each method, seed, case and class
       compare.md            tables to read
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medsam_adapt.comparison.run import ScoredRun
from medsam_adapt.core.files import write_json, written_whole
from medsam_adapt.core.text import counted
from medsam_adapt.scoring.metrics import METRICS

JSON_FILE, CSV_FILE, MARKDOWN_FILE = "compare.json", "compare.csv", "compare.md"
CASES_FILE = "compare_cases.csv"
SPREADS = ("mean", "sd_cases", "sd_seeds")


def write_comparison(folder: Path, content: Mapping[str, Any], runs: Sequence[ScoredRun] = ()) -> list[Path]:
    """Write the files; returns their paths.

    Args:
        folder: of the comparison.
        content: of ``compare.json``.
        runs: that were compared; their scores are the rows of ``compare_cases.csv``, which is left out without them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if runs:
        _write_cases(folder / CASES_FILE, content["metrics"], runs)
    with written_whole(folder / CSV_FILE) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["method", "rank", "class", "trainable", "seconds_per_run", "peak_memory_bytes"]
            + [f"{metric}_{spread}" for metric in content["metrics"] for spread in SPREADS]
        )
        for method, row in content["methods"].items():
            cost = [row["trainable"], row["seconds_per_run"], row["peak_memory_bytes"]]
            for name, scores in {"mean": row["mean"], **row["by_class"]}.items():
                values = [scores[metric][spread] for metric in content["metrics"] for spread in SPREADS]
                writer.writerow([method, row["rank"], name, *("" if x is None else x for x in (*cost, *values))])
    with written_whole(folder / MARKDOWN_FILE) as temporary:
        temporary.write_text(as_markdown(content), encoding="utf-8")
    write_json(folder / JSON_FILE, content)
    return [folder / name for name in (MARKDOWN_FILE, CSV_FILE, *[CASES_FILE] * bool(runs), JSON_FILE)]


def _write_cases(path: Path, metrics: Sequence[str], runs: Sequence[ScoredRun]) -> None:
    """A row for each method, seed, case and class; an undefined score is an empty cell, volumes keep their sign."""
    with written_whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "seed", "case", "class", "outcome", *metrics])
        for run in runs:
            for case, scored in run.summary["cases"].items():
                for name, row in scored["classes"].items():
                    values = ["" if row[metric] is None else row[metric] for metric in metrics]
                    writer.writerow([run.method, run.seed, case, name, row["outcome"], *values])


def score_table(content: Mapping[str, Any], narrow: bool = False) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the methods' scores, best DSC first; ``narrow`` gives the spread of the DSC alone."""
    metrics = [name for name in ("dsc", "iou", "hd95", "nsd", "slice_dsc") if name in content["metrics"]]
    best = next(iter(content["methods"]))
    against = {frozenset((test["first"], test["second"])): test["p_holm"] for test in content["tests"].get("dsc", [])}
    rows = [
        [
            str(row["rank"]),
            method,
            *(spread(row["mean"][name], name, with_sd=not narrow or name == "dsc") for name in metrics),
            "" if method == best else _p(against.get(frozenset((best, method)))),
        ]
        for method, row in content["methods"].items()
    ]
    return ["", "method", *(_head(name) for name in metrics), "p"], rows


def cost_table(content: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of what the methods cost, and of what they missed."""
    rows = [
        [
            method,
            "–" if row["trainable"] is None else f"{row['trainable']:,}",
            duration(row["seconds_per_run"]),
            "–" if row["peak_memory_bytes"] is None else f"{row['peak_memory_bytes'] / 2**30:.1f} GiB",
            str(row["runs"]),
            str(row["missed"]),
        ]
        for method, row in content["methods"].items()
    ]
    return ["method", "trained values", "training", "memory", "runs", "missed"], rows


def class_table(content: Mapping[str, Any], metric: str = "dsc") -> tuple[list[str], list[list[str]]]:
    """Heads and rows of one metric: a row per class, a column per method."""
    methods = content["methods"]
    rows = [
        [name, *(spread(row["by_class"][name][metric], metric) for row in methods.values())]
        for name in content["classes"]
    ]
    return [_head(metric, of_means=False), *methods], rows


def spread(scores: Mapping[str, float | None], metric: str, with_sd: bool = True) -> str:
    """``mean ± sd`` over cases, or the mean alone."""
    digits = 1 if METRICS[metric].unit else 3
    if scores["mean"] is None:
        return "–"
    sd = "" if scores["sd_cases"] is None or not with_sd else f" ± {scores['sd_cases']:.{digits}f}"
    return f"{scores['mean']:.{digits}f}{sd}"


def duration(seconds: float | None) -> str:
    """Seconds in words."""
    if seconds is None:
        return "–"
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def as_markdown(content: Mapping[str, Any]) -> str:
    """``compare.md``."""
    seeds = {method: len(seeds) for method, seeds in content["seeds"].items()}
    lines = [
        "# Comparison",
        "",
        f"{counted(len(content['cases']), 'case')}, {counted(len(content['classes']), 'class')}; seeds: "
        + ", ".join(f"{method} {count}" for method, count in seeds.items())
        + ". Mean ± standard deviation over cases (a case's score is its mean over seeds). p: DSC against the best "
        "method, by Wilcoxon's signed-rank test over cases with Holm's correction over all pairs. Missed: "
        "structures of which nothing was found, which have no HD95.",
        "",
        *_markdown_table(*score_table(content)),
        "",
        *_markdown_table(*cost_table(content)),
    ]
    for metric in content["metrics"]:
        if METRICS[metric].better == "zero":
            continue
        lines += ["", f"## {METRICS[metric].label} by class", "", *_markdown_table(*class_table(content, metric))]
        lines += ["", *_markdown_table(*_test_table(content, metric))]
        by_seed = [
            f"{method} {row['mean'][metric]['sd_seeds']:.3g}"
            for method, row in content["methods"].items()
            if row["mean"][metric]["sd_seeds"] is not None
        ]
        if by_seed:
            lines += ["", f"Standard deviation of the mean over seeds: {', '.join(by_seed)}."]
    lines += [line for note in content["notes"] for line in ("", f"Note: {note}")]
    return "\n".join(lines) + "\n"


def _test_table(content: Mapping[str, Any], metric: str) -> tuple[list[str], list[list[str]]]:
    digits = 1 if METRICS[metric].unit else 3
    rows = [
        [
            f"{test['first']} − {test['second']}",
            "–" if test["difference"] is None else f"{test['difference']:+.{digits}f}",
            str(test["cases"]),
            _p(test["p"]),
            _p(test["p_holm"]),
        ]
        for test in content["tests"][metric]
    ]
    return ["difference", "mean", "cases", "p", "p (Holm)"], rows


def _markdown_table(heads: list[str], rows: list[list[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (heads, ["---"] * len(heads), *rows)]
    return [f"| {' | '.join(row)} |" for row in cells]


def _head(metric: str, of_means: bool = True) -> str:
    """A column's head; the mean of IoU over classes is called mIoU."""
    unit = METRICS[metric].unit
    label = "mIoU" if metric == "iou" and of_means else METRICS[metric].label
    return f"{label} {unit}".strip()


def _p(value: float | None) -> str:
    return "–" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"
