"""Builds the page: a single HTML file that contains its script, style, pictures and data.

Its Content-Security-Policy allows this script and this style sheet by their hashes, pictures that are part of the page,
and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import Any

from medsam_adapt.evaluation.shown_cases import PackedCase
from medsam_adapt.report.colours import class_colour
from medsam_adapt.report.curves import Curve, draw_curve
from medsam_adapt.report.facts import Facts, Rows
from medsam_adapt.report.figures import draw_case, heading
from medsam_adapt.report.markup import Markup, content_hash, data_uri, element, embedded_json, join
from medsam_adapt.report.tables import case_table, class_table, key_figures, named, number

_LETTERS = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}  # left, right, top, bottom


@dataclass(frozen=True)
class PageContent:
    """Content of a page.

    Attributes:
        run: name of the run.
        facts: of the run.
        metrics: content of ``metrics.json``.
        trained_on: ids of the training cases.
        curves: of the training.
        axis: slicing direction.
        letters: whether the sides of a slice are those of a patient.
        shown: what a case is shown as, such as ``worst``, and the packed case; worst first.
        notes: remarks on the interpretation, in addition to the notes in ``metrics``.
        about_slices: how the slices in the page differ from the volumes, and their size.
    """

    run: str
    facts: Facts
    metrics: Mapping[str, Any]
    trained_on: Sequence[str]
    curves: Sequence[Curve] = ()
    axis: str = "axial"
    letters: bool = True
    shown: Sequence[tuple[str, PackedCase]] = ()
    notes: Sequence[str] = ()
    about_slices: Sequence[str] = ()


def make_page(content: PageContent) -> str:
    """The whole HTML file."""
    style = _asset("page.css") + _class_colours(len(content.metrics["classes"]))
    script = _asset("page.js")
    policy = (
        f"default-src 'none'; script-src {content_hash(script)}; style-src {content_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    facts = content.facts
    parts = {
        "policy": join(policy),
        "title": join(f"{content.run}: {facts.method}, report"),
        "style": style,
        "script": script,
        "run": join(content.run),
        "method": join(facts.method),
        "summary": join(facts.summary),
        "figures": key_figures(content.metrics),
        "notes": _notes([*content.metrics["notes"], *content.notes]),
        "class_scores": class_table(content.metrics),
        "empty_rule": join(content.metrics["rules"]["empty_rule"]),
        "tolerance": join(_tolerances(content.metrics)),
        "interval": join(content.metrics["rules"]["interval"]),
        "case_scores": case_table(content.metrics, [packed.case for _, packed in content.shown], content.trained_on),
        "shown": join(heading([role for role, _ in content.shown])),
        "pictures": _pictures(content),
        "viewer": _viewer(content),
        "curves": join(*(draw_curve(curve) for curve in content.curves))
        or element("p", "The run folder contains no training curves.", class_="quiet"),
        "references": join(*(element("li", reference) for reference in facts.references)),
        "model": _rows(facts.model),
        "data": _rows(facts.data),
        "training": _rows(facts.training),
        "settings": _rows(facts.settings),
        "versions": _rows(facts.versions),
        "data_json": embedded_json(_viewer_data(content)),
    }
    return Template(_asset("page.html")).substitute(parts)


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _class_colours(count: int) -> str:
    """Style rules that give each class its colour."""
    return "".join(f".c{index}{{--class:{class_colour(index)}}}\n" for index in range(1, count + 1))


def _notes(notes: Sequence[str]) -> Markup | None:
    unique = list(dict.fromkeys(notes))
    items = element("ul", *(element("li", note) for note in unique))
    return element("aside", element("h2", "Read this first"), items, class_="notes") if unique else Markup("")


def _tolerances(metrics: Mapping[str, Any]) -> str:
    tolerances = metrics["rules"]["tolerances_mm"]
    different = sorted(set(tolerances.values()))
    if not different:
        return ""
    if len(different) == 1:
        return f"NSD has a tolerance of {different[0]:g} mm."
    return "NSD has a tolerance of " + ", ".join(f"{value:g} mm ({name})" for name, value in tolerances.items()) + "."


def _rows(rows: Rows) -> Markup:
    return element(
        "dl", *(element("div", element("dt", name), element("dd", value)) for name, value in rows), class_="rows"
    )


def _pictures(content: PageContent) -> Markup:
    if content.shown:
        key = [element("li", named(index, name)) for index, name in enumerate(content.metrics["classes"], start=1)]
        scores = content.metrics["cases"]
        drawn = [draw_case(packed, role, number(scores[packed.case]["mean"]["dsc"])) for role, packed in content.shown]
        return join(element("ul", *key, class_="key"), element("div", *drawn, class_="cases"))
    return element("p", "The page was made without pictures.", class_="quiet")


def _viewer(content: PageContent) -> Markup:
    if not content.shown:
        return Markup("")
    return Markup(Template(_asset("viewer.html")).substitute(about=join(" ".join(content.about_slices))))


def _viewer_data(content: PageContent) -> dict[str, Any]:
    """Data for the script of the page."""
    return {
        "axis": content.axis,
        "letters": _LETTERS[content.axis] if content.letters else "",
        "classes": [
            {"name": name, "colour": class_colour(index)}
            for index, name in enumerate(content.metrics["classes"], start=1)
        ],
        "cases": [
            {
                "id": packed.case,
                "role": role,
                "dsc": [score["dsc"] for score in content.metrics["cases"][packed.case]["classes"].values()],
                "slices": packed.slices,
                "numbers": packed.numbers,
                "start": packed.key_index,
                "width": packed.width,
                "height": packed.height,
                "perSheet": packed.per_sheet,
                "images": packed.images,
                "sheets": [[data_uri(sheet, "jpeg") for sheet in sheets] for sheets in packed.each_image],
                "prediction": packed.prediction,
                "reference": packed.reference,
            }
            for role, packed in content.shown
        ],
    }
