"""Many volumes through one model: what is to be done, checked before the model is loaded, then done case by case.

Every output is whole or absent, and the segmentation is written after all that goes beside it, so that a case whose
outputs are all there is done.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medsam_adapt.core.errors import InputError, problems_error
from medsam_adapt.core.files import remove_leftovers
from medsam_adapt.data.volumes.image_pair import IMAGE_PAIR, pair_folders
from medsam_adapt.data.volumes.io import FORMATS, VolumeHeader, picture_files, read_header, volume_files, volume_stem
from medsam_adapt.outputs import get_format


@dataclass(frozen=True)
class Outputs:
    """What is written for each case.

    Attributes:
        format: name of the segmentation's file format.
        per_class: one file for each class, in a folder for each case.
        itk_snap: names and colours for ITK-SNAP, beside NIfTI.
        probabilities: a map for each class, in a folder for each case.
        uncertainty: a map.
    """

    format: str = "nifti"
    per_class: bool = False
    itk_snap: bool = False
    probabilities: bool = False
    uncertainty: bool = False

    def of(self, name: str, folder: Path) -> dict[str, Path]:
        """Paths by kind; the segmentation is the last one."""
        suffix = get_format(self.format).SUFFIX
        paths: dict[str, Path] = {}
        if self.itk_snap:
            paths["label description"] = folder / f"{name}_seg.label.txt"
        if self.probabilities:
            paths["probabilities"] = folder / f"{name}_probabilities"
        if self.uncertainty:
            paths["uncertainty"] = folder / f"{name}_uncertainty.nii.gz"
        paths["segmentation"] = folder / (f"{name}_seg" if self.per_class else f"{name}{suffix}")
        return paths

    def checked(self, overlapping: bool) -> Outputs:
        """These, with a file for each class where the format cannot hold classes that overlap.

        Raises:
            InputError: an unknown format, one whose library is not installed, or ITK-SNAP's file beside another one.
        """
        chosen = get_format(self.format)
        chosen.require()
        per_class = self.per_class or (overlapping and not chosen.HOLDS_OVERLAP)
        if self.itk_snap and (self.format != "nifti" or per_class):
            raise InputError("--itk-snap goes with one NIfTI label map for all classes: leave out the other options.")
        return Outputs(self.format, per_class, self.itk_snap, self.probabilities, self.uncertainty)


@dataclass(frozen=True, eq=False)
class Case:
    """One volume to segment, its header checked, the paths of its outputs by kind, and which DICOM series it is."""

    name: str
    header: VolumeHeader
    outputs: dict[str, Path]
    series: str | None = None

    @property
    def done(self) -> bool:
        """Whether all outputs are there."""
        return all(path.exists() for path in self.outputs.values())


@dataclass
class Plan:
    """The cases to segment, and those that were skipped since their outputs are there."""

    cases: list[Case] = field(default_factory=list)
    skipped: list[Case] = field(default_factory=list)


def plan_cases(
    inputs: Path,
    folder: Path,
    outputs: Outputs,
    overwrite: bool = False,
    skip_existing: bool = False,
    series: str | None = None,
    images: Sequence[str] = (),
) -> Plan:
    """Find the volumes and check every header.

    Args:
        inputs: a volume, a DICOM folder, or a folder of either.
        folder: of the outputs.
        outputs: what is written.
        overwrite: whether outputs that exist are replaced.
        skip_existing: whether cases whose outputs all exist are left out.
        series: number, UID or description of the series wanted, for DICOM folders that hold several.
        images: names of the images of a case that the run takes together; none for one image.

    Raises:
        InputError: all problems of all volumes; no volume; outputs that exist.
    """
    if folder.is_file():
        raise InputError(f"{folder} is a file: name a folder for the masks.")
    parent = next(each for each in (folder, *folder.resolve().parents) if each.exists())
    if not os.access(parent, os.W_OK):
        raise InputError(f"{parent} cannot be written to: name another folder for the masks.")
    if inputs.is_dir() and inputs.resolve() == folder.resolve():
        raise InputError(f"{folder} holds the volumes themselves: name another folder for the masks.")
    names: dict[str, Path] = {}
    problems: list[str] = []
    for source in _pairs(inputs) if images else _sources(inputs):
        name = volume_stem(source)
        if name in names:
            problems.append(f"{source} and {names[name].name} would give outputs of the same name: rename one of them.")
        names.setdefault(name, source)
    needs_dicom = get_format(outputs.format).NEEDS_DICOM
    plan = Plan()
    if series is not None and not any(source.is_dir() for source in names.values()):
        raise InputError(f"{inputs} holds no DICOM series to choose from: leave out --series.")
    for name, source in names.items():
        chosen = series if source.is_dir() else None
        try:
            case = Case(name, read_header(source, chosen), outputs.of(name, folder), chosen)
        except InputError as error:
            problems.append(str(error))
            continue
        for path in case.outputs.values():
            remove_leftovers(path)
        existing = next((path for path in case.outputs.values() if path.exists()), None)
        if needs_dicom and not hasattr(case.header, "slices"):
            problems.append(f"{source} is no DICOM series, to which --format {outputs.format} refers: use another.")
        elif skip_existing and case.done:
            plan.skipped.append(case)
        elif existing is not None and not (overwrite or skip_existing):
            problems.append(f"{existing} already exists: name another --output, or add --skip-existing or --overwrite.")
        else:
            plan.cases.append(case)
    if problems:
        raise problems_error(problems)
    return plan


def _pairs(inputs: Path) -> list[Path]:
    folders = pair_folders(inputs)
    if not folders:
        raise InputError(
            f"{inputs} holds no folder of {' and '.join(IMAGE_PAIR)}, which this run takes together: give the folder "
            "of a case, or one of such folders."
        )
    return folders


def _sources(inputs: Path) -> list[Path]:
    if not inputs.exists():
        raise InputError(f"{inputs} does not exist: give a volume or a folder of volumes.")
    sources = [inputs] if inputs.is_file() else volume_files(inputs) or picture_files(inputs)
    if not sources:
        raise InputError(
            f"{inputs} holds no volume ({', '.join(FORMATS)}, DICOM): give a volume or a folder of volumes."
        )
    return sources


def file_names(names: Sequence[str], label_ids: Sequence[int]) -> Iterator[str]:
    """A file name for each class; one that is not unique gets the label id."""
    plain = [re.sub(r"[^\w.-]+", "_", name).strip("._") for name in names]
    for name, label_id in zip(plain, label_ids, strict=True):
        unique = name and [other.casefold() for other in plain].count(name.casefold()) == 1
        yield name if unique else f"{name or 'class'}_{label_id}"
