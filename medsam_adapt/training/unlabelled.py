"""Scans that nobody labelled: the network labels them on the way, and is trained on that beside the labelled ones.

Self-training on whole volumes (Lee, Pseudo-label, ICML workshops 2013). The moving average of the weights labels, as
the teacher of Tarvainen and Valpola does (Mean teachers are better role models, NeurIPS 2017): it fuses all directions
of slices and removes fragments as prediction does, so its labels are better than what the network draws on the single,
augmented slices that it learns from. Voxels that it is unsure of are not learned from.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ignite.engine import Events
from monai.data.utils import affine_to_spacing

from medsam_adapt.config import Knobs
from medsam_adapt.core.distributed import is_main_process, main_process_first, rank, union, world_size
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import make_shared_folder
from medsam_adapt.core.interrupts import raise_if_stopped
from medsam_adapt.data.slices.unlabelled_slices import UnlabelledSlices
from medsam_adapt.data.slices.volume_transforms import volume_transforms
from medsam_adapt.data.volumes.case import Case
from medsam_adapt.data.volumes.label_coding import IGNORED, parts_of
from medsam_adapt.networks.segmenter import Segmenter
from medsam_adapt.training.average import AverageWeights

if TYPE_CHECKING:
    from medsam_adapt.data.slices.clean_up import ClassCleanUp
    from medsam_adapt.data.slices.training_data import TrainingData
    from medsam_adapt.training.time_budget import TimeBudget

_SHARE_OF_TIME = 0.1  # of a time budget, for labelling all scans once
_TRIED = 5  # scans, before the rest is left for the next time
LABEL_FOLDER = "unlabelled"  # of a run, while it is trained


class SelfTraining:
    """Handler of the trainer that labels the unlabelled scans twice, each time at the start of an epoch.

    The labels are files of the run's folder, which a resumed training reads again, and are removed at the end. Of
    several processes that train together each labels its part of the scans.

    Args:
        data: with unlabelled scans.
        segmenter: the network, not wrapped.
        inferer: segments whole volumes, a `SlicewiseInferer`.
        folder: of the run.
        knobs: the settings of the run.
        cleaning: the clean-up of the classes.
        average: of the weights, which labels instead of them.
        budget: the time budget, where the training has one.

    Attributes:
        times: how often the scans were labelled.
        expected: numbers of the classes that every scan should have.
        report: called with a sentence each time.
    """

    def __init__(
        self,
        data: TrainingData,
        segmenter: Segmenter,
        inferer: Any,
        folder: str | Path,
        knobs: Knobs,
        cleaning: Sequence[ClassCleanUp] = (),
        average: AverageWeights | None = None,
        budget: TimeBudget | None = None,
    ) -> None:
        assert data.unlabelled is not None, "data with unlabelled scans"
        self.slices: UnlabelledSlices = data.unlabelled
        self.segmenter, self.average, self.budget = segmenter, average, budget
        self.inferer = inferer.at_least(knobs.unlabelled_least, cleaning)
        self.load = volume_transforms(data.policy)
        self.expected = classes_of_all(data)
        self.folder = Path(folder) / LABEL_FOLDER
        first = knobs.unlabelled_from
        self.starts = (first, (1 + first) / 2)
        self.times = 0
        self.report: Callable[[str], None] = logging.getLogger(__name__).info

    def attach(self, engine: Any) -> None:
        """Register with the trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin_epoch)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _begin_epoch(self, engine: Any) -> None:
        share = (engine.state.epoch - 1) / engine.state.max_epochs if self.budget is None else self.budget.share
        due = sum(share >= start for start in self.starts)
        if due > self.times:
            self.label(due)

    def label(self, times: int) -> None:
        """Label all scans with the present weights; from the next pass on their slices are drawn."""
        mine = self.slices.scans.cases[rank() :: world_size()]
        training = self.segmenter.training
        place = self._place(times)
        with main_process_first():
            if is_main_process():
                shutil.rmtree(place, ignore_errors=True)  # of a process that was killed here
                make_shared_folder(place)
        self.segmenter.eval()
        try:
            with nullcontext() if self.average is None else self.average.applied():
                found = dict(self._label_scans(mine, place))
        finally:
            self.segmenter.train(training)
        unsure = union(found)  # all have written
        self._read(times)
        used = [share for share in unsure.values() if share is not None]
        some = f" of {len(self.slices.scans.cases)}" if len(used) < len(self.slices.scans.cases) else ""
        why = (
            "" if len(used) == len(unsure) else f"; a class was not found in {len(unsure) - len(used)} that were tried"
        )
        share = f"; unsure of {np.mean(used):.1%} of their voxels" if used else ""
        self.report(f"scans labelled to train on: {len(used)}{some}{share}{why}")

    def _label_scans(self, cases: Sequence[Case], place: Path) -> Iterator[tuple[str, float | None]]:
        """Id and result of scan after scan, until all are labelled or a share of the time budget is used.

        Where none of the first can be used, the others are not tried.
        """
        begun, usable = time.monotonic(), 0
        for number, case in enumerate(cases, start=1):
            if world_size() == 1:
                raise_if_stopped()  # what was kept after the last epoch labels again
            unsure = self._label_scan(case, place)
            usable += unsure is not None
            yield case.id, unsure
            if number >= _TRIED and not usable:
                return
            if self.budget is not None and time.monotonic() - begun > _SHARE_OF_TIME * self.budget.seconds:
                return

    def estimate(self) -> float:
        """About how many seconds all labelling takes, from one scan."""
        cases = self.slices.scans.cases
        begun = time.monotonic()
        self._segment(cases[0])
        return (time.monotonic() - begun) * len(cases) * len(self.starts)

    @torch.no_grad()
    def _segment(self, case: Case) -> tuple[np.ndarray, Any]:
        """Classes (1, X, Y, Z), or masks (C, X, Y, Z), in RAS order, and the affine."""
        image = self.load({"id": case.id, "image": case.entry()["image"]})["image"]
        return np.asarray(self.inferer(image[None], self.segmenter)[0]), image.affine

    def _label_scan(self, case: Case, place: Path) -> float | None:
        """Write the labels of one scan; the share of voxels that they leave out.

        None, and nothing is written, where a class is not found that all labelled cases have: to learn that it is not
        there would make it harder to find.
        """
        found, affine = self._segment(case)
        exclusive = self.segmenter.head == "exclusive"
        for number in self.expected:
            if not (found == number if exclusive else found[number - 1] == 1).any():
                return None
        label, table = (found[0], None) if exclusive else parts_of(found)
        self.slices.write_labels(place, case.id, label, table, affine_to_spacing(affine))
        return float((found == IGNORED).mean())

    def _read(self, times: int) -> None:
        try:
            self.slices.read_labels(*(self._place(each) for each in range(times, 0, -1)))
        except (OSError, ValueError, EOFError) as error:
            raise InputError(
                f"{self._place(times)}: the labels of the unlabelled scans cannot be read ({error}). Put them back, or "
                "train again with --overwrite."
            ) from error
        self.times = times

    def _place(self, times: int) -> Path:
        return self.folder / str(times)  # the ones before are still those of the last checkpoint

    def _finish(self, engine: Any) -> None:
        if not self.times:
            logging.getLogger(__name__).warning(
                "unlabelled: no epoch began after %.0f %% of the training, so the scans were not used. Set max_steps "
                "to make epochs shorter.",
                100 * self.starts[0],
            )
        if is_main_process():
            shutil.rmtree(self.folder, ignore_errors=True)

    def state_dict(self) -> dict[str, int]:
        """What is needed to resume, beside the files of labels."""
        return {"times": self.times}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Resume from what `state_dict` gave."""
        if state["times"]:
            self._read(state["times"])


def classes_of_all(data: TrainingData) -> list[int]:
    """Numbers (from 1) of the classes that are in the label of every training case in which they were annotated."""
    found = []
    for number in range(1, len(data.class_names) + 1):
        shown = [case.voxels[:, number].any() for case in data.store().values() if number not in case.unannotated]
        if shown and all(shown):
            found.append(number)
    return found
