"""The slice cache: where it lies, what it holds, and how it is emptied.

CACHE/<32 hexadecimal digits>/             the slices of one case under one set of settings, made by `store_cases`
      features-<32 hexadecimal digits>/    what a frozen network makes of slices, made by `store_features`
      .making-<host>-<process>-<random>-…/ one that is being made, or was when its run was killed

Under ``MEDSAM_ADAPT_HOME``, wherever the slices lie:

labels/<32 hexadecimal digits>/            labels that were DICOM, made by `converted_label`
"""

from __future__ import annotations

import errno
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from medsam_adapt.core.errors import InputError, RunError
from medsam_adapt.core.files import has_owner, home, is_left_behind, is_writable, own_home, owner_tag, share_with_group

ABOUT_FILE = "about.json"  # {"dataset": folder}: for people, no part of what the slices are found by
MAKING = ".making-"
FEATURES, FEATURES_FILE = "features-", "features.npy"
_CASE = re.compile(r"[0-9a-f]{32}")
_FEATURES = re.compile(FEATURES + r"[0-9a-f]{32}")
_LABELS: ContextVar[Path | None] = ContextVar("folder of converted labels", default=None)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """The folder of the cache: ``cache_dir``, or ``cache`` under ``MEDSAM_ADAPT_HOME`` when None.

    Where that cannot be written to, as on a machine whose users share weights only, it is the user's own.
    """
    return Path(cache_dir) if cache_dir else _usable("cache")


def labels_folder() -> Path:
    """The folder of the labels that were DICOM."""
    return _LABELS.get() or _usable("labels")


def _usable(name: str) -> Path:
    """A folder under ``MEDSAM_ADAPT_HOME``, or under the user's own home where that one is there and read-only."""
    shared, own = home() / name, own_home() / name
    nearest = next(path for path in (shared, *shared.absolute().parents) if path.exists())
    return own if nearest.is_dir() and not is_writable(shared) and is_writable(own) else shared


@contextmanager
def borrowed_cache(cache_dir: str | Path | None = None) -> Iterator[Path]:
    """A cache for the time of the block: it has what the real one holds, and what is added goes with it.

    Labels that were DICOM are kept there too.

    Raises:
        InputError, RunError: as `cache_info` and `explain_cache_errors`.
    """
    held = cache_info(cache_dir)
    with explain_cache_errors(held.folder):
        place = held.folder if held.folder.exists() else None
        temporary = tempfile.TemporaryDirectory(prefix=f"{MAKING}{owner_tag()}-", dir=place)
    with temporary as name:
        folder, labels = Path(name), Path(name, "labels")
        labels.mkdir()
        for path in (*held.cases, *held.features):
            (folder / path.name).symlink_to(path.resolve())
        for path in _converted_labels():
            (labels / path.name).symlink_to(path.resolve())
        before = _LABELS.set(labels)
        try:
            yield folder
        finally:
            _LABELS.reset(before)


@contextmanager
def explain_cache_errors(folder: Path) -> Iterator[None]:
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
                f"{folder}: this slice cache cannot be written to ({why}). Name another folder with --cache-dir."
            ) from error
        raise RunError(
            f"{folder}: this slice cache could not take the slices ({why}). Free some space, with 'medsam-adapt cache "
            "clear' for instance, or name another folder with --cache-dir."
        ) from error


@contextmanager
def made_in_cache(folder: Path, dataset: str | Path | None = None) -> Iterator[Path]:
    """A temporary folder that becomes ``folder`` when the block succeeds, so that another run sees all or nothing.

    Where another run was first, with the same content, its folder stays. ``dataset`` is what ``cache info`` shows.
    """
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{MAKING}{owner_tag()}-"))
    try:
        yield temporary
        about = {"dataset": None if dataset is None else str(Path(dataset).resolve())}
        (temporary / ABOUT_FILE).write_text(json.dumps(about), encoding="utf-8")
        share_with_group(temporary, like=folder.parent)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@dataclass(frozen=True)
class CacheInfo:
    """What a cache holds.

    Attributes:
        folder: where it lies.
        cases: each case's folder and its bytes.
        features: each folder of kept features and its bytes.
        labels: each folder of labels that were DICOM and its bytes, where the usual cache is asked for.
        leftovers: unfinished folders of runs that are no more, and their bytes.
        datasets: data set's folder -> number of its cases (one case under two settings is two).
    """

    folder: Path
    cases: dict[Path, int] = field(default_factory=dict)
    features: dict[Path, int] = field(default_factory=dict)
    labels: dict[Path, int] = field(default_factory=dict)
    leftovers: dict[Path, int] = field(default_factory=dict)
    datasets: dict[str, int] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Size of all of it."""
        return sum(sum(part.values()) for part in (self.cases, self.features, self.labels, self.leftovers))


def cache_info(cache_dir: str | Path | None = None) -> CacheInfo:
    """What the cache holds; files that are not its own are not counted.

    Raises:
        InputError: the folder is a file, or cannot be read.
    """
    info = CacheInfo(cache_folder(cache_dir))
    if not cache_dir:
        info.labels.update((path, _bytes(path)) for path in _converted_labels())
        info.leftovers.update((path, _bytes(path)) for path in _leftovers(labels_folder()))
    if not info.folder.exists():
        return info
    try:
        entries = sorted(path for path in info.folder.iterdir() if path.is_dir())
    except OSError as error:
        raise InputError(
            f"{info.folder}: this slice cache cannot be read ({error.strerror}). Name a folder."
        ) from error
    for path in entries:
        if _CASE.fullmatch(path.name) and (path / "images.npy").is_file():
            info.cases[path] = _bytes(path)
            dataset = _dataset(path)
            info.datasets[dataset] = info.datasets.get(dataset, 0) + 1
        elif _FEATURES.fullmatch(path.name) and (path / FEATURES_FILE).is_file():
            info.features[path] = _bytes(path)
    info.leftovers.update((path, _bytes(path)) for path in _leftovers(info.folder))
    return info


def clear_cache(cache_dir: str | Path | None = None) -> CacheInfo:
    """Remove slices, features, labels that were DICOM (with the usual cache), and what killed runs left; nothing else.

    Returns what was removed.

    Raises:
        InputError: as `cache_info`, and a folder that cannot be written to.
    """
    info = cache_info(cache_dir)
    with explain_cache_errors(info.folder):
        for path in (*info.cases, *info.features, *info.labels, *info.leftovers):
            shutil.rmtree(path)
    return info


def _converted_labels() -> list[Path]:
    return sorted(path for path in labels_folder().glob("*") if path.is_dir() and _CASE.fullmatch(path.name))


def _leftovers(folder: Path) -> list[Path]:
    """Unfinished folders that no process of this host is making; those of other hosts are none."""
    found = {path: path.name.removeprefix(MAKING) for path in folder.glob(f"{MAKING}*") if path.is_dir()}
    return sorted(path for path, tag in found.items() if is_left_behind(tag) or not has_owner(tag))


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _dataset(folder: Path) -> str:
    try:
        content = json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # for people only: a cache without it is as good
        return "unknown"
    return str(content.get("dataset") or "unknown") if isinstance(content, dict) else "unknown"
