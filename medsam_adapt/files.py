"""Files: where ours live, writing them whole or not at all, and telling one from another."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def home() -> Path:
    """Where weights and caches live: the folder that ``MEDSAM_ADAPT_HOME`` names, ~/.cache/medsam-adapt without it."""
    return Path(os.environ.get("MEDSAM_ADAPT_HOME") or Path.home() / ".cache" / "medsam-adapt")


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path``, of the same suffix, that is renamed to it when the block succeeds.

    A reader sees the old file or the new one, never half of one; a block that fails leaves what was there before.
    """
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def folder_replaced(folder: str | Path) -> Iterator[None]:
    """Move a folder out of the way for the block that makes it anew, and back when the block fails."""
    folder = Path(folder)
    previous = folder.with_name(f".{folder.name}.previous")
    if previous.is_dir():  # of a process that was killed
        shutil.rmtree(previous)
    if folder.is_dir():
        folder.rename(previous)
    try:
        yield
    except BaseException:
        if previous.is_dir():
            shutil.rmtree(folder, ignore_errors=True)
            previous.rename(folder)
        raise
    shutil.rmtree(previous, ignore_errors=True)


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON with an indent of two, whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes (64 hexadecimal digits)."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def is_disk_full(error: OSError) -> bool:
    """Whether a write failed for want of space, on the disk or in the user's share of it."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
