"""Why a training takes its backbone: a line of `train`, and an entry of its plan."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_DEFAULT = "the default of this bundle"


def why_backbone(backbone: str, given: Mapping[str, Any], recipe: str, start: Path | None) -> str:
    """The reason for the backbone of a training, as the end of a sentence; empty where the data decide.

    Args:
        backbone: of the training; ``auto`` leaves it to the data.
        given: the settings that the user gave.
        recipe: ``default`` or ``paper``.
        start: the run that is continued, repeated or started from; None without one.
    """
    if backbone == "auto":
        return ""
    if "backbone" in given:
        return "as given"
    if start is not None:
        return f"as in {start}"
    if recipe != "default":
        return f"that of the recipe '{recipe}'"
    return _DEFAULT
