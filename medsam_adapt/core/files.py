"""Files: where ours live, writing them whole or not at all, and telling one from another."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.versions import newer_error

if TYPE_CHECKING:  # listings need no pydantic
    from pydantic import BaseModel

Record = TypeVar("Record", bound="BaseModel")

_TEMPORARY = re.compile(r"\.(\w+-\d+-[0-9a-f]{8})\.(.+)", re.ASCII | re.DOTALL)
_OWNER = re.compile(r"(\w+)-(\d+)-[0-9a-f]{8}(?=-|$)", re.ASCII)
_FIRST_NAMESPACE = "4026531836"  # of processes on Linux, the same on every machine


def home() -> Path:
    """Where weights and caches live: the folder that ``MEDSAM_ADAPT_HOME`` names, ~/.cache/medsam-adapt without it."""
    return Path(os.environ.get("MEDSAM_ADAPT_HOME") or own_home())


def own_home() -> Path:
    """The user's own folder for weights and caches, whatever ``MEDSAM_ADAPT_HOME`` names."""
    return Path.home() / ".cache" / "medsam-adapt"


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path``, of the same suffix, that is renamed to it when the block succeeds.

    A reader sees the old file or the new one, never half of one; a block that fails leaves what was there before.
    """
    path = Path(path)
    temporary = path.with_name(f".{owner_tag()}.{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def folder_replaced(folder: str | Path) -> Iterator[None]:
    """Move a folder out of the way for the block that makes it anew, and back when the block fails."""
    folder = Path(folder)
    previous = _moved_away(folder)
    forget_replaced(folder)
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


def forget_replaced(folder: str | Path) -> None:
    """Remove what `folder_replaced` moved out of the way of ``folder`` before its process, of this host, was killed."""
    folder = Path(folder)
    remove_leftovers(folder.with_name(f"{folder.name}.previous"))


def _moved_away(folder: Path) -> Path:
    return folder.with_name(f".{owner_tag()}.{folder.name}.previous")


def write_json(path: str | Path, content: Any) -> None:
    """Write JSON with an indent of two, whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_record(path: str | Path, model: type[Record], fix: str) -> Record:
    """A JSON file of ours, checked; nothing in it is trusted.

    Args:
        path: the file.
        model: what it must be.
        fix: what to do about a damaged one, in an imperative.

    Raises:
        InputError: the file cannot be read, is no JSON, does not fit ``model``, or a newer version wrote it so.
    """
    from pydantic import ValidationError

    try:
        content = Path(path).read_bytes()
        return model.model_validate_json(content)
    except OSError as error:
        raise InputError(f"{path}: it cannot be read ({error.strerror}). {fix}") from error
    except ValidationError as error:
        if (newer := newer_error(path, _content_of(content))) is not None:
            raise newer from error
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part)[:60] for part in fault["loc"])
        raise InputError(
            f"{path}: it is damaged ({where}{': ' if where else ''}{fault['msg'][:200]}). {fix}"
        ) from error


def _content_of(text: bytes) -> Any:
    """What a JSON file holds; None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes (64 hexadecimal digits); of a folder, such as a DICOM series, over its files' own.

    Neither names nor order of the files count, and hidden files and folders within are left out.
    """
    digest = hashlib.sha256()
    if Path(path).is_dir():
        files = [file for file in Path(path).iterdir() if file.is_file() and not file.name.startswith(".")]
        for content in sorted(file_sha256(file) for file in files):
            digest.update(content.encode())
        return digest.hexdigest()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def is_disk_full(error: OSError) -> bool:
    """Whether a write failed for lack of space, on the disk or in the user's share of it, or for a limit on files."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def folder_written_whole(folder: str | Path) -> Iterator[Path]:
    """A temporary folder beside ``folder`` that takes its place when the block succeeds, and vanishes when it fails."""
    folder = Path(folder)
    temporary = folder.with_name(f".{owner_tag()}.{folder.name}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        with folder_replaced(folder):
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def owner_tag() -> str:
    """What a temporary name of this process begins with: host, process number and a random part.

    Several hosts share a disk, and one process number may belong to a process on each of them.
    """
    return f"{_host()}-{os.getpid()}-{secrets.token_hex(4)}"


def has_owner(tag: str) -> bool:
    """Whether ``tag`` begins with an `owner_tag`."""
    return _OWNER.match(tag) is not None


def is_left_behind(tag: str) -> bool:
    """Whether the `owner_tag` at the beginning of ``tag`` is of a process of this host that runs no more.

    Of other hosts nobody here knows what runs there.
    """
    found = _OWNER.match(tag)
    return found is not None and found[1] == _host() and not is_running(int(found[2]))


def _host() -> str:
    """This host's name in letters and digits; in a separate container, with the number of its process namespace."""
    name = re.sub(r"[^A-Za-z0-9]", "_", socket.gethostname())[:32] or "host"
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # not Linux
        return name
    number = re.sub(r"\D", "", namespace)
    return name if number in ("", _FIRST_NAMESPACE) else f"{name}_{number}"


def remove_leftovers(path: str | Path) -> None:
    """Remove what processes of this host that were killed left of writing ``path``; all else stays."""
    look_for_outputs(Path(path).parent, {Path(path).name})


def look_for_outputs(folder: Path, names: Collection[str]) -> dict[str, bool]:
    """Which of ``names`` are in a folder, and whether each is whole; lists the folder once, however many they are.

    An empty file is not whole: nothing here writes one, but a machine that lost its power may leave one. What processes
    of this host that were killed left of writing ``names`` is removed.
    """
    found: dict[str, bool] = {}
    leftovers = []
    if not folder.is_dir():
        return found
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name in names:
                found[entry.name] = entry.is_dir() or entry.stat().st_size > 0
            elif (named := _TEMPORARY.fullmatch(entry.name)) and named[2] in names and is_left_behind(named[1]):
                leftovers.append(Path(entry.path))
    for leftover in leftovers:
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)
    return found


def is_writable(folder: str | Path) -> bool:
    """Whether files can be made in a folder, or the folder itself where it does not exist yet."""
    nearest = next(path for path in (Path(folder), *Path(folder).absolute().parents) if path.exists())
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


def make_shared_folder(folder: str | Path) -> None:
    """Make a folder and those above it that are missing, each writable to the group where the one above it is."""
    folder = Path(folder)
    if folder.is_dir():
        return
    if folder.parent != folder:
        make_shared_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    share_with_group(folder, like=folder.parent)


def share_with_group(path: Path, like: Path) -> None:
    """Give the group the rights of the owner to a file, or a folder with all that it holds, if it has them to ``like``.

    On Linux what is made in a folder with the set-group-ID bit belongs to the folder's group already.
    """
    if not like.stat().st_mode & stat.S_IWGRP:
        return
    for each in (path, *(path.rglob("*") if path.is_dir() else ())):
        mode = each.stat().st_mode
        if each.stat().st_uid == os.geteuid():
            each.chmod(stat.S_IMODE(mode) | (mode & stat.S_IRWXU) >> 3 | (stat.S_ISGID if each.is_dir() else 0))


def is_running(process: int) -> bool:
    """Whether a process of this number runs on this machine (always true where that cannot be asked)."""
    if os.name == "nt":  # signal 0 would end it there
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        return True
    return True
