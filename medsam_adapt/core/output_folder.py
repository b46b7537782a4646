"""Whether a command may write its output where the user asks."""

from __future__ import annotations

import os
from pathlib import Path

from medsam_adapt.core.errors import InputError


def check_output(path: Path, overwrite: bool, marker: str | None = None) -> None:
    """Refuse an output that exists, unless it is an empty folder or may be replaced.

    Args:
        path: the folder to make.
        overwrite: whether the user asked to replace it.
        marker: a file that shows that the folder is one of ours; one without it is never replaced.

    Raises:
        InputError: the output exists, or cannot be written.
    """
    if path.is_file():
        raise InputError(f"{path} is a file: name another folder.")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise InputError(f"{path} already exists: name another folder, or add --overwrite.")
    if marker and path.is_dir() and any(path.iterdir()) and not (path / marker).is_file():
        raise InputError(f"{path} holds other files (no {marker}) and will not be replaced: name another folder.")
    parent = next(folder for folder in (path, *path.resolve().parents) if folder.exists())
    if not (parent.is_dir() and _writable(parent)):
        raise InputError(f"{parent} cannot be written to: name another folder.")


def _writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK)
