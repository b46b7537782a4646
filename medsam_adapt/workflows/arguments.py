"""Arguments of workflows as Python programs give them, brought to the form that the command line gives."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

PathLike: TypeAlias = "str | os.PathLike[str]"
Names: TypeAlias = str | Sequence[str]


def path_or_none(value: PathLike | None) -> Path | None:
    """The path of an optional argument."""
    return None if value is None else Path(value)


def paths(value: PathLike | Iterable[PathLike]) -> list[Path]:
    """The paths of an argument that is one path or several."""
    return [Path(value)] if isinstance(value, str | os.PathLike) else [Path(each) for each in value]


def names(value: Names | None) -> list[str]:
    """Names given as a list, or as one text with commas between them; blanks around a name do not count."""
    given = value.split(",") if isinstance(value, str) else list(value or ())
    return [name.strip() for name in given if name.strip()]
