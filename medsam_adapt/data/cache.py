"""The slice cache: where it lies, what it holds, and how it is emptied.

CACHE/<32 hexadecimal digits>/    the slices of one case under one set of settings, made by `store_cases`
      .making-<process>-<any>/    one that is being made, or was when its run was killed
"""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from medsam_adapt.errors import InputError, RunError
from medsam_adapt.files import home, is_running

ABOUT_FILE = "about.json"  # {"dataset": folder}: for people, no part of what the slices are found by
MAKING = ".making-"
_CASE = re.compile(r"[0-9a-f]{32}")
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """The folder of the cache: ``cache_dir``, or ``cache`` under ``MEDSAM_ADAPT_HOME`` when None."""
    return Path(cache_dir) if cache_dir else home() / "cache"


@contextmanager
def told_of_cache(folder: Path) -> Iterator[None]:
    """Turn a failure to write to the cache into a sentence.

    Raises:
        InputError: the folder cannot be written to.
        RunError: the disk is full, or fails.
    """
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        if error.errno in _NOT_WRITABLE:
            raise InputError(
                f"the slice cache {folder} cannot be written to ({why}); name another folder with --cache-dir"
            ) from error
        raise RunError(
            f"the slice cache {folder} could not take the slices ({why}): free some space, with 'medsam-adapt cache "
            "clear' for instance, or name another folder with --cache-dir"
        ) from error


@dataclass(frozen=True)
class CacheInfo:
    """What a cache holds.

    Attributes:
        folder: where it lies.
        cases: each case's folder and its bytes.
        leftovers: unfinished folders of runs that are no more, and their bytes.
        datasets: data set's folder -> number of its cases (one case under two settings is two).
    """

    folder: Path
    cases: dict[Path, int] = field(default_factory=dict)
    leftovers: dict[Path, int] = field(default_factory=dict)
    datasets: dict[str, int] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Size of all of it."""
        return sum(self.cases.values()) + sum(self.leftovers.values())


def cache_info(cache_dir: str | Path | None = None) -> CacheInfo:
    """What the cache holds; files that are not its own are not counted.

    Raises:
        InputError: the folder is a file, or cannot be read.
    """
    info = CacheInfo(cache_folder(cache_dir))
    if not info.folder.exists():
        return info
    try:
        entries = sorted(path for path in info.folder.iterdir() if path.is_dir())
    except OSError as error:
        raise InputError(f"the slice cache {info.folder} cannot be read ({error.strerror}); name a folder") from error
    for path in entries:
        if _CASE.fullmatch(path.name) and (path / "images.npy").is_file():
            info.cases[path] = _bytes(path)
            dataset = _dataset(path)
            info.datasets[dataset] = info.datasets.get(dataset, 0) + 1
        elif path.name.startswith(MAKING) and not _is_running(path.name):
            info.leftovers[path] = _bytes(path)
    return info


def clear_cache(cache_dir: str | Path | None = None) -> CacheInfo:
    """Remove the slices and what killed runs left, and nothing else; returns what was removed.

    Raises:
        InputError: as `cache_info`, and a folder that cannot be written to.
    """
    info = cache_info(cache_dir)
    with told_of_cache(info.folder):
        for path in (*info.cases, *info.leftovers):
            shutil.rmtree(path)
    return info


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _dataset(folder: Path) -> str:
    try:
        content = json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # for people only: a cache without it is as good
        return "unknown"
    return str(content.get("dataset") or "unknown") if isinstance(content, dict) else "unknown"


def _is_running(name: str) -> bool:
    """Whether the process that an unfinished folder is named after still runs on this machine."""
    process = name.removeprefix(MAKING).partition("-")[0]
    return process.isdecimal() and is_running(int(process))
