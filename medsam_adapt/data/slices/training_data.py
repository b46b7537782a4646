"""The data of one training run: cases found, checked, split by patient, and sliced."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from medsam_adapt.config import (
    Augmentation,
    Axis,
    AxisChoice,
    ChannelChoice,
    Channels,
    CoordinateChoice,
    InputScaling,
    Intensity,
    Knobs,
    PlaneChoice,
    PromptMode,
    Sampling,
    Tiles,
    refuse_code,
)
from medsam_adapt.core.distributed import main_process_first
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.literals import as_typed
from medsam_adapt.data.datasets.case_checks import CaseCheck, check_cases
from medsam_adapt.data.datasets.cases import find_cases, images_in_order, select_classes
from medsam_adapt.data.datasets.continuation import fit_classes
from medsam_adapt.data.datasets.splits import Split, choose_split, continued_split
from medsam_adapt.data.datasets.unlabelled import find_unlabelled
from medsam_adapt.data.slices.backbone_fit import SMALL, fit_backbone, most_slices
from medsam_adapt.data.slices.earlier_run import EarlierRun, refuse_changes
from medsam_adapt.data.slices.geometry import LARGEST_FITTING, count_slices, slice_distance
from medsam_adapt.data.slices.intensity import IntensityPolicy
from medsam_adapt.data.slices.plausible_slices import mark_plausible
from medsam_adapt.data.slices.policy_choice import policy_of_cases, visible_policy
from medsam_adapt.data.slices.sampling import SliceDataset, balanced_weights, favour_complete
from medsam_adapt.data.slices.slice_fit import LabelledVolumes, fit_slices
from medsam_adapt.data.slices.slice_samples import Halves, Part, memberships, samples_of
from medsam_adapt.data.slices.slice_store import SliceSettings, StoredCase, store_cases, stored_bytes
from medsam_adapt.data.slices.slicing_spec import COLOURS, SlicingSpec
from medsam_adapt.data.slices.transforms import training_transforms
from medsam_adapt.data.slices.unlabelled_slices import UnlabelledSlices, names_of_views, with_unlabelled
from medsam_adapt.data.slices.views import Views
from medsam_adapt.data.volumes.case import Case, CaseList
from medsam_adapt.data.volumes.image_set import refuse_other_images
from medsam_adapt.data.volumes.label_coding import MOST_CLASSES
from medsam_adapt.weights.backbones import get_variant
from medsam_adapt.weights.input_scaling import choose_input_scaling


class TrainingData:
    """Everything that a run reads, from the folder to samples.

    Args:
        root: the data set's folder.
        layout: its layout on disk, or ``auto``.
        classes: names of the classes to learn; all of the layout's when None.
        backbone: decides the image size when ``image_size`` is None.
        image_size: side of the square slices in pixels; when None the backbone's default, or `fitting_size` with a
            ``detail`` branch on a small backbone.
        axis: slicing direction; ``auto`` as `acquired_axis`.
        planes: ``one``, ``three``, or ``auto``: slices of three directions where volumes suit them and nothing is
            prompted.
        tiles: ``auto`` trains on tiles of slices where all structures are small (`suit_tiles`), ``off`` on whole ones.
        coordinates: whether the detail branch sees where pixels lie in the volume; ``auto`` where it sees tiles.
        slice_sigma: of the average over neighbouring slices, where one direction is sliced and nothing is prompted.
        channels: what SAM's three colour channels hold; ``auto`` is ``adjacent`` where a case has one image.
        intensity: name of the intensity policy.
        prompt: ``none``, or the prompt that is simulated from the label.
        held_out: share of the patients that is held out (none with fewer than three); None as for `split_cases`.
        empty_share: share of the slices outside the labelled range that is trained on.
        augment: ``none``, ``anatomical``, ``strong`` or ``free``.
        seed: of the split, the slices drawn and the augmentation.
        split_file: a saved split to use instead of a new one.
        fold: which fold of a cross-validation is held out, counted from 0; None for no cross-validation.
        folds: how many folds are drawn where ``split_file`` gives none.
        sampling: ``balanced`` draws slices of rare classes more often, ``slices`` all alike.
        cache_dir: where slices are kept.
        earlier: the run to start from, whose label map, intensity policy and input scaling are kept, since its weights
            are. Who was held out stays so, unless ``split_file`` or ``fold`` decides.
        checkpoint: the weights that training starts from, which decide the input scaling.
        input_scaling: pixel values that the network expects; those of the checkpoint when None.
        detail: channels of the network's detail branch.
        channel_dropout: probability with which training leaves out each of several images of a case.
        unlabelled: folder of scans without labels to train on too.
        unlabelled_share: of the draws that they get.
        unlabelled_most: how many of them are used.

    Raises:
        InputError: for all the problems of the files, reported together.
    """

    def __init__(
        self,
        root: str | Path,
        layout: str = "auto",
        classes: Sequence[str] | None = None,
        backbone: str = "vit_nano",
        image_size: int | None = None,
        axis: AxisChoice = "axial",
        planes: PlaneChoice = "one",
        tiles: Tiles = "off",
        coordinates: CoordinateChoice = "off",
        slice_sigma: float = 0.0,
        channels: ChannelChoice = "repeat",
        intensity: Intensity = "auto",
        prompt: PromptMode = "none",
        held_out: float | None = 0.2,
        empty_share: float = 0.1,
        augment: Augmentation = "anatomical",
        seed: int = 0,
        split_file: str | Path | None = None,
        fold: int | None = None,
        folds: int = 5,
        sampling: Sampling = "balanced",
        cache_dir: str | Path | None = None,
        earlier: EarlierRun | None = None,
        checkpoint: str | Path | None = None,
        input_scaling: InputScaling | None = None,
        detail: int = 0,
        channel_dropout: float = 0.0,
        unlabelled: str | Path | None = None,
        unlabelled_share: float = 0.5,
        unlabelled_most: int | None = None,
    ) -> None:
        variant = get_variant(backbone)
        self.fits_size = fits_size = image_size is None and detail > 0 and variant.small
        self.image_size = image_size or variant.image_size
        variant.grid(self.image_size)
        self.prompt, self.augment, self.slice_sigma = prompt, augment, slice_sigma
        self.axis: Axis = "axial" if axis == "auto" else axis  # auto: until the headers are read
        if channels == "auto" and earlier is None and str(intensity).startswith("ct-windows:"):
            channels = "repeat"  # the windows fill the colours
        self.three_planes = planes == "three"
        self.slice_size = None if earlier is None else earlier.slice_size
        if coordinates == "on" and (detail == 0 or prompt != "none"):
            raise InputError("coordinates=on: a detail branch without prompts sees them. Add detail, or leave it out.")
        self.coordinates = coordinates == "on"
        if self.three_planes and prompt != "none":
            raise InputError("planes=three: a prompt lies on slices of one direction. Leave out --prompt or planes.")
        self.channels: Channels = "adjacent" if channels == "auto" else channels
        self.held_out, self.split_file, self.channel_dropout = held_out, split_file, channel_dropout
        self.empty_share, self.seed, self.cache_dir, self.sampling = empty_share, seed, cache_dir, sampling
        self.earlier = earlier
        if earlier is not None:
            self._continue(earlier, intensity, input_scaling, fits_size, channels, planes, axis, coordinates)
        self.input_scaling: InputScaling = (
            choose_input_scaling(input_scaling, checkpoint, backbone) if earlier is None else earlier.input_scaling
        )
        self.cases = self._find_cases(Path(root), layout, classes, channels)
        self.check: CaseCheck = check_cases(self.cases)
        refuse_code(self.check.classes, f"the classes of {root}")
        if len(self.class_names) > MOST_CLASSES:
            raise InputError(
                f"{root}: it has {len(self.class_names)} classes, and at most {MOST_CLASSES} are possible. Choose "
                "fewer with --classes."
            )
        self.split: Split = self._choose_split(Path(root), fold, folds)
        self.policy: IntensityPolicy
        self.policy_reason: str
        labelled = LabelledVolumes(self._cases(self.split.train), self.check.headers, self.label_ids, self.cases.coding)
        self.policy, self.policy_reason = self._choose_policy(intensity, labelled)
        if self.earlier is None:
            chosen = fit_slices(labelled, self.image_size, axis, planes, tiles, fits_size, prompt != "none")
            self.axis, self.image_size, self.slice_size, self.three_planes = chosen
            self.coordinates |= coordinates == "auto" and self.slice_size is not None
        self.unlabelled: UnlabelledSlices | None = None
        if unlabelled is not None:
            self.unlabelled = self._find_unlabelled(unlabelled, unlabelled_share, unlabelled_most)
        self._stored: dict[Axis, dict[str, StoredCase]] | None = None
        self.why_backbone = ""  # where the backbone was chosen by the data

    @classmethod
    def of(cls, root: str | Path, knobs: Knobs, earlier: EarlierRun | None = None) -> TrainingData:
        """The data of ``root`` under the settings of a run, which may start from an ``earlier`` one.

        Where they leave the backbone open, it is chosen, and written into ``knobs`` with what follows from it.
        """
        names = [name for name in inspect.signature(cls).parameters if name not in ("root", "earlier")]
        settings = {name: getattr(knobs, name) for name in names}
        open_choice = knobs.backbone == "auto"
        if open_choice:
            settings["backbone"] = SMALL
        data = cls(as_typed(root, "dataset_dir"), **settings, earlier=earlier)
        if open_choice:
            data._choose_backbone(knobs)
        return data

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
            slice_sigma=0.0 if self.three_planes or self.prompt != "none" else self.slice_sigma,
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
                    stored[axis] = store_cases(cases, settings, self.cache_dir, report, self.cases.root)
                    mark_plausible(stored[axis], self._slice_distances(axis))
                    if self.unlabelled is not None:
                        self.unlabelled.store(settings, self.cache_dir, report)
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
        random, halves = np.random.default_rng(self.seed), self._halves()
        samples: list[dict[str, Any]] = []
        for name, stored in sorted(self._views().items()):
            slices = stored.training_slices(self.empty_share, random)
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
        settings = self.image_size, self.prompt, self.channels, self.augment, images, self.input_scaling
        stored = with_unlabelled(self._views(), scans)
        moved = views is not None and views.moved
        dropout = self.channel_dropout, len(self.cases.images)
        transform = training_transforms(stored, *settings, *dropout, moved, self.coordinates)
        samples = self.samples(part)
        weights = self._shares_of_draws(samples) if self.sampling == "balanced" else None
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
        settings = self.image_size, self.channels, self.augment
        dropout = self.channel_dropout, len(self.cases.images)
        stored = with_unlabelled(self._views(), self.unlabelled)
        samples = [*self.samples(), *(self.unlabelled.samples() if self.unlabelled else ())]
        return Views(stored, samples, *settings, count, self.seed, images, self.input_scaling, *dropout, moved)

    def volumes(self) -> list[dict[str, Any]]:
        """{id, image, label} paths of the held-out cases."""
        return [case.entry() for case in self._cases(self.split.held_out)]

    def _find_unlabelled(self, root: str | Path, share: float, most: int | None) -> UnlabelledSlices:
        if self.prompt != "none":
            raise InputError(
                f"--unlabelled {root}: a run with {self.prompt} prompts cannot label scans by itself. Leave out "
                "--prompt, or --unlabelled."
            )
        seen = self.earlier.ever_trained | self.earlier.ever_held_out if self.earlier else set()
        scans = find_unlabelled(as_typed(root, "unlabelled"), self.cases, seen, most, self.seed)
        return UnlabelledSlices(scans, share, self.empty_share, self.seed, self.sampling == "balanced")

    def _find_cases(self, root: Path, layout: str, classes: Sequence[str] | None, channels: ChannelChoice) -> CaseList:
        cases, earlier = find_cases(root, layout), self.earlier
        if cases.images and channels == "auto" and earlier is None:
            self.channels = "repeat"
        if cases.images and self.channels != "repeat":
            raise InputError(
                f"{root}: {' and '.join(cases.images)} fill SAM's channels. Leave out channels={self.channels}."
            )
        if self.channel_dropout and not cases.images:
            raise InputError(f"channel_dropout: {root} has one image a case. Leave it out.")
        if earlier is not None:
            cases = images_in_order(cases, earlier.images)
            refuse_other_images(cases.images, earlier.images, root, "the run to start from")
            label_map = dict(zip(earlier.label_ids, earlier.class_names, strict=True))
            return fit_classes(cases, label_map, "the run to start from", earlier.overlapping, classes)
        return select_classes(cases, list(classes)) if classes else cases

    def _choose_split(self, root: Path, fold: int | None, folds: int) -> Split:
        """Who is trained on and who is held out; refuses unknown cases, and training cases without any class."""
        cases, earlier = self.cases.cases, self.earlier
        split = (
            choose_split(cases, self.seed, self.held_out, self.split_file, fold, folds)
            if earlier is None or self.split_file is not None or fold is not None
            else continued_split(cases, earlier.ever_trained, earlier.ever_held_out, self.seed, self.held_out)
        )
        unknown = sorted({*split.train, *split.held_out} - {case.id for case in cases})
        if unknown:
            raise InputError(
                f"{self.split_file}: it names the case {unknown[0]}, which {root} does not have. Correct the split, or "
                "the data."
            )
        if len(self.check.absent_classes(split.train)) == len(self.class_names):
            raise InputError(
                f"{root}: no training volume holds a voxel of {', '.join(self.class_names)}, only the held-out ones "
                "do. Choose another --seed or split, or label more volumes."
            )
        return split

    def _continue(
        self,
        earlier: EarlierRun,
        intensity: Intensity,
        input_scaling: InputScaling | None,
        fits_size: bool,
        channels: ChannelChoice,
        planes: PlaneChoice,
        axis: AxisChoice,
        coordinates: CoordinateChoice,
    ) -> None:
        """Slice as the earlier run did; refuses settings that would change what its weights have learnt."""
        if fits_size:
            self.image_size = earlier.image_size
        if channels == "auto":
            self.channels = earlier.channels
        if axis == "auto":
            self.axis = earlier.axis
        if planes == "auto":
            self.three_planes = earlier.three_planes
        own: CoordinateChoice = "on" if earlier.sees_coordinates else "off"
        if coordinates not in ("auto", own):
            raise InputError(
                f"coordinates: the run to start from has {own}, not {coordinates}, and training from it keeps it. Use "
                f"coordinates={own}."
            )
        self.coordinates = earlier.sees_coordinates
        wanted: dict[str, Any] = {"image_size": self.image_size, "axis": self.axis, "channels": self.channels}
        wanted |= {"intensity": intensity, "three_planes": self.three_planes}
        if input_scaling is not None:
            wanted["input_scaling"] = input_scaling
        refuse_changes(earlier, wanted)

    def _choose_backbone(self, knobs: Knobs) -> None:
        """Write the backbone that suits the data into ``knobs``, with what follows from it."""
        headers = [self.check.headers[case_id] for case_id in self.split.train]
        slices = sum(count_slices(each.shape, each.affine, axis) for each in headers for axis in self.axes)
        large = self.fits_size and self.slice_size is None and self.image_size == LARGEST_FITTING
        large = large and self.prompt == "none" and knobs.checkpoint is None and not knobs.tune_encoder
        # More images than colours are mixed by trained weights in front of the encoder, so that nothing can be
        # kept; nor can features of all images stand for those of the ones that channel_dropout keeps.
        large = large and len(self.cases.images) <= len(COLOURS) and not self.channel_dropout
        if self.unlabelled is not None and slices <= (most := most_slices(knobs.minutes)):
            if large:
                self.unlabelled.limit(most - slices, self.axes)  # more would change the backbone
            slices += self.unlabelled.count_slices(self.axes)
        patients = {case.patient_id for case in self._cases(self.split.train)}
        chosen = fit_backbone(self.image_size, large, len(patients), slices, knobs.minutes)
        for name, value in chosen.settings.items():
            setattr(knobs, name, value)
        self.why_backbone = chosen.why
        if self.earlier is None:
            self.input_scaling = choose_input_scaling(knobs.input_scaling, knobs.checkpoint, knobs.backbone)

    def _choose_policy(self, intensity: Intensity, labelled: LabelledVolumes) -> tuple[IntensityPolicy, str]:
        """The policy, and a sentence that states which it is and why."""
        if self.earlier is not None:
            return self.earlier.policy, "the policy of the run to start from."
        policy, reason = policy_of_cases(
            labelled.cases, self.check.headers, intensity, self.cases.intensity, self.cases.images
        )
        if intensity == self.cases.intensity == "auto":
            policy, reason = visible_policy(policy, reason, labelled)
        if policy.kind == "windows" and self.channels != "repeat":
            raise InputError("intensity: three windows fill SAM's channels. Leave out channels=adjacent.")
        return policy, reason

    def _halves(self) -> Halves:
        return Halves({case.id: case.patient_id for case in self._cases(self.split.train)}, self.seed)

    def _cases(self, ids: Sequence[str]) -> list[Case]:
        return [case for case in self.cases.cases if case.id in set(ids)]
