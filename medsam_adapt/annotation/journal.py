"""Changes of a label that no whole file holds yet, in small files that are appended to while a person draws.

A whole label of a large volume takes seconds to write; a change takes milliseconds. So every change is written here
before the page hears that it has arrived, and is put onto the label again when the scan is opened after a crash. Once a
label is written whole, the changes in it are removed.

OUTPUT/journal/ID.000001.jsonl has one line per change: a checksum, and JSON with the slices as they are after it.
Lines that are applied twice in their order give the same label as once, so a crash between the writing of a whole label
and the removal of its journal does no harm.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medsam_adapt.annotation.drawing import Author, Drawing
from medsam_adapt.annotation.history import Prompts
from medsam_adapt.annotation.records import authors_from, edited_from, entries_of, prompts_from
from medsam_adapt.annotation.run_lengths import from_run_lengths, to_run_lengths
from medsam_adapt.config import Axis
from medsam_adapt.core.text import counted
from medsam_adapt.data.slices.geometry import volume_to_slices

_FORMAT = 1
_FILE = re.compile(r"(.+)\.(\d{6,})\.jsonl", re.DOTALL)
_BYTES = range(256)


class DamagedRecord(ValueError):
    """A line of a journal that is not whole, or does not belong to the scan."""


class Journal:
    """The journals of all scans of an output folder.

    Args:
        folder: of the files; it is made with the first one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._numbers: dict[str, int] = {}  # scan -> number of the file that is appended to

    def append(self, drawing: Drawing) -> None:
        """Write what changed since the last call; the caller holds the drawing's lock.

        Raises:
            OSError: it cannot be written; the next call writes these changes as well.
        """
        if not drawing.changed:
            return
        content = json.dumps(_record(drawing), separators=(",", ":")).encode()
        self.folder.mkdir(parents=True, exist_ok=True)
        # The first newline ends a line that a full disk cut off, so that it does not take this one with it.
        with self._path(drawing.id, self._number(drawing.id)).open("ab") as file:
            file.write(b"\n%08x %b\n" % (zlib.crc32(content), content))
        drawing.changed.clear()

    def begin_file(self, scan: str) -> int:
        """Let later changes go to a new file; returns its number."""
        self._numbers[scan] = max(self._files(scan), default=0) + 1
        return self._numbers[scan]

    def remove_before(self, scan: str, number: int) -> None:
        """Remove the files of a scan that are older than a number, the oldest first."""
        for each, path in self._files(scan).items():
            if each < number:
                path.unlink(missing_ok=True)

    def has(self, scan: str) -> bool:
        """Whether there are changes of a scan that its label may not have."""
        return len(self._files(scan)) > 0

    def scans(self) -> list[str]:
        """The scans that have changes, by name."""
        return sorted({scan for scan, _, _ in self._all()})

    def replay(self, drawing: Drawing) -> list[str]:
        """Put all changes of a scan onto its label.

        Returns:
            A note for every file with a line that was left out because it is damaged.
        """
        notes = []
        for path in self._files(drawing.id).values():
            lines = [line for line in path.read_bytes().split(b"\n") if line]
            damaged = 0
            for line in lines:
                try:
                    _Change.of(line, drawing).apply(drawing)
                except DamagedRecord:
                    damaged += 1
            if damaged:
                notes.append(
                    f"{path}: left out {counted(damaged, 'change')} of the label, damaged, and took "
                    f"{counted(len(lines) - damaged, 'other')}. "
                    f"Check what was drawn last on {drawing.id}."
                )
        _name_unknown_authors(drawing)
        return notes

    def _number(self, scan: str) -> int:
        return self._numbers[scan] if scan in self._numbers else self.begin_file(scan)

    def _path(self, scan: str, number: int) -> Path:
        return self.folder / f"{scan}.{number:06d}.jsonl"

    def _files(self, scan: str) -> dict[int, Path]:
        """The files of a scan by number, the oldest first."""
        return dict(sorted((number, path) for name, number, path in self._all() if name == scan))

    def _all(self) -> Iterator[tuple[str, int, Path]]:
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if named := _FILE.fullmatch(path.name):
                yield named[1], int(named[2]), path


