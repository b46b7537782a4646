"""What a session keeps on disk: finished labels in the layout ``folder``, drafts, and who drew what.

OUTPUT/
  images/ID.nii.gz       a link to the scan (a copy where links are not possible), only of finished scans
  images/ID/NAME.nii.gz  the same of each image of a case that has several; of 4D files and DICOM series a copy
  labels/ID.nii.gz       finished labels
  labels.json            names of the classes
  drafts/ID.nii.gz       labels that no person has finished
  journal/ID.*.jsonl     changes since then, see `journal`
  provenance/ID.json     who drew what, by class and slice; ID.nii.gz: the number of each voxel's author
  dicom_seg/ID_seg.dcm   finished labels of DICOM series
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medsam_adapt.annotation.drawing import Author, Drawing
from medsam_adapt.annotation.journal import Journal
from medsam_adapt.annotation.records import authors_from, edited_from, prompts_from, provenance
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import folder_written_whole, write_json, written_whole
from medsam_adapt.core.json_files import peek_object, read_json
from medsam_adapt.data.datasets.layouts import class_map
from medsam_adapt.data.volumes.image_set import ImageSetHeader, reference_series
from medsam_adapt.data.volumes.io import FORMATS, read_label, write_label, write_volume
from medsam_adapt.outputs import Segmentation, get_format

Status = Literal["labelled", "proposed", "open"]


class LabelFiles:
    """The files below one output folder.

    Args:
        output: the folder; it is made when something is written.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.journal = Journal(output / "journal")

    def label(self, scan: str) -> Path:
        """Where a finished label is."""
        return self.output / "labels" / f"{scan}.nii.gz"

    def draft(self, scan: str) -> Path:
        """Where a label that is not finished is."""
        return self.output / "drafts" / f"{scan}.nii.gz"

    def provenance(self, scan: str) -> Path:
        """Where it is written who drew what."""
        return self.output / "provenance" / f"{scan}.json"

    def drawn_by(self, scan: str) -> Path:
        """Where the number of each voxel's author is."""
        return self.output / "provenance" / f"{scan}.nii.gz"

    def dicom_seg(self, scan: str) -> Path:
        """Where the DICOM segmentation of a series is."""
        return self.output / "dicom_seg" / f"{scan}_seg.dcm"

    def status(self, scan: str) -> Status:
        """What is on disk of a scan."""
        if self.label(scan).is_file():
            return "labelled"
        return "proposed" if self.draft(scan).is_file() or self.journal.has(scan) else "open"

    def classes(self) -> dict[int, str]:
        """Label id -> name, as an earlier session wrote them."""
        path = self.output / "labels.json"
        return class_map(read_json(path), path) if path.is_file() else {}

    def write_classes(self, classes: Mapping[int, str]) -> None:
        """Write the names of the classes."""
        self.output.mkdir(parents=True, exist_ok=True)
        write_json(self.output / "labels.json", {str(number): name for number, name in classes.items()})

    def restore(self, drawing: Drawing, imported: Path | None = None) -> list[str]:
        """Put what is on disk into a drawing: a finished label, a draft, or a label that came with the scan.

        Returns:
            What could not be restored after a crash.

        Raises:
            InputError: a label that cannot be read, or with more classes than are drawn here.
        """
        path = next((path for path in (self.label(drawing.id), self.draft(drawing.id)) if path.is_file()), imported)
        if path is not None:
            self._restore_label(drawing, path, path != imported)
        return self.journal.replay(drawing)

    def _restore_label(self, drawing: Drawing, path: Path, is_ours: bool) -> None:
        label, _ = read_label(path, like=drawing.header)
        if label.max(initial=0) > 255:
            raise InputError(f"{path}: it has a label above 255, and annotate draws labels up to 255. Renumber them.")
        drawn_by = None
        if is_ours:
            _restore_provenance(drawing, peek_object(self.provenance(drawing.id)))
            if self.drawn_by(drawing.id).is_file():
                drawn_by, _ = read_label(self.drawn_by(drawing.id), like=drawing.header)
        drawing.place(label, Author("imported", path.name), drawn_by)

    def write(self, drawing: Drawing, classes: Mapping[int, str], status: Status) -> list[str]:
        """Write a drawing, each file whole or not at all; a finished one with its image and DICOM segmentation.

        The journal of what is written is removed.

        Returns:
            Why a DICOM segmentation could not be written, if so; the label itself is written all the same.

        Raises:
            InputError: a file cannot be written.
        """
        notes: list[str] = []
        with drawing.lock:
            following = self.journal.begin_file(drawing.id)
            copied = drawing.snapshot()
        finished = status == "labelled"
        path = self.label(drawing.id) if finished else self.draft(drawing.id)
        for folder in (path.parent, self.provenance(drawing.id).parent):
            folder.mkdir(parents=True, exist_ok=True)
        write_label(path, copied.native(copied.label), drawing.header)
        write_json(self.provenance(drawing.id), provenance(copied, classes, status))
        write_label(self.drawn_by(drawing.id), copied.native(copied.drawn_by), drawing.header)
        if finished:
            self._link_image(drawing)
            notes += self._write_dicom(copied, classes)
            self.draft(drawing.id).unlink(missing_ok=True)
        else:
            self._unfinish(drawing)
        drawing.saved = max(drawing.saved, copied.version)
        self.journal.remove_before(drawing.id, following)
        return notes

    def _unfinish(self, drawing: Drawing) -> None:
        """Remove what only finished scans have, the label last: without its image it would be an error."""
        self.label(drawing.id).unlink(missing_ok=True)
        self.dicom_seg(drawing.id).unlink(missing_ok=True)
        image = self._image(drawing)
        if image.is_dir() and not image.is_symlink():
            shutil.rmtree(image)
        else:
            image.unlink(missing_ok=True)

    def _image(self, drawing: Drawing) -> Path:
        """The link to the scan, or the folder of its images."""
        suffix = "" if drawing.images else _suffix(drawing.header.path)
        return self.output / "images" / f"{drawing.id}{suffix}"

    def _link_image(self, drawing: Drawing) -> None:
        image = self._image(drawing)
        if image.exists():
            return
        image.parent.mkdir(parents=True, exist_ok=True)
        image.unlink(missing_ok=True)  # a link that leads nowhere
        if isinstance(drawing.header, ImageSetHeader):
            with folder_written_whole(image) as folder:
                _write_images(folder, drawing, drawing.header)
        else:
            _link(image, drawing.header.path.resolve())

    def _write_dicom(self, drawing: Drawing, classes: Mapping[int, str]) -> list[str]:
        """The DICOM segmentation of a series; returns why there is none."""
        series = reference_series(drawing.header)
        if series is None:
            return []
        path = self.dicom_seg(drawing.id)
        path.parent.mkdir(parents=True, exist_ok=True)
        kinds = {drawing.authors[number - 1].kind for number in np.unique(drawing.drawn_by).tolist() if number}
        drawn: Literal["by a model", "by people", "by both"]
        drawn = "by a model" if kinds == {"model"} else "by people" if "model" not in kinds else "by both"
        label = np.ascontiguousarray(drawing.native(drawing.label))
        segmentation = Segmentation(label, list(classes.values()), list(classes), drawn=drawn)
        dicom_seg = get_format("dicom-seg")
        try:
            dicom_seg.require()
            dicom_seg.write(path, segmentation, series)
        except InputError as error:
            return [f"{drawing.id}: no DICOM segmentation was written, the label is in {self.output}. {error}"]
        return []


