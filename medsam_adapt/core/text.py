"""Names as people write them, compared and suggested; numbers with their nouns; long lists of sentences shortened."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """A question with the nearest of ``known`` and a space before it, to follow a full stop; or nothing."""
    near = get_close_matches(given, list(known), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def counted(count: int, noun: str, plural: str = "") -> str:
    """ "1 case", "2 cases": a number and its noun; ``plural`` where that takes neither -s nor -es."""
    regular = noun + ("es" if noun.endswith("s") else "s")
    return f"{count:,} {noun if count == 1 else plural or regular}"


def class_key(name: str) -> str:
    """A class's name as names are compared: upper and lower case, spaces, underscores and hyphens are equal."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def shortened(sentences: Sequence[str], limit: int = 5) -> list[str]:
    """The first few of many sentences, and how many more there are."""
    rest = len(sentences) - limit
    return [*sentences[:limit], *([f"... and {rest} more of this kind."] if rest > 0 else [])]
