"""Names as people write them: compared, and the nearest known one suggested."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """', did you mean ...?' for the nearest of ``known``, or nothing."""
    near = get_close_matches(given, list(known), n=1, cutoff=0.5)
    return f", did you mean {near[0]!r}?" if near else ""


def class_key(name: str) -> str:
    """A class's name as names are compared: upper and lower case, spaces, underscores and hyphens are equal."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())
