"""Scores as tables: one row per class, one row per case, and the key figures at the top."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from medsam_adapt.core.text import counted
from medsam_adapt.report.markup import Markup, element, join
from medsam_adapt.scoring.metrics import METRICS

_SHOWN = ("dsc", "iou", "hd95", "nsd", "slice_dsc")
_MOST_ON_PAPER = 9  # columns of numbers that fit on a printed page
_COUNTS = {
    "undefined": "cases in which the class is in neither mask and has no score",
    "missed": "cases in which the reference has it and the prediction does not",
    "spurious": "cases in which the prediction has it and the reference does not",
}


def shown_metrics(summary: Mapping[str, Any]) -> list[str]:
    """The computed metrics that the page shows."""
    return [name for name in _SHOWN if name in summary["rules"]["metrics"]]


def key_figures(summary: Mapping[str, Any]) -> Markup:
    """Means over cases and classes with their intervals, and how many structures were missed."""
    figures = [
        _figure(
            f"mean {METRICS[name].label}" if name != "iou" else "mIoU",
            join(number(summary["mean"][name], name), element("small", METRICS[name].unit)),
            _range(summary["intervals"][name], name, "95% "),
        )
        for name in shown_metrics(summary)
    ]
    classes = summary["classes"].values()
    missed, spurious = (sum(row[kind] for row in classes) for kind in ("missed", "spurious"))
    figures.append(_figure("cases", join(len(summary["cases"])), counted(len(classes), "class")))
    figures.append(_figure("missed", join(missed), f"{spurious} spurious"))
    return element("dl", *figures, class_="figures")


def _figure(name: str, value: Markup, below: str) -> Markup:
    return element("div", element("dt", name), element("dd", value), element("dd", below, class_="spread"))


def class_table(summary: Mapping[str, Any]) -> Markup:
    """A row for each class: mean, standard deviation and interval of each metric, DSC of each case, and counts."""
    metrics = shown_metrics(summary)
    heads = [element("th", "class", scope="col")]
    heads += [element("th", metric_head(name), scope="col") for name in metrics]
    heads.append(element("th", "each case", scope="col", class_="strip-head"))
    heads += [element("th", name, scope="col", title=meaning) for name, meaning in _COUNTS.items()]
    rows = [
        _class_row(number_, name, row, metrics, [case["classes"][name]["dsc"] for case in summary["cases"].values()])
        for number_, (name, row) in enumerate(summary["classes"].items(), start=1)
    ]
    means = [
        _metric_cell(name, summary["mean"][name], element("small", _range(summary["intervals"][name], name)))
        for name in metrics
    ]
    foot = element("tr", element("th", "mean of classes", scope="row"), *means, element("td", colspan=4))
    caption = element("caption", "Mean over cases; below it the standard deviation and the 95% interval of the mean")
    table = element("table", caption, _head(heads), element("tbody", *rows), element("tfoot", foot), id="class-scores")
    return _scrolling(table, "Scores of each class")


def _class_row(
    index: int, name: str, row: Mapping[str, Any], metrics: Sequence[str], values: Sequence[float | None]
) -> Markup:
    cells = [element("th", named(index, name), scope="row")]
    for metric in metrics:
        statistics = row["statistics"][metric]
        spread = []  # nothing with fewer than two cases
        if statistics["sd"] is not None:
            spread.append(element("small", "± ", number(statistics["sd"], metric)))
        if statistics["low"] is not None:
            spread.append(element("small", _range((statistics["low"], statistics["high"]), metric)))
        cells.append(_metric_cell(metric, row[metric], *spread))
    strip = _strip(values, row["statistics"]["dsc"])
    cells.append(element("td", strip, class_="strip-cell", data_label="each case"))
    for count in _COUNTS:
        alarming = count == "missed" and row[count]
        cells.append(element("td", row[count], class_="alarm" if alarming else None, data_label=count))
    return element("tr", *cells)


def _strip(values: Sequence[float | None], statistics: Mapping[str, float | None]) -> Markup:
    """A line from 0 to 1 with a dot for each case, and a bar for the interval of the mean."""
    defined = sorted(value for value in values if value is not None)
    parts = [element("line", x1=4, x2=96, y1=11, y2=11, class_="grid")]
    if statistics["low"] is not None and statistics["high"] is not None:
        left, width = 4 + 92 * statistics["low"], max(1.0, 92 * (statistics["high"] - statistics["low"]))
        parts.append(element("rect", x=f"{left:.1f}", y=7, width=f"{width:.1f}", height=8, class_="interval"))
    parts += [element("circle", cx=f"{4 + 92 * value:.1f}", cy=11, r=2.6, class_="dot") for value in defined]
    listed = ", ".join(f"{value:.3f}" for value in defined) or "none"
    title = element("title", f"DSC of each case on a line from 0 to 1: {listed}")
    return element("svg", title, *parts, viewBox="0 0 100 22", role="img", class_="strip")


def case_table(summary: Mapping[str, Any], in_viewer: Collection[str], trained_on: Collection[str]) -> Markup:
    """A row for each case, the worst first: its means over classes, and the DSC of each class.

    Args:
        summary: content of ``metrics.json``.
        in_viewer: cases that the page can show.
        trained_on: cases of the training, which are marked.
    """
    metrics, names = shown_metrics(summary), list(summary["classes"])
    heads = [element("th", "case", scope="col")]
    heads += [element("th", metric_head(name), scope="col") for name in metrics]
    heads += [element("th", named(index, name), scope="col") for index, name in enumerate(names, start=1)]
    ranked = sorted(summary["cases"].items(), key=lambda item: _for_sorting(item[1]["mean"]["dsc"]))
    rows = []
    for case, content in ranked:
        label: object = element("button", case, type="button", data_show=case) if case in in_viewer else case
        mark = element("span", "training", class_="mark") if case in trained_on else None
        cells = [element("th", label, mark, scope="row")]
        cells += [_metric_cell(name, content["mean"][name]) for name in metrics]
        cells += [_dsc_cell(name, content["classes"][name]) for name in names]
        rows.append(element("tr", *cells))
    caption = element(
        "caption", "Worst first. Left: means over classes. Right: DSC of each class, shaded where it is below 0.8"
    )
    table = element("table", caption, _head(heads), element("tbody", *rows), id="case-scores")
    return _scrolling(table, "Scores of each case", wide=len(metrics) + len(names) > _MOST_ON_PAPER)


def _metric_cell(metric: str, value: float | None, *below: Markup) -> Markup:
    return element("td", number(value, metric), *below, data_label=metric_head(metric))


def _dsc_cell(name: str, score: Mapping[str, Any]) -> Markup:
    value, outcome = score["dsc"], score["outcome"]
    mark = None if outcome in ("scored", "empty") else element("span", outcome, class_="mark alarm")
    shade = None if value is None else f"s{min(9, int(10 * value))}"
    title = "in neither mask" if outcome == "empty" else None
    return element("td", number(value), mark, class_=shade, title=title, data_label=name)


def number(value: float | None, metric: str = "dsc") -> Markup:
    """A score as the tables show it, with its exact value beside it for programs; undefined is a dash."""
    if value is None:
        return element("span", "–", title="undefined")
    return element("data", _rounded(value, metric), value=repr(float(value)))


def metric_head(metric: str) -> str:
    """Label and unit of a metric."""
    return f"{METRICS[metric].label} {METRICS[metric].unit}".strip()


def named(index: int, name: str) -> Markup:
    """The name of a class beside a dot in its colour."""
    dot = element("i", class_=f"swatch c{index}", aria_hidden="true")
    return element("span", dot, element("span", name), class_="named")


def _rounded(value: float, metric: str) -> str:
    return f"{value:.1f}" if METRICS[metric].unit else f"{value:.3f}"


def _range(bounds: Sequence[float | None], metric: str, before: str = "") -> str:
    low, high = bounds
    if low is None or high is None:
        return "no interval"
    return f"{before}{_rounded(low, metric)}–{_rounded(high, metric)}"


def _head(cells: Sequence[Markup]) -> Markup:
    return element("thead", element("tr", *cells))


def _scrolling(table: Markup, label: str, wide: bool = False) -> Markup:
    """A table that scrolls on a screen; one that is ``wide`` is printed as a card for each row."""
    kind = "scrolling wide" if wide else "scrolling"
    return element("div", table, class_=kind, tabindex=0, role="region", aria_label=label)


def _for_sorting(value: float | None) -> float:
    return 2.0 if value is None else value
