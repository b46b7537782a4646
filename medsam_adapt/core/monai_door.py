"""``python -m monai.bundle run …``: a mistake in a value ends in a sentence there too, not in MONAI's traceback."""

from __future__ import annotations

import sys
from types import TracebackType

from medsam_adapt.core.errors import InputError, user_error


def print_errors_as_sentences() -> None:
    """Have ``python -m monai.bundle`` print a user's mistake as our commands do, with their exit codes.

    MONAI wraps what is raised while it reads a config, so that the sentence is lost or far above the last line. Any
    other program that imports this package keeps its own handling.
    """
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is not None and spec.name in ("monai.bundle", "monai.bundle.__main__"):
        sys.excepthook = _print_error


def _print_error(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    found = user_error(error)
    if found is None:
        sys.__excepthook__(kind, error, traceback)
        return
    print(f"error: {found}", file=sys.stderr)
    sys.exit(2 if isinstance(found, InputError) else 1)
