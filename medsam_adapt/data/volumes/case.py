"""A case, one image with its label, and the cases of a data set."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medsam_adapt.data.volumes.image_set import ImageSet, ImageSource
from medsam_adapt.data.volumes.label_coding import EXCLUSIVE, LabelCoding, LabelSource

IGNORE = "ignore"  # the name of a label for voxels that nobody has labelled


@dataclass(frozen=True)
class Case:
    """One image, or several as a set, its label if there is one, and whose it is (its id where no patient is given).

    A label is one file, or ``masks``: a file for each class, by the class's id. Where the image is a folder of several
    DICOM series, ``series`` is the number, UID or description of one. ``problems``: class id -> why that class cannot
    be read from the label, which concerns only those who use it. ``notes`` are sentences about what was left out of
    the label. ``annotated``: names of the classes that somebody drew, as the data set lists them for this case; None
    for all. ``unannotated``: ids of the others, which may be in the image (`datasets.annotated`).
    """

    id: str
    image: ImageSource
    label: Path | None = None
    patient: str | None = None
    masks: dict[int, Path] = field(default_factory=dict, hash=False)
    series: str | None = None
    problems: dict[int, str] = field(default_factory=dict, hash=False)
    notes: tuple[str, ...] = ()
    annotated: tuple[str, ...] | None = None
    unannotated: frozenset[int] = frozenset()

    @property
    def label_source(self) -> LabelSource | None:
        """What `read_classes` reads; None where the case has no label."""
        return self.label or self.masks or None

    @property
    def patient_id(self) -> str:
        """What keeps the cases of one patient together."""
        return self.id if self.patient is None else self.patient

    def files(self) -> list[Path]:
        """The image or images, and the label's file or files."""
        return [*self.images, *([self.label] if self.label else self.masks.values())]

    @property
    def images(self) -> tuple[Path, ...]:
        """The files or folders of the image or images."""
        return self.image.present if isinstance(self.image, ImageSet) else (self.image,)

    @property
    def first_image(self) -> Path:
        """The image whose grid the label has."""
        return self.images[0]

    def entry(self) -> dict[str, Any]:
        """{id, image, label} as text, for the transforms of whole volumes; of masks {class id: mask} is the label.

        Of several images the paths are a list, as in MONAI's datalists.
        Where classes are not annotated, ``unannotated`` lists their label ids in one text.
        """
        label = str(self.label) if self.label else {class_id: str(path) for class_id, path in self.masks.items()}
        image = self.image.entry() if isinstance(self.image, ImageSet) else str(self.image)
        entry = {"id": self.id, "image": image, "label": label}
        return {**entry, "unannotated": " ".join(map(str, sorted(self.unannotated)))} if self.unannotated else entry


@dataclass(frozen=True)
class CaseList:
    """The cases of one data set.

    Attributes:
        layout: the layout's name.
        root: the folder, or the file of a datalist.
        cases: sorted by id.
        classes: label id -> name, ascending, without background; empty where the layout has no names.
        unused: classes that `select_classes` left out; their voxels count as background.
        coding: what the numbers in the label files mean.
        intensity: the policy that suits the data set, where the user names none.
        images: names of the images of a case that are taken together (`image_set`); none for one image.
    """

    layout: str
    root: Path
    cases: tuple[Case, ...]
    classes: dict[int, str]
    unused: dict[int, str] = field(default_factory=dict)
    coding: LabelCoding = EXCLUSIVE
    intensity: str = "auto"
    images: tuple[str, ...] = ()
