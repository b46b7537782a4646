"""Unlabelled scans in the order in which to label them: ``suggest("runs/liver", "new_scans")``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medsam_adapt.core.errors import InputError, problems_error
from medsam_adapt.data.volumes.formats.dicom_headers import quiet_dicom
from medsam_adapt.data.volumes.image_set import ImageSource
from medsam_adapt.data.volumes.io import VolumeHeader, read_volume
from medsam_adapt.inference.predictor import Predictor, load_run
from medsam_adapt.inference.zero_shot import names_weights, predictor_of, weights_record
from medsam_adapt.runs.record import RunRecord, read_runs
from medsam_adapt.suggestion.candidates import Candidates, evenly, find_candidates, first_file, labelled_cases
from medsam_adapt.suggestion.features import scan_features
from medsam_adapt.suggestion.measures import disagreement, mean_entropy
from medsam_adapt.suggestion.ranking import pick_scans

MOST_LABELLED = 100  # labelled scans whose features are computed
Progress = Callable[[str, int, int], None]
Read = Callable[[ImageSource], tuple[np.ndarray, VolumeHeader]]


@dataclass(frozen=True)
class Suggestion:
    """A scan to label.

    Attributes:
        rank: its place in the order, from 1.
        name: of the scan.
        path: of its file or folder; of the first one, where a case has several images.
        score: mean rank of the parts among the scans not yet picked, 0 to 1.
        uncertainty: mean entropy within the predicted foreground and its border, 0 to 1; None without a trained run.
        disagreement: one minus the mean DSC between the runs' masks; None for a single run.
        distance: of the image encoder's features to the nearest labelled or earlier scan, in standard deviations; None
            for the first scan where nothing is labelled.
        found: whether a run found any structure; None without a trained run.
    """

    rank: int
    name: str
    path: Path
    score: float
    uncertainty: float | None
    disagreement: float | None
    distance: float | None
    found: bool | None


@dataclass(frozen=True)
class Suggestions:
    """Scans to label in their order.

    Attributes:
        scans: the suggested scans, the first one to be labelled first.
        considered: number of scans that were compared.
        labelled: number of labelled scans that they were compared with.
        left_out: name -> why a scan was not considered.
        failed: name -> why a scan could not be read.
        notes: sentences for the user.
    """

    scans: list[Suggestion]
    considered: int
    labelled: int
    left_out: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The same in values that JSON knows."""
        content = asdict(self)
        for scan in content["scans"]:
            scan["path"] = str(scan["path"])
        return content


@dataclass(frozen=True)
class _Measured:
    features: np.ndarray
    uncertainty: float | None = None
    disagreement: float | None = None
    found: bool | None = None


