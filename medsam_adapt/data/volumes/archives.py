"""Zip archives of volumes, unpacked to a temporary folder with nothing in them trusted."""

from __future__ import annotations

import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.text import counted
from medsam_adapt.data.volumes.formats.base import CHUNK, DEFLATE_RATIO

LARGEST_CONTENT = 64 << 30  # bytes, unpacked
_MOST_FILES = 200_000


@contextmanager
def unpacked(path: str | Path, largest: int = LARGEST_CONTENT) -> Iterator[Path]:
    """The content of a zip archive in a temporary folder that bears the archive's name and goes with the block.

    Folders that hold nothing but one folder are left out, so that an archive of one DICOM series gives the folder that
    `read_volume` takes. Names inside the archive, which may be a patient's, are not reported.

    Args:
        path: the archive.
        largest: bytes that its content may have in all.

    Raises:
        InputError: no zip archive, a damaged or encrypted one, one with names that lead out of the folder, links or
            more content than ``largest`` or than the disk takes.
    """
    path = Path(path)
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: it does not exist. Check the path.") from error
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise InputError(f"{path}: it is not a zip archive, or it is damaged. Copy or download it again.") from error
    with archive, tempfile.TemporaryDirectory(prefix="medsam-adapt-") as temporary:
        members = [member for member in archive.infolist() if not member.filename.endswith("/")]
        _check(path, members, min(largest, shutil.disk_usage(temporary).free))
        content = Path(temporary, "content")
        content.mkdir()
        try:
            for member in members:
                _extract(archive, member, content)
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise InputError(f"{path}: it cannot be unpacked, possibly damaged or encrypted. Save it again.") from error
        yield _innermost(content).rename(Path(temporary, path.stem or "archive"))


def _check(path: Path, members: list[zipfile.ZipInfo], largest: int) -> None:
    if not members or len(members) > _MOST_FILES:
        raise InputError(f"{path}: it holds {counted(len(members), 'file')}. Give an archive of one case.")
    total = sum(member.file_size for member in members)
    if total > largest:
        raise InputError(f"{path}: it holds {total:,} bytes, and {largest:,} are free. Unpack it yourself.")
    seen = set()
    for member in members:
        name = PurePosixPath(member.filename)
        outside = name.is_absolute() or ".." in name.parts or "\\" in member.filename or ":" in (*name.parts, ":")[0]
        kind = stat.S_IFMT(member.external_attr >> 16)
        if outside or kind not in (0, stat.S_IFREG) or name in seen:
            raise InputError(
                f"{path}: it holds links, names that lead out of its folder, or a name twice. Unpack it yourself and "
                "check its files."
            )
        if member.file_size > DEFLATE_RATIO * member.compress_size and member.file_size:
            raise InputError(f"{path}: it claims more content than it can hold. Copy or download it again.")
        seen.add(name)


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> None:
    target = folder / member.filename
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(member) as source, target.open("xb") as file:
        shutil.copyfileobj(source, file, CHUNK)  # gives no more than the size that was checked


def _innermost(folder: Path) -> Path:
    visible = [path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX"))]
    return _innermost(visible[0]) if len(visible) == 1 and visible[0].is_dir() else folder
