"""The JSON of ``predict --report``: what was segmented with what, case by case.

While cases are segmented, each is one line appended to ``report.jsonl``, so that what is written per case does not grow
with their number. ``report.json`` is written as the cases begin and, with all of them, when they are done; then the
lines are removed. A killed process leaves both, and the next one reads both. ``finished`` is true once the command has
come to its end.

Of several processes with a part of the cases each, each writes a report of its part, and the last one to finish writes
that of all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import write_json
from medsam_adapt.core.json_files import peek_object
from medsam_adapt.core.parts import Part
from medsam_adapt.core.versions import versions
from medsam_adapt.data.datasets.layouts import read_object
from medsam_adapt.prediction.quality_flags import Flag
from medsam_adapt.runs.record import RunRecord


class JsonReport:
    """The report of one command; a context that writes the whole at its end, however it ends.

    Args:
        path: the file, None for none.
        records: of the runs, by folder.
        device: on which they run.
        options: of the command, as they were given.
        earlier: entries of cases that were done before.
        notes: what a reader of the report must know.
        keep_identifiers: whether to write the complete paths of the inputs, not only their names.
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
        self._devices: set[str] = set()
        self._precisions: set[str] = set()
        record = next(iter(records.values()))
        self.content: dict[str, Any] = {
            "versions": versions(),
            "device": device,
            "runs": [{"folder": str(folder), "bundle": each.bundle} for folder, each in records.items()],
            "classes": dict(zip(record.class_names, record.label_ids, strict=True)),
            "options": {name: self._as_reported(value) for name, value in options.items()},
            "notes": list(notes),
            "finished": False,
            "cases": dict(earlier),
            "failed": {},
        }
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._write()

    def __enter__(self) -> JsonReport:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.content["finished"] = kind is None
        for cases in ("cases", "failed"):  # several processes finish them in another order each time
            self.content[cases] = dict(sorted(self.content[cases].items()))
        self._write()

    def ran_on(self, device: str, precision: str) -> None:
        """A device that cases were segmented on, and its precision, where other processes choose them."""
        self._devices.add(device)
        self._precisions.add(precision)
        self.content["device"] = ", ".join(sorted(self._devices))
        self.content["options"]["precision"] = ", ".join(sorted(self._precisions))

    def add(self, name: str, entry: Mapping[str, Any], source: Path) -> None:
        """A case that is done, and the file or folder that it was read from."""
        self._append("cases", name, {**entry, "input": self._as_reported(source)})

    def fail(self, name: str, error: InputError, source: Path) -> None:
        """A case that could not be done."""
        self._append("failed", name, str(error).replace(str(source), self._as_reported(source)))

    def _as_reported(self, value: Any) -> Any:
        """A value as the report has it: of a path, what it is called; folders are often called after patients."""
        if isinstance(value, Path):
            return str(value) if self.keep_identifiers else value.name
        return value

    def _append(self, kind: str, name: str, value: Any) -> None:
        self.content[kind][name] = value
        if self.path is not None:
            line = json.dumps([kind, name, value], ensure_ascii=False, separators=(",", ":"))
            with lines_of(self.path).open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def _write(self) -> None:
        """The whole report, which then holds what the lines do."""
        if self.path is not None:
            write_json(self.path, self.content)
            lines_of(self.path).unlink(missing_ok=True)


def case_entry(
    seconds: float, volumes_ml: Mapping[str, float], flags: Sequence[Flag], files: Mapping[str, Path]
) -> dict[str, Any]:
    """What the report states about one case; `JsonReport.add` adds where it was read from.

    Args:
        seconds: that it took.
        volumes_ml: of each class.
        flags: for review.
        files: what was written, by kind.
    """
    return {
        "seconds": seconds,
        "volumes_ml": dict(volumes_ml),
        "flags": [flag.model_dump() for flag in flags],
        "files": {kind: str(path) for kind, path in files.items()},
    }


def lines_of(path: Path) -> Path:
    """Where the cases of a report are appended while it is made."""
    return path.with_suffix(".jsonl") if path.suffix == ".json" else path.with_name(f"{path.name}.jsonl")


def earlier_cases(path: Path) -> dict[str, Any]:
    """The cases of a report that is there, whole or left by a killed process; none of one that is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["cases"]
    except (OSError, ValueError, KeyError, TypeError):
        found = {}
    cases: dict[str, Any] = dict(found) if isinstance(found, dict) else {}
    lines = lines_of(path)
    for line in lines.read_text(encoding="utf-8", errors="replace").splitlines() if lines.is_file() else ():
        try:
            kind, name, value = json.loads(line)
        except (ValueError, TypeError):  # the kill came while it was written
            continue
        if kind == "cases" and isinstance(name, str):
            cases[name] = value
    return cases


def ran_on(*paths: Path | None) -> tuple[str, str] | None:
    """Device and precision of the first of these reports that states them; None where none does."""
    for path in paths:
        content = {} if path is None else peek_object(path)
        options = content.get("options")
        found = content.get("device"), options.get("precision") if isinstance(options, dict) else None
        if isinstance(found[0], str) and isinstance(found[1], str):
            return found[0], found[1]
    return None


def recorded_cases(path: Path) -> set[str] | None:
    """The cases in a report whose command was interrupted; None where there is no such report.

    A case that was being finished then may have its masks and no record.
    """
    content = peek_object(path)
    if content.get("finished", bool(content)) or not (content or lines_of(path).is_file()):
        return None
    return {*earlier_cases(path)}


def complete_report(path: Path) -> None:
    """Put the lines that a killed process left into its report, where both are there."""
    if not lines_of(path).is_file() or not path.is_file():
        return
    content = read_object(path)
    write_json(path, {**content, "finished": True, "cases": dict(sorted(earlier_cases(path).items()))})
    lines_of(path).unlink()


def report_of_part(path: Path, part: Part) -> Path:
    """The report of one part of the cases, beside that of all: ``report.2-of-8.json``."""
    return path.with_name(f"{path.stem}.{part}{path.suffix}")


def merge_reports(path: Path, count: int) -> list[int]:
    """Write the report of all parts once each part has finished; returns the numbers of those that have not.

    Parts that finish at the same time write the same report.

    Args:
        path: of the report of all.
        count: of the parts.
    """
    if path.parent.is_dir():
        with os.scandir(path.parent):  # opened, or NFS may still hold that a file of another host is not there
            pass
    parts = {number: report_of_part(path, Part(number, count)) for number in range(1, count + 1)}
    contents = {number: peek_object(part) for number, part in parts.items()}
    missing = [number for number, content in contents.items() if not content.get("finished")]
    if not missing:
        merged = {**contents[1]}
        for kind in ("cases", "failed"):
            merged[kind] = dict(sorted(item for content in contents.values() for item in content[kind].items()))
        merged["notes"] = list(dict.fromkeys(note for content in contents.values() for note in content["notes"]))
        write_json(path, merged)
    return missing
