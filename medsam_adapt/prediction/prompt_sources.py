"""Where prompts are taken from when nobody draws them: label files, or what another run proposes.

Structures are matched by name, whatever their ids in the other place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medsam_adapt.data.cases import check_same_grid
from medsam_adapt.data.io import read_header, read_label, volume_files, volume_stem
from medsam_adapt.data.layouts import class_key, class_map, problems_error, read_json
from medsam_adapt.data.prompt_file import Prompt, read_prompts
from medsam_adapt.data.prompt_geometry import prompts_on_slices
from medsam_adapt.errors import InputError
from medsam_adapt.prediction.plan import Case
from medsam_adapt.runs import RunRecord, read_runs

if TYPE_CHECKING:  # it imports torch
    from medsam_adapt.prediction.predictor import Predictor

#: gives a case's label ids, or masks, from which prompts are taken; also takes its voxels
ReferenceOf = Callable[[Case, np.ndarray], np.ndarray]

SEES_THE_ANSWER = (
    "the prompts were taken from labels: the model saw where the answer is, so these masks are for evaluation only"
)
_LABEL_ENDINGS = ("_seg", "_label", "_0000")


@dataclass(frozen=True)
class PromptOptions:
    """Where a prompted run gets its prompts.

    Attributes:
        file: JSON of boxes and points.
        from_run: folder of a run that proposes.
        from_labels: a label file, or a folder of them.
        propagate: whether the prompts of ``file`` are followed to neighbouring slices.
    """

    file: Path | None = None
    from_run: Path | None = None
    from_labels: Path | None = None
    propagate: bool = False

    def told(self) -> dict[str, str | bool]:
        """The options that were given, by name, for the report."""
        given = {"prompts": self.file, "prompts-from-run": self.from_run, "prompts-from": self.from_labels}
        paths = {name: str(path) for name, path in given.items() if path is not None}
        return {**paths, "propagate": self.propagate}

    def check(self, record: RunRecord, run: Path) -> None:
        """Raise an InputError unless the run gets prompts as it needs them: none, or from one source.

        Args:
            record: of the run.
            run: its folder, for the sentence.
        """
        given = [f"--{name}" for name in self.told() if name != "propagate"]
        if len(given) > 1:
            raise InputError(f"{' and '.join(given)} both give prompts: choose one of them.")
        if record.prompt == "none" and given:
            raise InputError(f"{run} was trained without prompts and takes none: leave out {given[0]}.")
        if self.propagate and self.file is None:
            raise InputError("--propagate follows the boxes and points of --prompts: give these too.")
        if record.prompt != "none" and not given:
            raise InputError(
                f"{run} was trained with a {record.prompt} prompt and cannot segment without one: train with --prompt "
                "none, or give --prompts, --prompts-from-run or --prompts-from."
            )

    def reference(self, cases: Sequence[Case], record: RunRecord) -> Callable[[str, int], ReferenceOf | None]:
        """What gives the labels from which prompts are taken, once a device and a batch size are known.

        Raises:
            InputError: labels or a proposing run that do not fit.
        """
        if self.from_labels is not None:
            labels = PromptsFromLabels(self.from_labels, cases, record)
            return lambda device, batch_size: labels
        if self.from_run is None:
            return lambda device, batch_size: None
        folder = self.from_run
        check_proposer(read_runs([folder])[folder], folder, record)

        def load(device: str, batch_size: int) -> ReferenceOf:
            from medsam_adapt.prediction.predictor import load_run

            return PromptsFromRun(load_run(folder, device, batch_size, merge=True), record)

        return load


def read_case_prompts(path: Path, cases: Sequence[Case], record: RunRecord) -> dict[str, list[Prompt]]:
    """The prompts of all cases, checked against the run and the volumes.

    Raises:
        InputError: all faults with their places.
    """
    found = read_prompts(path, [case.name for case in cases])
    problems: list[str] = []
    for case in cases:
        where = f"{path}, " + ("prompts" if len(cases) == 1 else f"cases.{case.name}")
        try:
            prompts_on_slices(found[case.name], record, case.header.shape, case.header.affine, where)
        except InputError as error:
            problems += error.problems
    if problems:
        raise problems_error(problems)
    return found


class PromptsFromLabels:
    """The label of each case, found by its file's name; classes by name where a labels.json gives names.

    Args:
        source: a label file for one case, or a folder of them named as the images, or with _seg or _label behind.
        cases: what is to be segmented.
        record: of the run.

    Raises:
        InputError: all problems: a case without a label, a label on another grid, a class that is not in labels.json.
    """

    def __init__(self, source: Path, cases: Sequence[Case], record: RunRecord) -> None:
        if record.overlapping:
            raise InputError("--prompts-from takes one label map, but the run's classes overlap: give --prompts.")
        if not source.exists():
            raise InputError(f"{source} does not exist: give --prompts-from a label file or a folder of them.")
        self.ids = record.label_ids
        self.theirs = _ids_of(source, record)
        files = {_plain(volume_stem(path)): path for path in volume_files(source)} if source.is_dir() else {}
        if not source.is_dir() and len(cases) > 1:
            raise InputError(f"{source} is one label, but there are {len(cases)} volumes: give a folder of labels.")
        self.files: dict[str, Path] = {}
        problems = []
        for case in cases:
            path = files.get(_plain(case.name)) if source.is_dir() else source
            if path is None:
                problems.append(f"{source} has no label for {case.name}; add one of that name")
                continue
            try:
                check_same_grid(case.header, read_header(path))
            except InputError as error:
                problems.append(str(error))
            self.files[case.name] = path
        if problems:
            raise problems_error(problems)

    def __call__(self, case: Case, image: np.ndarray) -> np.ndarray:
        """Label ids of the run, (X, Y, Z)."""
        label, _ = read_label(self.files[case.name])
        return translate(label, self.theirs, self.ids)


class PromptsFromRun:
    """What a run that needs no prompts proposes.

    Args:
        proposer: the predictor of that run.
        record: of the run that is to be prompted.
    """

    def __init__(self, proposer: Predictor, record: RunRecord) -> None:
        self.proposer, self.record = proposer, record

    def __call__(self, case: Case, image: np.ndarray) -> np.ndarray:
        """Label ids of the prompted run, (X, Y, Z), or masks (C, X, Y, Z) of a proposer whose classes overlap."""
        proposed = self.proposer(image, case.header.affine)
        theirs = ids_by_name(self.proposer.record.class_names, self.proposer.record.label_ids)
        wanted = [theirs[class_key(name)] for name in self.record.class_names]
        if proposed.ndim == 4:
            return proposed[[self.proposer.record.label_ids.index(label_id) for label_id in wanted]]
        return translate(proposed, wanted, self.record.label_ids)


def check_proposer(proposer: RunRecord, folder: Path, record: RunRecord) -> None:
    """Raise an InputError unless a run can propose for another: it needs no prompts and has all its classes."""
    if proposer.prompt != "none":
        raise InputError(f"{folder} needs prompts itself: give --prompts-from-run one trained with --prompt none.")
    missing = sorted({*map(class_key, record.class_names)} - {*map(class_key, proposer.class_names)})
    if missing:
        raise InputError(
            f"{folder} does not segment {', '.join(missing)}, which the run does: give --prompts-from-run another."
        )


def ids_by_name(names: Sequence[str], label_ids: Sequence[int]) -> dict[str, int]:
    """Label id of each class by its key."""
    return dict(zip(map(class_key, names), label_ids, strict=True))


def translate(label: np.ndarray, theirs: Sequence[int], ours: Sequence[int]) -> np.ndarray:
    """The label with the ids ``ours`` for ``theirs``, and background for all others."""
    table = np.zeros(max(int(label.max(initial=0)), *theirs) + 1, dtype=np.uint16)
    table[list(theirs)] = ours
    return table[label]


def _ids_of(source: Path, record: RunRecord) -> list[int]:
    """The ids of the run's classes in the label files: by the names in a labels.json, else the run's own."""
    folder = source if source.is_dir() else source.parent
    names = next((path for path in (folder / "labels.json", folder.parent / "labels.json") if path.is_file()), None)
    if names is None:
        return record.label_ids
    found: Mapping[int, str] = class_map(read_json(names), names)
    ids = ids_by_name(list(found.values()), list(found))
    missing = [name for name in record.class_names if class_key(name) not in ids]
    if missing:
        raise InputError(f"{names} has no class '{missing[0]}', which the run segments: correct the names there.")
    return [ids[class_key(name)] for name in record.class_names]


def _plain(stem: str) -> str:
    for ending in _LABEL_ENDINGS:
        stem = stem.removesuffix(ending)
    return stem
