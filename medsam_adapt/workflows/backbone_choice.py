"""Which backbone a training takes, and why: a line of `train`, and an entry of its plan."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medsam_adapt.weights.store import local_path

_DEFAULT = "the default, whose weights ship with this package"
_OTHER = "; lite_medsam, which is installed too, is far slower on a processor (docs/backbones.md)"


def why_backbone(given: Mapping[str, Any], recipe: str, start: Path | None) -> str:
    """The reason for the backbone of a training, as the end of a sentence.

    Args:
        given: the settings that the user gave.
        recipe: ``default`` or ``paper``.
        start: the run that is continued, repeated or started from; None without one.
    """
    if "backbone" in given:
        return "as given"
    if start is not None:
        return f"as in {start}"
    if recipe != "default":
        return f"that of the recipe '{recipe}'"
    return _DEFAULT + (_OTHER if local_path("lite_medsam") else "")
