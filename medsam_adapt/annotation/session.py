"""A folder of scans that are being labelled: which ones there are, which are open, and what is saved."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medsam_adapt.annotation.drawing import Author, Drawing
from medsam_adapt.annotation.label_files import LabelFiles, Status
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.folder_lock import FolderLock
from medsam_adapt.core.text import class_key
from medsam_adapt.data.datasets.cases import find_cases, recognised_layout
from medsam_adapt.data.volumes.image_set import ImageSet, ImageSource
from medsam_adapt.data.volumes.io import PICTURES, read_volume
from medsam_adapt.data.volumes.label_coding import EXCLUSIVE
from medsam_adapt.prediction.inputs import find_inputs

SAVE_EVERY = 0.5  # seconds between looks for unsaved changes: a crash may cost two seconds of work at most
_OPEN = 2  # scans that are kept in memory
_LARGEST_CLASS = 255  # of a label in a byte


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
        self._lock = threading.RLock()  # of the two above; never held while a file is read or written
        self._loading, self._saving = threading.Lock(), threading.RLock()
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
                status = self.files.status(scan)
                self._statuses[scan] = "labelled" if status == "open" and self.scans[scan].label else status
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
            self.files.restore(drawing, found.label)
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
        """The scan with its label for a block that changes it; the change is saved soon after.

        Raises:
            KeyError, InputError: as `drawing`.
        """
        while True:
            drawing = self.drawing(scan)
            with self._lock:
                if self._open.get(scan) is not drawing:  # it left the memory in between
                    continue
                with drawing.lock:
                    yield drawing
                if drawing.version != drawing.saved and self.status(scan) == "open":
                    self._statuses[scan] = "proposed"
                return

    def set_labelled(self, scan: str, labelled: bool) -> Status:
        """A person finishes the label of a scan, or takes that back; saved at once.

        Raises:
            KeyError, InputError: as `drawing`; also for a label that cannot be written.
        """
        drawing = self.drawing(scan)
        with self._lock:
            self._statuses[scan] = "labelled" if labelled else "proposed"
        self._save(drawing, always=True)
        return self.status(scan)

    def propose(self, scan: str, label: np.ndarray, author: Author) -> bool:
        """Take a model's label of a whole scan as a draft, unless a person has worked on the scan.

        Args:
            scan: the scan's id.
            label: (X, Y, Z) class ids of this session, in the axis order of the scan's file.
            author: the model.

        Returns:
            Whether the label was taken.

        Raises:
            KeyError, InputError: as `drawing`.
        """
        with self.changing(scan) as drawing:
            if self.status(scan) == "labelled" or any(each.kind == "person" for each in drawing.authors):
                return False
            drawing.place(label, author)
            drawing.drawn_by[drawing.label > 0] = drawing.number_of(author)
            drawing.version += 1
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
            for note in self.files.write(drawing, self.classes, status):
                if note not in self.notes:
                    self.notes.append(note)

    def start(self) -> None:
        """Lock the output folder and save changes every half second until `close`.

        Raises:
            InputError: another server writes to the output folder.
        """
        self.files.write_classes(self.classes)
        self._folder_lock = FolderLock(self.output, "annotated")
        self._folder_lock.hold()
        self._saver = threading.Thread(target=self._keep_saving, name="autosave", daemon=True)
        self._saver.start()

    def _keep_saving(self) -> None:
        while not self._stopped.wait(SAVE_EVERY):
            try:
                self.save()
            except (InputError, OSError) as error:  # a full disk: the next look tries again
                if str(error) not in self.notes:
                    self.notes.append(str(error))

    def close(self) -> None:
        """Save everything and release the output folder."""
        self._stopped.set()
        if self._saver is not None:
            self._saver.join()
        self.save()
        if self._folder_lock is not None:
            self._folder_lock.release()


def open_session(
    folder: Path,
    classes: Sequence[str] = (),
    output: Path | None = None,
    series: str | None = None,
    person: str = "person",
    known: Mapping[int, str] | None = None,
    images: Sequence[str] = (),
) -> Session:
    """The session of a folder of scans; opens no volume and writes nothing.

    Args:
        folder: scans, or a data set in a layout that ``train`` knows, with labels or without.
        classes: names of the structures; those of the data set, of an earlier session, or ``known`` come first.
        output: where labels are written; beside ``folder`` when None.
        series: number, UID or description of the DICOM series wanted.
        person: who draws.
        known: label id -> name that a model knows.
        images: names of the images of a case that a model takes together, by which they are found where the folder is
            no data set.

    Raises:
        InputError: no scans, no classes, classes that contradict an earlier session.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: it is not a folder. Give a folder of scans.")
    output = output or folder.absolute().with_name(f"{folder.absolute().name}_annotated")
    scans, named = _scans_in(folder, series, images)
    earlier = LabelFiles(output).classes()
    names = _merged(named, earlier, dict(known or {}), [name.strip() for name in classes if name.strip()])
    if not names:
        raise InputError("--classes: none are given, and the folder has no labels.json. Give names as in liver,spleen.")
    if max(names) > _LARGEST_CLASS:
        raise InputError(f"{output}/labels.json: label ids go up to {_LARGEST_CLASS} here. Renumber the classes.")
    return Session(scans, names, output, person)


def _scans_in(folder: Path, series: str | None, images: Sequence[str]) -> tuple[list[Scan], dict[int, str]]:
    """The scans, and the classes of labels that came with them."""
    known = recognised_layout(folder)
    volumes = find_inputs(folder, images=images or None, series=series).volumes
    scans = {id: Scan(id, image, series=_series_of(image, series)) for id, image in volumes.items()}
    if pictures := [path for path in volumes.values() if isinstance(path, Path) and path.suffix.lower() in PICTURES]:
        raise InputError(f"{pictures[0]}: it is a picture, and annotate draws on volumes. Give a folder of volumes.")
    classes: dict[int, str] = {}
    if known:
        layout = f"{known}:{','.join(images)}" if images and known == "dicom" else known
        cases = find_cases(folder, layout, need_labels=False, series=series)
        if cases.coding == EXCLUSIVE:
            classes = cases.classes
            labelled = [each for each in cases.cases if each.label]
            scans |= {each.id: Scan(each.id, each.image, each.label, each.series) for each in labelled}
    return [scans[id] for id in sorted(scans)], classes


def _series_of(image: ImageSource, series: str | None) -> str | None:
    """The series wanted of a folder of DICOM files; those of several images are known by their names."""
    return series if isinstance(image, Path) and image.is_dir() else None


def _merged(
    named: Mapping[int, str], earlier: Mapping[int, str], known: Mapping[int, str], added: Sequence[str]
) -> dict[int, str]:
    """All classes by label id: of an earlier session or the data set, of the model, and the ones added.

    Raises:
        InputError: the data set and the earlier session give one number to two classes.
    """
    names = dict(earlier or named)
    for number, name in named.items():
        if class_key(names.get(number, name)) != class_key(name):
            raise InputError(
                f"--output: an earlier session called label {number} '{names[number]}', and the folder calls it "
                f"'{name}'. Name another folder."
            )
        names.setdefault(number, name)
    wanted = {class_key(name) for name in added}
    suggested = {number: name for number, name in known.items() if not wanted or class_key(name) in wanted}
    for number, name in [*suggested.items(), *((0, name) for name in added)]:
        if class_key(name) not in {class_key(each) for each in names.values()}:
            free = number if number and number not in names else max(names, default=0) + 1
            names[free] = name
    return dict(sorted(names.items()))
