"""``report.json``: what was segmented with what, case by case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import write_json
from medsam_adapt.core.versions import versions
from medsam_adapt.runs.record import RunRecord


class Report:
    """``report.json``: written anew after each case, so that a run that is killed leaves the report of what it did.

    Args:
        path: the file, None for none.
        records: of the runs, by folder.
        device: on which they run.
        options: of the command, as they were given.
        earlier: entries of cases that were done before.
        notes: what a reader of the report must know.
        keep_identifiers: whether to tell where the inputs are, and not only what they are called.
    """

    def __init__(
        self,
        path: Path | None,
        records: Mapping[Any, RunRecord],
        device: str,
        options: Mapping[str, Any],
        earlier: Mapping[str, Any],
        notes: Sequence[str] = (),
        keep_identifiers: bool = False,
    ) -> None:
        self.path, self.keep_identifiers = path, keep_identifiers
        record = next(iter(records.values()))
        self.content: dict[str, Any] = {
            "versions": versions(),
            "device": device,
            "runs": [{"folder": str(folder), "bundle": each.bundle} for folder, each in records.items()],
            "classes": dict(zip(record.class_names, record.label_ids, strict=True)),
            "options": {name: self._told(value) for name, value in options.items()},
            "notes": list(notes),
            "cases": dict(earlier),
            "failed": {},
        }
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._write()

    def add(self, name: str, entry: Mapping[str, Any], source: Path) -> None:
        """A case that is done, and the file or folder that it was read from."""
        self.content["cases"][name] = {**entry, "input": self._told(source)}
        self._write()

    def fail(self, name: str, error: InputError, source: Path) -> None:
        """A case that could not be done."""
        self.content["failed"][name] = str(error).replace(str(source), self._told(source))
        self._write()

    def _told(self, value: Any) -> Any:
        """A value as the report has it: of a path, what it is called; folders are often called after patients."""
        if isinstance(value, Path):
            return str(value) if self.keep_identifiers else value.name
        return value

    def _write(self) -> None:
        if self.path is not None:
            write_json(self.path, self.content)
