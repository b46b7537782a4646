"""A data set as a plain copy, by this process or by the workers of a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.json_files import peek_object
from medsam_adapt.core.parts import Part
from medsam_adapt.data.datasets.cases import find_cases
from medsam_adapt.data.datasets.convert import LIST_FILE, Converted, convert_cases
from medsam_adapt.data.datasets.relabel import Changes
from medsam_adapt.workflows.cluster_parts import do_on_cluster
from medsam_adapt.workflows.reporter import SILENT, Reporter


@dataclass(frozen=True)
class Conversion:
    """What is copied, and how; as `convert_cases` takes it.

    Attributes:
        root: the data set.
        output: the folder to make.
        layout: of ``root``.
        changes: other ids and names for its labels.
        classes: names of the classes to keep.
        overwrite: replace a copy that is there.
        series: of DICOM folders.
        device: none is used.
    """

    root: Path
    output: Path
    layout: str = "auto"
    changes: Changes | None = None
    classes: Sequence[str] | None = None
    overwrite: bool = False
    series: str | None = None
    device: str = "cpu"

    def elsewhere(self) -> Conversion:
        """The same for processes with another working folder."""
        return replace(self, root=self.root.absolute(), output=self.output.absolute())

    def on(self, device: str) -> Conversion:
        """The same: no device is used."""
        return self

    @cached_property
    def ids(self) -> list[str]:
        """All cases."""
        return [case.id for case in find_cases(self.root, self.layout, need_labels=False, series=self.series).cases]

    def do_part(self, part: Part, reporter: Reporter) -> None:
        """Copy one part of the cases."""
        self.convert(part, reporter)

    def convert(self, part: Part | None = None, reporter: Reporter = SILENT) -> Converted:
        """Copy the cases of a part, or all; raises InputError as `convert_cases`."""
        with reporter.progress("converting") as progress:
            return convert_cases(
                self.root,
                self.output,
                self.layout,
                self.changes,
                self.classes,
                self.overwrite,
                lambda doing, case, total: progress.update(1, total=2 * total, detail=f"{doing} {case}"),
                self.series,
                part,
            )

    def convert_on(self, address: str, reporter: Reporter = SILENT) -> Converted:
        """Copy all cases by the workers of a cluster; raises InputError as `convert_cases` and `open_cluster`."""
        if self.overwrite:
            raise InputError("--overwrite: it does not go with --cluster. Remove the old copy first.")
        do_on_cluster(self, address, "converting", reporter)
        listed = peek_object(self.output / LIST_FILE)
        if not listed:  # two parts that finished at the same moment, of which neither saw the other's files
            return self.convert(Part(1, 1), reporter)
        classes = {int(class_id): name for class_id, name in listed["labels"].items() if name != "ignore"}
        unlabelled = tuple(entry["id"] for entry in listed["training"] if "label" not in entry)
        return Converted(classes, tuple(entry["id"] for entry in listed["training"]), unlabelled)