def _suffix(path: Path) -> str:
    return "" if path.is_dir() else next(end for end in FORMATS if path.name.lower().endswith(end))


def _link(image: Path, source: Path) -> None:
    """A link to a file or folder, or a copy of it on Windows without the right to, or on a disk without links."""
    try:
        image.symlink_to(source, target_is_directory=source.is_dir())
    except OSError:
        if source.is_dir():
            shutil.copytree(source, image)
        else:
            with written_whole(image) as temporary:
                shutil.copyfile(source, temporary)


def _write_images(folder: Path, drawing: Drawing, header: ImageSetHeader) -> None:
    """The images of a case by name, as the layout ``folder`` has them: links to their files, and copies of all else."""
    for number, name in enumerate(drawing.images):
        path = None if header.source.is_4d else header.source.files[number]
        if path is not None and path.is_file():
            _link(folder / f"{name}{_suffix(path)}", path.resolve())
        elif name not in header.source.missing:  # one of a 4D file, or a series, which may share its folder with others
            write_volume(folder / f"{name}.nii.gz", drawing.native(drawing.grey(number)), header)


def _restore_provenance(drawing: Drawing, record: Mapping[str, Any]) -> None:
    """Take over authors and prompts of an earlier session, unless the file is damaged."""
    try:
        drawing.authors = authors_from(record.get("authors", ()))
        drawing.prompts = prompts_from(record.get("prompts", ()))
        drawing.edited = edited_from(record.get("edited", ()))
        drawing.accepted = {int(each) for each in record.get("accepted", ())}
        for content in record.get("classes", {}).values():
            for index, there in content["axial_slices"].items():
                for author, count in there.get("erased", {}).items():
                    of_author = drawing.erased.setdefault(int(author), {})
                    of_author.setdefault(int(content["label"]), {})[int(index)] = int(count)
    except (KeyError, TypeError, ValueError, AttributeError):
        drawing.authors, drawing.prompts, drawing.erased, drawing.edited, drawing.accepted = [], {}, {}, {}, set()