def suggest(
    runs: str | Path | Sequence[str | Path],
    source: str | Path,
    count: int = 5,
    *,
    data: str | Path | None = None,
    layout: str = "auto",
    series: str | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Suggestions:
    """Rank the unlabelled scans of a folder by what a label of each can be expected to add.

    Every scan gets up to three values: the uncertainty of the run, the disagreement of several runs, and the distance
    to all scans that are labelled or were suggested before it. Their mean rank decides.

    Args:
        runs: a run's folder, or several of runs with the same classes, such as the folds of a cross-validation; or the
            name of pretrained weights, with which the distance alone decides.
        source: a volume's folder, or a data set in one of the layouts.
        count: how many scans to suggest.
        data: folder of the runs' data set, where it has moved.
        layout: of ``source``; "auto" recognises it.
        series: number, UID or description of the DICOM series wanted.
        device: auto, cpu, cuda, cuda:N or mps.
        batch_size: slices at a time; by the device when None.
        progress: called with a scan's name, how many scans are done, and how many there are.

    Raises:
        InputError: no such run, runs that do not segment the same or that need prompts, no scan without a label, or no
            scan that can be read.
    """
    folders = [runs] if isinstance(runs, str | Path) else list(runs)
    if count < 1:
        raise InputError(f"--count {count}: it is the number of scans to suggest. Give 1 or more.")
    records = records_of(folders)
    trained = not names_weights(folders[0])
    labelled, notes = labelled_cases(records if trained else (), None if data is None else Path(data))
    candidates = find_candidates(Path(source), records[0], labelled, layout, series)
    if trained:
        predictors = [load_run(folder, device, batch_size, merge=True, clean_up=False) for folder in folders]
    else:
        predictors = [predictor_of(records[0], device, batch_size)]

    def read(image: ImageSource) -> tuple[np.ndarray, VolumeHeader]:
        chosen = series if isinstance(image, Path) and image.is_dir() else None
        return read_volume(image, chosen, predictors[0].record.policy.suv)

    return rank_scans(predictors, candidates, labelled, count, trained, read, progress, notes)


def records_of(folders: Sequence[str | Path]) -> list[RunRecord]:
    """The records of runs that can suggest together, or what takes its place for the name of pretrained weights.

    Raises:
        InputError: as `read_runs`; runs that need prompts, or weights among runs.
    """
    if not folders:
        raise InputError("suggest: no run was given. Give the folder of a run.")
    named = [folder for folder in folders if names_weights(folder)]
    if named and len(folders) > 1:
        raise InputError(f"{named[0]}: weights suggest alone. Give them without another run.")
    if named:
        return [weights_record(str(named[0]), ["structure"])]
    found = read_runs(folders)
    for folder, record in found.items():
        if record.prompt != "none":
            raise InputError(
                f"{folder}: it was trained with a {record.prompt} prompt, and scans without labels have none. Give a "
                "run that was trained with --prompt none."
            )
    return list(found.values())


def rank_scans(
    predictors: Sequence[Predictor],
    candidates: Candidates,
    labelled: Mapping[str, ImageSource],
    count: int,
    trained: bool = True,
    read: Read = read_volume,
    progress: Progress | None = None,
    notes: Sequence[str] = (),
) -> Suggestions:
    """The order of the ``candidates``; other arguments and errors as :func:`suggest`.

    Args:
        predictors: one for each run.
        candidates: scans to choose from.
        labelled: name -> volume of the scans with labels.
        count: how many scans to suggest.
        trained: whether the predictors segment; else they are seen for their image encoder alone.
        read: gives the voxels of a scan as the predictors take them, and its header.
        progress: as for :func:`suggest`.
        notes: sentences to hand on.
    """
    references = evenly([*labelled], MOST_LABELLED)
    total, done = len(references) + len(candidates.scans), 0
    failed: dict[str, str] = {}
    known: list[np.ndarray] = []
    measured: dict[str, _Measured] = {}
    with quiet_dicom():
        for name, source in [*((name, labelled[name]) for name in references), *candidates.scans.items()]:
            if progress is not None:
                progress(name, done, total)
            try:
                image, header = read(source)
                if done < len(references):
                    known.append(_features(predictors[0], image, header.affine))
                else:
                    measured[name] = _measure(predictors, image, header.affine, trained)
            except InputError as error:
                failed[name] = str(error)
            done += 1
        if progress is not None:
            progress("", done, total)
    if not measured:
        raise problems_error([*failed.values()])
    names = [*measured]
    values = {
        part: np.array([getattr(measured[name], part) for name in names], float)
        for part in ("uncertainty", "disagreement")
        if all(getattr(measured[name], part) is not None for name in names)
    }
    features = np.stack([measured[name].features for name in names])
    reference = np.stack(known) if known else np.empty((0, features.shape[1]), np.float32)
    scans = []
    for rank, pick in enumerate(pick_scans(values, features, reference, count), start=1):
        name = names[pick.index]
        seen = measured[name]
        parts = (seen.uncertainty, seen.disagreement, pick.distance)
        scans.append(Suggestion(rank, name, first_file(candidates.scans[name]), pick.score, *parts, seen.found))
    return Suggestions(scans, len(measured), len(known), dict(candidates.left_out), failed, [*candidates.notes, *notes])


def _features(predictor: Predictor, image: np.ndarray, affine: np.ndarray) -> np.ndarray:
    return scan_features(predictor.record.slicing, predictor.segmenter, image, affine)


def _measure(predictors: Sequence[Predictor], image: np.ndarray, affine: np.ndarray, trained: bool) -> _Measured:
    """What the runs make of one scan."""
    features = _features(predictors[0], image, affine)
    if not trained:
        return _Measured(features)
    entropies, masks = [], []
    for predictor in predictors:
        segmented = predictor.segment(image, affine, uncertainty=True)
        assert segmented.uncertainty is not None, "it was asked for"
        classes = _class_masks(segmented.voxels, predictor.label_ids)
        entropies.append(mean_entropy(segmented.uncertainty, np.any(classes, axis=0)))
        masks.append(classes)
    found = any(mask.any() for classes in masks for mask in classes)
    return _Measured(features, float(np.mean(entropies)), disagreement(masks), found)


def _class_masks(voxels: np.ndarray, label_ids: Sequence[int]) -> list[np.ndarray]:
    if voxels.ndim == 4:
        return [mask > 0 for mask in voxels]
    return [voxels == label_id for label_id in label_ids]
