"""The data of one training run: cases found, checked, split by patient, and sliced."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from medsam_adapt.config import Axis, Channels, InputScaling, Knobs
from medsam_adapt.core.distributed import main_process_first
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.literals import as_typed
from medsam_adapt.data.datasets.case_checks import CaseCheck
from medsam_adapt.data.datasets.splits import Split
from medsam_adapt.data.datasets.unlabelled import find_unlabelled
from medsam_adapt.data.slices.backbone_fit import SMALL, finest_size, fit_backbone, most_slices
from medsam_adapt.data.slices.earlier_run import EarlierRun
from medsam_adapt.data.slices.geometry import LARGEST_FITTING, count_slices, fitting_size, slice_distance
from medsam_adapt.data.slices.intensity import IntensityPolicy
from medsam_adapt.data.slices.plausible_slices import mark_plausible
from medsam_adapt.data.slices.policy_choice import policy_of_cases
from medsam_adapt.data.slices.sampling import SliceDataset, balanced_weights, favour_complete
from medsam_adapt.data.slices.slice_fit import LabelledVolumes, fit_slices
from medsam_adapt.data.slices.slice_samples import Halves, Part, memberships, samples_of
from medsam_adapt.data.slices.slice_store import SliceSettings, StoredCase, store_cases, stored_bytes
from medsam_adapt.data.slices.slicing_choice import choose_slicing
from medsam_adapt.data.slices.slicing_spec import COLOURS, SlicingSpec
from medsam_adapt.data.slices.training_cases import check_training_cases, find_training_cases, split_training_cases
from medsam_adapt.data.slices.transforms import training_transforms
from medsam_adapt.data.slices.unlabelled_slices import UnlabelledSlices, names_of_views, with_unlabelled
from medsam_adapt.data.slices.views import Views
from medsam_adapt.data.volumes.case import Case, CaseList
from medsam_adapt.weights.input_scaling import choose_input_scaling


class TrainingData:
    """Everything that a run reads, from the folder to samples.

    Args:
        root: the data set's folder.
        knobs: the settings of the run, as `resolve_knobs` makes them. Where they leave the backbone open, it is chosen,
            and written into them with what follows from it.
        earlier: the run to start from, whose label map, intensity policy and input scaling are kept, since its weights
            are. Who was held out stays so, unless ``split_file`` or ``fold`` decides.

    Raises:
        InputError: for all the problems of the files, reported together.
    """

    def __init__(self, root: str | Path, knobs: Knobs, earlier: EarlierRun | None = None) -> None:
        # A copy: what a run changes in its settings later does not change its data.
        self.knobs = knobs.model_copy(update={"backbone": SMALL} if knobs.backbone == "auto" else {})
        root, self.earlier, self.prompt = Path(root), earlier, knobs.prompt
        chosen = choose_slicing(self.knobs, earlier)
        self.image_size, self.fits_size, self.slice_size = chosen.image_size, chosen.fits_size, chosen.slice_size
        self.axis, self.three_planes, self.coordinates = chosen.axis, chosen.three_planes, chosen.coordinates
        self.input_scaling: InputScaling = self._choose_input_scaling()
        self.cases: CaseList = find_training_cases(root, knobs, chosen.channels, earlier)
        self.channels: Channels = "repeat" if self.cases.images else chosen.channels
        self.check: CaseCheck = check_training_cases(root, self.cases)
        self.split: Split = split_training_cases(root, self.cases, self.check, knobs, earlier)
        labelled = LabelledVolumes(self._cases(self.split.train), self.check.headers, self.label_ids, self.cases.coding)
        self.policy: IntensityPolicy
        self.policy_reason: str
        self.policy, self.policy_reason = self._choose_policy(labelled)
        if earlier is None:
            fit = fit_slices(labelled, knobs, self.image_size, self.fits_size)
            self.axis, self.image_size, self.slice_size, self.three_planes = fit
            self.coordinates |= knobs.coordinates == "auto" and self.slice_size is not None
        self.unlabelled: UnlabelledSlices | None = None
        if knobs.unlabelled is not None:
            self.unlabelled = self._find_unlabelled(knobs.unlabelled)
        self._stored: dict[Axis, dict[str, StoredCase]] | None = None
        self.why_backbone = ""  # where the backbone was chosen by the data
        if knobs.backbone == "auto":
            self._choose_backbone(knobs)

    @classmethod
    def of(cls, root: str | Path, knobs: Knobs, earlier: EarlierRun | None = None) -> TrainingData:
        """The same from a config of MONAI, whose parser may have changed the path ``root``."""
        return cls(as_typed(root, "dataset_dir"), knobs, earlier)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of the network's channels (background not among them)."""
        return list(self.check.classes.values())

    @property
    def label_ids(self) -> list[int]:
        """The ids of :attr:`class_names` in the label files."""
        return list(self.check.classes)

    @property
    def axes(self) -> list[Axis]:
        """Directions in which the volumes are sliced, :attr:`axis` first."""
        return [self.axis, *(each for each in get_args(Axis) if self.three_planes and each != self.axis)]

    @property
    def overlapping(self) -> bool:
        """Whether a voxel may belong to several classes."""
        return self.cases.coding.overlapping

    @property
    def absent(self) -> list[str]:
        """Classes without one voxel in the labels of any training so far: kept in the map, never emitted."""
        absent = self.check.absent_classes(self.split.train)
        return [name for name in absent if self.earlier is None or name in self.earlier.absent]

    @property
    def slicing(self) -> SlicingSpec:
        """How the volumes become slices, and what is learned on them."""
        painted = self.cases.coding.painted
        return SlicingSpec(
            class_names=self.class_names,
            label_ids=self.label_ids,
            absent=self.absent,
            overlapping=self.overlapping,
            painted=[painted[label_id] for label_id in self.label_ids] if painted else [],
            axis=self.axis,
            three_planes=self.three_planes,
            slice_size=self.slice_size,
            sees_coordinates=self.coordinates,
            # Three directions are an average over neighbours already.
            slice_sigma=0.0 if self.three_planes or self.prompt != "none" else self.knobs.slice_sigma,
            channels=self.channels,
            prompt=self.prompt,
            images=list(self.cases.images),
            policy=self.policy,
            input_scaling=self.input_scaling,
        )

    @property
    def split_by(self) -> Literal["patients", "slices"]:
        """How the training set is halved: by patient, or with fewer than four of them by blocks of slices."""
        return self._halves().by

    def store(self, progress: Callable[[str], None] | None = None) -> dict[str, StoredCase]:
        """The slices of the training cases along :attr:`axis` by case id, made or found in the cache."""
        if self._stored is None:
            cases, stored = self._cases(self.split.train), {}
            with main_process_first():
                for axis in self.axes:
                    settings = self._slicing(axis)
                    report = progress if axis == self.axis else None
                    stored[axis] = store_cases(cases, settings, self.knobs.cache_dir, report, self.cases.root)
                    mark_plausible(stored[axis], self._slice_distances(axis))
                    if self.unlabelled is not None:
                        self.unlabelled.store(settings, self.knobs.cache_dir, report)
            self._stored = stored
        return self._stored[self.axis]

    def _views(self) -> dict[str, StoredCase]:
        """The slices of all directions, by what samples name: the case id, with the direction if it is another."""
        self.store()
        assert self._stored is not None, "store makes it"
        return names_of_views(self._stored)

    def store_bytes(self) -> int:
        """About how many bytes :meth:`store` takes in the cache."""
        channels = max(3, len(self.cases.images)) if self.cases.images or self.policy.kind == "windows" else 1
        labelled = sum(
            stored_bytes(self.check.headers[case_id], self._slicing(axis), channels)
            for case_id in self.split.train
            for axis in self.axes
        )
        scans = self.unlabelled
        return labelled + sum(scans.store_bytes(self._slicing(axis), channels) for axis in self.axes if scans)

    def _slice_distances(self, axis: Axis) -> dict[str, float]:
        headers = {case_id: self.check.headers[case_id] for case_id in self.split.train}
        return {name: slice_distance(each.shape, each.affine, axis) for name, each in headers.items()}

    def _slicing(self, axis: Axis) -> SliceSettings:
        size = self.slice_size or self.image_size
        return SliceSettings(size, axis, self.policy, tuple(self.label_ids), self.cases.coding)

    def samples(self, part: Part = "train") -> list[dict[str, Any]]:
        """{case, slice} of every training slice of ``part``; with prompts {case, slice, structure} of every structure.

        ``first_half`` and ``second_half`` part the training set as BLO-SAM's D1 and D2.
        """
        random, halves = np.random.default_rng(self.knobs.seed), self._halves()
        samples: list[dict[str, Any]] = []
        for name, stored in sorted(self._views().items()):
            slices = stored.training_slices(self.knobs.empty_share, random)
            kept = set(halves.of(stored.case_id, slices, part))
            samples += [s for s in samples_of(name, stored, slices, self.prompt != "none") if s["slice"] in kept]
        if not samples:
            raise InputError(
                "--data: no slice to train on is left in the "
                f"{'' if part == 'train' else part.replace('_', ' ') + ' of the '}training data. Give more labelled "
                "volumes or slices."
            )
        return samples

    def dataset(self, part: Part = "train", views: Views | None = None) -> SliceDataset:
        """Training samples of ``part``, augmented and with prompts; of fixed ``views`` alone where they are given.

        Slices of unlabelled scans are among those of every part but the second half.
        """
        scans = None if part == "second_half" else self.unlabelled
        images = views is None or views.images
        settings = self.image_size, self.prompt, self.channels, self.knobs.augment, images, self.input_scaling
        stored = with_unlabelled(self._views(), scans)
        moved = views is not None and views.moved
        dropout = self.knobs.channel_dropout, len(self.cases.images)
        transform = training_transforms(stored, *settings, *dropout, moved, self.coordinates)
        samples = self.samples(part)
        weights = self._shares_of_draws(samples) if self.knobs.sampling == "balanced" else None
        if scans is None:
            return SliceDataset(samples, transform, weights, views)
        together = scans.beside(np.full(len(samples), 1 / len(samples)) if weights is None else weights)
        return SliceDataset([*samples, *scans.samples()], transform, together, views, draws=len(samples))

    def _shares_of_draws(self, samples: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """(N,) the share of the draws that each sample gets."""
        views, prompted = self._views(), self.prompt != "none"
        shares = balanced_weights(memberships(samples, views, len(self.class_names), prompted))
        complete = np.array([not views[sample["case"]].unannotated for sample in samples])
        # A prompt points at a structure that is annotated, whatever else is not.
        return shares if prompted or complete.all() else favour_complete(shares, complete)

    def views(self, count: int, images: bool, moved: bool = False) -> Views:
        """``count`` fixed versions of every training slice, labelled or not; arguments as for :class:`Views`."""
        settings = self.image_size, self.channels, self.knobs.augment
        dropout = self.knobs.channel_dropout, len(self.cases.images)
        stored = with_unlabelled(self._views(), self.unlabelled)
        samples = [*self.samples(), *(self.unlabelled.samples() if self.unlabelled else ())]
        return Views(stored, samples, *settings, count, self.knobs.seed, images, self.input_scaling, *dropout, moved)

    def volumes(self) -> list[dict[str, Any]]:
        """{id, image, label} paths of the held-out cases."""
        return [case.entry() for case in self._cases(self.split.held_out)]

    def _find_unlabelled(self, root: str) -> UnlabelledSlices:
        if self.prompt != "none":
            raise InputError(
                f"--unlabelled {root}: a run with {self.prompt} prompts cannot label scans by itself. Leave out "
                "--prompt, or --unlabelled."
            )
        seen = self.earlier.ever_trained | self.earlier.ever_held_out if self.earlier else set()
        knobs = self.knobs
        scans = find_unlabelled(as_typed(root, "unlabelled"), self.cases, seen, knobs.unlabelled_most, knobs.seed)
        balanced = knobs.sampling == "balanced"
        return UnlabelledSlices(scans, knobs.unlabelled_share, knobs.empty_share, knobs.seed, balanced)

    def _choose_backbone(self, knobs: Knobs) -> None:
        """Write the backbone that suits the data into ``knobs``, with what follows from it."""
        headers = [self.check.headers[case_id] for case_id in self.split.train]
        slices = sum(count_slices(each.shape, each.affine, axis) for each in headers for axis in self.axes)
        large = self.fits_size and self.slice_size is None and self.image_size == LARGEST_FITTING
        large = large and self.prompt == "none" and knobs.checkpoint is None and not knobs.tune_encoder
        # More images than colours are mixed by trained weights in front of the encoder, so that nothing can be
        # kept; nor can features of all images stand for those of the ones that channel_dropout keeps.
        large = large and len(self.cases.images) <= len(COLOURS) and not knobs.channel_dropout
        if self.unlabelled is not None and slices <= (most := most_slices(knobs.minutes)):
            if large:
                self.unlabelled.limit(most - slices, self.axes)  # more would change the backbone
            slices += self.unlabelled.count_slices(self.axes)
        patients = {case.patient_id for case in self._cases(self.split.train)}
        size = max(fitting_size(headers, axis, finest_size(slices, knobs.minutes)) for axis in self.axes)
        chosen = fit_backbone(size, large, len(patients), slices, knobs.minutes)
        for name, value in chosen.settings.items():
            setattr(knobs, name, value)
        self.image_size = knobs.image_size or self.image_size
        self.knobs, self.why_backbone = knobs.model_copy(), chosen.why
        self.input_scaling = self._choose_input_scaling()

    def _choose_input_scaling(self) -> InputScaling:
        if self.earlier is not None:
            return self.earlier.input_scaling
        return choose_input_scaling(self.knobs.input_scaling, self.knobs.checkpoint, self.knobs.backbone)

    def _choose_policy(self, labelled: LabelledVolumes) -> tuple[IntensityPolicy, str]:
        """The policy, and a sentence that states which it is and why."""
        if self.earlier is not None:
            return self.earlier.policy, "the policy of the run to start from."
        policy, reason = policy_of_cases(labelled, self.knobs.intensity, self.cases.intensity, self.cases.images)
        if policy.kind == "windows" and self.channels != "repeat":
            raise InputError("intensity: three windows fill SAM's channels. Leave out channels=adjacent.")
        return policy, reason

    def _halves(self) -> Halves:
        return Halves({case.id: case.patient_id for case in self._cases(self.split.train)}, self.knobs.seed)

    def _cases(self, ids: Sequence[str]) -> list[Case]:
        return [case for case in self.cases.cases if case.id in set(ids)]
