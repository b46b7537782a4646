"""Which cases a run trains on and which it holds out, by its settings and the run that it starts from."""

from __future__ import annotations

from pathlib import Path

from medsam_adapt.config import Channels, Knobs, refuse_code
from medsam_adapt.core.errors import InputError
from medsam_adapt.data.datasets.case_checks import CaseCheck, check_cases
from medsam_adapt.data.datasets.cases import find_cases, images_in_order, select_classes
from medsam_adapt.data.datasets.continuation import fit_classes
from medsam_adapt.data.datasets.splits import Split, choose_split, continued_split
from medsam_adapt.data.slices.earlier_run import EarlierRun
from medsam_adapt.data.volumes.case import CaseList
from medsam_adapt.data.volumes.image_set import refuse_other_images
from medsam_adapt.data.volumes.label_coding import MOST_CLASSES


def find_training_cases(root: Path, knobs: Knobs, channels: Channels, earlier: EarlierRun | None = None) -> CaseList:
    """The cases of a data set with the classes that the settings name, under the label map of the ``earlier`` run.

    Args:
        root: the data set's folder.
        knobs: the settings of the run.
        channels: what the colour channels hold where a case has one image.
        earlier: the run to start from.

    Raises:
        InputError: as `find_cases`; settings that do not suit the number of images; images or classes that are not
            those of the earlier run.
    """
    cases = find_cases(root, knobs.layout)
    chosen_freely = knobs.channels == "auto" and earlier is None
    if cases.images and channels != "repeat" and not chosen_freely:
        raise InputError(f"{root}: {' and '.join(cases.images)} fill SAM's channels. Leave out channels={channels}.")
    if knobs.channel_dropout and not cases.images:
        raise InputError(f"channel_dropout: {root} has one image a case. Leave it out.")
    if earlier is not None:
        cases = images_in_order(cases, earlier.images)
        refuse_other_images(cases.images, earlier.images, root, "the run to start from")
        label_map = dict(zip(earlier.label_ids, earlier.class_names, strict=True))
        return fit_classes(cases, label_map, "the run to start from", earlier.overlapping, knobs.classes)
    return select_classes(cases, list(knobs.classes)) if knobs.classes else cases


def check_training_cases(root: Path, cases: CaseList) -> CaseCheck:
    """What the files of the cases hold.

    Raises:
        InputError: as `check_cases`; more classes than are possible, or a name that MONAI would run.
    """
    check = check_cases(cases)
    refuse_code(check.classes, f"the classes of {root}")
    if len(check.classes) > MOST_CLASSES:
        raise InputError(
            f"{root}: it has {len(check.classes)} classes, and at most {MOST_CLASSES} are possible. Choose "
            "fewer with --classes."
        )
    return check


def split_training_cases(
    root: Path, cases: CaseList, check: CaseCheck, knobs: Knobs, earlier: EarlierRun | None = None
) -> Split:
    """Who is trained on and who is held out.

    Args:
        root: the data set's folder.
        cases: of the data set.
        check: what their files hold.
        knobs: the settings of the run.
        earlier: the run to start from, whose held-out cases stay so unless the settings name a split or a fold.

    Raises:
        InputError: as `choose_split` and `continued_split`; unknown cases, or training cases without any class.
    """
    split = (
        choose_split(cases.cases, knobs.seed, knobs.held_out, knobs.split_file, knobs.fold, knobs.folds)
        if earlier is None or knobs.split_file is not None or knobs.fold is not None
        else continued_split(cases.cases, earlier.ever_trained, earlier.ever_held_out, knobs.seed, knobs.held_out)
    )
    unknown = sorted({*split.train, *split.held_out} - {case.id for case in cases.cases})
    if unknown:
        raise InputError(
            f"{knobs.split_file}: it names the case {unknown[0]}, which {root} does not have. Correct the split, or "
            "the data."
        )
    if len(check.absent_classes(split.train)) == len(check.classes):
        raise InputError(
            f"{root}: no training volume holds a voxel of {', '.join(check.classes.values())}, only the held-out ones "
            "do. Choose another --seed or split, or label more volumes."
        )
    return split