@dataclass(frozen=True)
class _Change:
    """A line of a journal: slices as they are after a change, and what is kept beside the voxels."""

    version: int
    slices: dict[tuple[Axis, int], tuple[np.ndarray, np.ndarray]]
    authors: list[Author]
    prompts: Prompts
    edited: dict[int, dict[Axis, set[int]]]
    erased: dict[int, dict[int, dict[int, int]]]
    accepted: set[int]

    @classmethod
    def of(cls, line: bytes, drawing: Drawing) -> _Change:
        """The change of a line; raises DamagedRecord where it is not whole or does not fit the scan."""
        record = _checked(line)
        try:
            if tuple(record["shape"]) != drawing.shape:
                raise DamagedRecord("the scan has another size")
            return cls(
                int(record["version"]),
                _slices_from(record["slices"], drawing),
                authors_from(record["authors"]),
                prompts_from(record["prompts"]),
                edited_from(record["edited"]),
                _erased_from(record["erased"]),
                {int(each) for each in record["accepted"]},
            )
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise DamagedRecord(str(error)) from error

    def apply(self, drawing: Drawing) -> None:
        """Put it onto a label."""
        for (axis, index), (label, drawn_by) in self.slices.items():
            drawing.slices(axis)[index] = label
            _drawn_by(drawing, axis)[index] = drawn_by
        drawing.authors, drawing.prompts, drawing.edited = self.authors, self.prompts, self.edited
        drawing.erased, drawing.accepted = self.erased, self.accepted
        drawing.version = max(self.version, drawing.version + 1)


def _slices_from(
    entries: Iterable[tuple[Axis, int, list[int], list[int]]], drawing: Drawing
) -> dict[tuple[Axis, int], tuple[np.ndarray, np.ndarray]]:
    found = {}
    for axis, index, label, drawn_by in entries:
        shape = drawing.slices(axis)[index].shape
        found[axis, index] = (from_run_lengths(label, shape, _BYTES), from_run_lengths(drawn_by, shape, _BYTES))
    return found


def _erased_from(record: Mapping[str, Any]) -> dict[int, dict[int, dict[int, int]]]:
    return {
        int(author): {
            int(label): {int(index): int(count) for index, count in there.items()} for label, there in classes.items()
        }
        for author, classes in record.items()
    }


def _record(drawing: Drawing) -> dict[str, Any]:
    """What changed, and all that is kept beside the voxels."""
    return {
        "format": _FORMAT,
        "shape": drawing.shape,
        "version": drawing.version,
        "slices": [
            [axis, index, to_run_lengths(drawing.slices(axis)[index]), to_run_lengths(_drawn_by(drawing, axis)[index])]
            for axis, index in sorted(drawing.changed)
        ],
        **entries_of(drawing),
        "erased": drawing.erased,
    }


def _drawn_by(drawing: Drawing, axis: Axis) -> np.ndarray:
    return volume_to_slices(drawing.drawn_by, axis)


def _checked(line: bytes) -> Mapping[str, Any]:
    """The content of a line; raises DamagedRecord where it is not whole."""
    checksum, _, content = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(content):
        raise DamagedRecord("the checksum differs")
    try:
        record = json.loads(content)
    except ValueError as error:
        raise DamagedRecord("it is no JSON") from error
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        raise DamagedRecord("it has another format")
    return record


def _name_unknown_authors(drawing: Drawing) -> None:
    """Give voxels whose author was in a damaged line an author."""
    unknown = drawing.drawn_by > len(drawing.authors)
    if unknown.any():
        drawing.drawn_by[unknown] = drawing.number_of(Author("imported", "journal"))
