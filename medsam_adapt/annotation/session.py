"""A folder of scans that are being labelled: which ones there are, which are open, and what is saved."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from medsam_adapt.annotation.drawing import Author, Drawing
from medsam_adapt.annotation.label_files import LabelFiles, Status
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.folder_lock import FolderLock
from medsam_adapt.data.slices.geometry import volume_to_slices
from medsam_adapt.data.volumes.image_set import ImageSet, ImageSource
from medsam_adapt.data.volumes.io import read_volume, to_ras

SAVE_EVERY = 0.5  # seconds between looks for labels to write; until then the journal has what changed
_REST = 20  # times as long as writing a label took, nothing is written of it: 5 % of the time at most …
_LONGEST_REST = 60.0  # … but not longer than this, seconds
_OPEN = 2  # scans that are kept in memory
WorkedOn = Literal["leave", "keep", "replace"]


@dataclass(frozen=True)
class Scan:
    """One scan of the session.

    Attributes:
        id: unique, and the name of the files that belong to it.
        image: the volume's file, the folder of a DICOM series, or the images of a case.
        label: a label that came with the scan, if there is one.
        series: which series, where the folder has several.
    """

    id: str
    image: ImageSource
    label: Path | None = None
    series: str | None = None

    @property
    def images(self) -> tuple[str, ...]:
        """Names of the images of a case; none for one."""
        return self.image.names if isinstance(self.image, ImageSet) else ()


class Session:
    """Scans, classes and the output folder of one annotation server; safe to use from several threads.

    Args:
        scans: in the order in which they are listed.
        classes: label id -> name.
        output: folder of what is written.
        person: name of who draws, as provenance has it.

    Attributes:
        notes: what went wrong while saving, in sentences; the page shows them.
    """

    def __init__(self, scans: Iterable[Scan], classes: Mapping[int, str], output: Path, person: str = "person") -> None:
        self.scans = {scan.id: scan for scan in scans}
        self.classes = dict(classes)
        self.files = LabelFiles(output)
        self.person = Author("person", person)
        self.notes: list[str] = []
        self._open: OrderedDict[str, Drawing] = OrderedDict()
        self._statuses: dict[str, Status] = {}
        self._lock = threading.RLock()  # of the two above; never held while a volume is read or written
        self._loading, self._saving = threading.Lock(), threading.RLock()
        self._resting: dict[str, float] = {}  # scan -> until when its label is not written again
        self._stopped = threading.Event()
        self._saver: threading.Thread | None = None
        self._folder_lock: FolderLock | None = None
        self.on_close: list[Callable[[Drawing], None]] = []  # called with a drawing that leaves the memory

    @property
    def images(self) -> tuple[str, ...]:
        """Names of the images of each case; none where a case has one."""
        return next((scan.images for scan in self.scans.values()), ())

    @property
    def output(self) -> Path:
        """Folder of what is written, in the layout ``folder``."""
        return self.files.output

    def status(self, scan: str) -> Status:
        """``labelled`` when a person finished the label, ``proposed`` for a draft, ``open`` without a label."""
        with self._lock:
            if scan not in self._statuses:
                came_with_label = self.scans[scan].label is not None and not self.files.draft(scan).is_file()
                self._statuses[scan] = "labelled" if came_with_label else self.files.status(scan)
            return self._statuses[scan]

    def listing(self) -> list[dict[str, str]]:
        """``{"id": ..., "status": ...}`` of every scan, in order."""
        return [{"id": scan, "status": self.status(scan)} for scan in self.scans]

    def drawing(self, scan: str) -> Drawing:
        """The scan with its label, read when it is not in memory.

        Raises:
            KeyError: no such scan.
            InputError: a volume or a label that cannot be read.
        """
        with self._loading:
            with self._lock:
                if scan in self._open:
                    self._open.move_to_end(scan)
                    return self._open[scan]
            found = self.scans[scan]
            voxels, header = read_volume(found.image, found.series)
            drawing = Drawing.of(scan, voxels, header, found.images)
            for note in self.files.restore(drawing, found.label):
                self._note(note)
            with self._lock:
                self._open[scan] = drawing
                closed = [self._open.popitem(last=False)[1] for _ in range(len(self._open) - _OPEN)]
        for each in closed:
            self._save(each)
            for call in self.on_close:
                call(each)
        return drawing

    @contextmanager
    def changing(self, scan: str) -> Iterator[Drawing]:
        """The scan with its label for a block that changes it.

        While the session is started, the change is in the journal at the end of the block, and in the label's file
        soon after.

        Raises:
            KeyError, InputError: as `drawing`.
        """
        while True:
            drawing = self.drawing(scan)
            with self._lock:
                if self._open.get(scan) is not drawing:  # it left the memory in between
                    continue
                with drawing.lock:
                    try:
                        yield drawing
                    finally:
                        self._keep(drawing)
                if drawing.version != drawing.saved and self.status(scan) == "open":
                    self._statuses[scan] = "proposed"
                return

    def _keep(self, drawing: Drawing) -> None:
        """Write what changed to the journal, whose lock on the folder the session has."""
        if self._folder_lock is None:
            return
        try:
            self.files.journal.append(drawing)
        except OSError as error:
            self._note(f"{self.files.journal.folder}: changes cannot be written ({error.strerror}). Free disk space.")

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def set_labelled(self, scan: str, labelled: bool) -> Status:
        """A person finishes the label of a scan, or takes that back; saved at once.

        Raises:
            KeyError, InputError: as `drawing`; also for a label that cannot be written.
        """
        drawing = self.drawing(scan)
        with self._lock:
            self._statuses[scan] = "labelled" if labelled else "proposed"
        if labelled:
            with drawing.lock:
                drawing.accepted |= {*self.classes}
        self._save(drawing, always=True)
        return self.status(scan)

    def propose(self, scan: str, label: np.ndarray, author: Author, worked_on: WorkedOn = "leave") -> bool:
        """Take a model's label of a whole scan as a draft, which can be undone.

        Args:
            scan: the scan's id.
            label: (X, Y, Z) class ids of this session, in the axis order of the scan's file.
            author: the model.
            worked_on: what to do with a scan that a person has worked on: ``leave`` it as it is, ``keep`` the
                structures of the person's work and take all others, or ``replace`` them.

        Returns:
            Whether the label was taken; that of a scan with a finished label never is.

        Raises:
            KeyError, InputError: as `drawing`.
        """
        with self.changing(scan) as drawing:
            theirs = sorted(drawing.worked_on())
            if self.status(scan) == "labelled" or (theirs and worked_on == "leave"):
                return False
            new, _ = to_ras(np.asarray(label, np.uint8), drawing.header.affine)
            if worked_on == "keep" and theirs:
                stays = np.isin(drawing.label, theirs)
                new = np.where(stays, drawing.label, np.where(np.isin(new, theirs), 0, new))
            slices, old = volume_to_slices(new, "axial"), drawing.slices("axial")
            changed = {index: new for index, new in enumerate(slices) if not np.array_equal(new, old[index])}
            drawing.paint("axial", changed, author)
            if worked_on == "replace":
                drawing.prompts, drawing.edited, drawing.accepted = {}, {}, set()
        self._save(drawing)
        return True

    def training_folder(self) -> Path:
        """The output as a data set in the layout ``folder``: every labelled scan with its label.

        Labels that came with the scans are written there too.

        Raises:
            InputError: no scan is labelled, or a label cannot be read.
        """
        labelled = [scan for scan in self.scans if self.status(scan) == "labelled"]
        if not labelled:
            raise InputError(f"{self.output}: no scan is labelled yet. Finish the label of a scan first.")
        for scan in labelled:
            if not self.files.label(scan).is_file():
                self._save(self.drawing(scan), always=True)
        self.files.write_classes(self.classes)
        self.save()
        return self.output

    def save(self) -> None:
        """Write every change that is not on disk yet."""
        with self._lock:
            drawings = list(self._open.values())
        for drawing in drawings:
            self._save(drawing)

    def _save(self, drawing: Drawing, always: bool = False) -> None:
        with self._saving:
            if drawing.version == drawing.saved and not always:
                return
            with self._lock:
                status = self.status(drawing.id)
                self._statuses[drawing.id] = status = "proposed" if status == "open" else status
            if not (self.output / "labels.json").is_file():
                self.files.write_classes(self.classes)
            began = time.monotonic()
            for note in self.files.write(drawing, self.classes, status):
                self._note(note)
            took = time.monotonic() - began
            self._resting[drawing.id] = time.monotonic() + min(_REST * took, _LONGEST_REST)

    def start(self) -> None:
        """Lock the output folder, take over what a crash left in the journal, and save changes until `close`.

        Raises:
            InputError: another server writes to the output folder.
        """
        self.files.write_classes(self.classes)
        lock = FolderLock(self.output, "annotated")
        lock.hold()
        self._folder_lock = lock
        self._recover()
        self._saver = threading.Thread(target=self._keep_saving, name="autosave", daemon=True)
        self._saver.start()

    def _recover(self) -> None:
        """Write the labels of scans whose journal a crash left."""
        for scan in self.files.journal.scans():
            if scan in self.scans:
                try:
                    self._save(self.drawing(scan), always=True)
                except (InputError, OSError) as error:  # the journal stays
                    self._note(str(error))

    def _keep_saving(self) -> None:
        while not self._stopped.wait(SAVE_EVERY):
            with self._lock:
                drawings = [each for id, each in self._open.items() if time.monotonic() >= self._resting.get(id, 0)]
            for drawing in drawings:
                try:
                    self._save(drawing)
                except (InputError, OSError) as error:  # a full disk: the next look tries again
                    self._note(str(error))

    def close(self) -> None:
        """Save everything and release the output folder."""
        self._stopped.set()
        if self._saver is not None:
            self._saver.join()
        self.save()
        if self._folder_lock is not None:
            self._folder_lock.release()
            self._folder_lock = None
