"""Worst, median and best case as pictures that need no script, so that they are printed as well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medsam_adapt.evaluation.contours import path_data
from medsam_adapt.evaluation.shown_cases import PackedCase
from medsam_adapt.report.markup import Markup, data_uri, element


def heading(roles: Sequence[str]) -> str:
    """Heading of the section that shows cases as these, as in "Worst and best case"."""
    if not roles:
        return "Pictures"
    *first, last = roles
    named = f"{', '.join(first)} and {last}" if first else last
    return f"{named.capitalize()} case"


def draw_case(packed: PackedCase, role: str, score: Markup) -> Markup:
    """A figure of the slice with the largest reference area: outlines of the prediction and of the reference.

    Args:
        packed: the case.
        role: what it is shown as, such as ``worst``.
        score: its mean DSC.
    """
    index = packed.key_index
    panels = [
        element("div", element("span", name), _panel(packed, outlines[index], name), class_="panel")
        for name, outlines in (("prediction", packed.prediction), ("reference", packed.reference))
    ]
    caption = element(
        "figcaption",
        element("strong", role),
        element("span", packed.case),
        element("span", "mean DSC ", score),
        element("span", ", ".join([f"slice {packed.numbers[index]} of {packed.slices}", *packed.images[:1]])),
    )
    return element("figure", caption, element("div", *panels, class_="panels"), class_="case")


def _panel(packed: PackedCase, outlines: Mapping[int, str], name: str) -> Markup:
    paths = [element("path", d=path_data(lines), class_=f"outline c{number}") for number, lines in outlines.items()]
    image = element("image", href=data_uri(packed.key_slice, "jpeg"), width=packed.width, height=packed.height)
    title = element("title", f"{packed.case}, slice {packed.numbers[packed.key_index]}: outlines of the {name}")
    return element("svg", title, image, *paths, viewBox=f"0 0 {packed.width} {packed.height}", role="img")
