"""How a volume becomes the slices that a network sees, and what the network draws on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from medsam_adapt.config import Axis, Channels, InputScaling, PromptMode
from medsam_adapt.data.slices.clean_up import ClassCleanUp, Step, joint_choice
from medsam_adapt.data.slices.intensity import IntensityPolicy
from medsam_adapt.data.volumes.cleaning import Cleaning
from medsam_adapt.data.volumes.image_set import ImageName
from medsam_adapt.data.volumes.io import LARGEST_LABEL

COLOURS = ("red", "green", "blue")
COORDINATES = ("towards right", "towards anterior", "towards superior")
_EARLIER_SHARE = 0.25  # of the largest piece, below which runs with ``whole`` remove pieces


class SlicingSpec(BaseModel):
    """What training, evaluation and prediction must do alike with a volume; a run's record is one (``run.json``).

    Attributes:
        class_names: names of the classes, in the order of the network's channels, background not among them.
        label_ids: the number of each class in label files.
        absent: classes without a voxel in any training label: kept in the label map and never predicted.
        overlapping: whether a voxel may belong to several classes.
        painted: the label with which each class that may overlap is painted, in this order, into one label map; none
            where each class has a mask.
        cleaning: what is done to each class of a predicted map; none where nothing was to be chosen.
        whole: of runs from before there was ``cleaning``: classes of which fragments are removed.
        axis: slicing direction.
        three_planes: whether slices of all three directions are learned, and the probabilities on them averaged; the
            results are then put together along ``axis``.
        slice_size: side of the square, in pixels, that slices are resized to where the network sees tiles of it; None
            where it sees whole slices.
        coordinates: whether the detail branch also sees where pixels lie in the volume (`slice_coordinates`).
        slice_sigma: standard deviation, in slices, of a Gaussian by which probabilities are averaged over neighbouring
            slices; 0 for none.
        channels: what SAM's three colour channels hold: the slice repeated, or the slice between its two neighbours.
        prompt: what the network is prompted with, one structure at a time; ``none`` for all classes at once.
        images: names of the images of a case that are taken together, in the order of the channels (two and their
            mean, three, or four of a network that takes four); none where a case has one image.
        policy: from the scanner's units to grey levels from 0 to 255.
        input_scaling: from grey levels to the values that the network's weights expect.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    class_names: list[str] = Field(min_length=1, max_length=255)
    label_ids: list[int] = Field(min_length=1, max_length=255)
    absent: list[str] = []
    overlapping: bool = False
    painted: list[int] = []
    cleaning: list[ClassCleanUp] = []
    whole: list[str] = []
    axis: Axis = "axial"
    three_planes: bool = False
    slice_size: int | None = Field(None, ge=16, le=4096)
    coordinates: bool = False
    slice_sigma: float = Field(0.0, ge=0, le=5)
    channels: Channels = "repeat"
    prompt: PromptMode = "none"
    images: list[ImageName] = Field([], max_length=4)
    policy: IntensityPolicy
    input_scaling: InputScaling = "sam"  # of all runs from before there was this setting

    @model_validator(mode="before")
    @classmethod
    def _one_policy_for_each_image(cls, values: Any) -> Any:
        """Runs from before each image had its own policy have one for both of their images."""
        if not isinstance(values, Mapping) or not values.get("images"):
            return values
        policy = values.get("policy")
        plain = policy.model_dump() if isinstance(policy, IntensityPolicy) else policy
        if not isinstance(plain, Mapping) or plain.get("kind") not in ("window", "percentile"):
            return values
        each = {"kind": "channels", "channels": [dict(plain)] * len(values["images"])}
        return {**values, "policy": {**each, "modality": plain.get("modality", "other")}}

    @model_validator(mode="after")
    def _agrees(self) -> SlicingSpec:
        if len(self.class_names) != len(self.label_ids):
            raise ValueError("there are not as many class_names as label_ids")
        if len({*self.class_names}) < len(self.class_names) or len({*self.label_ids}) < len(self.label_ids):
            raise ValueError("a class name or a label id is given twice")
        if not all(0 < label_id <= LARGEST_LABEL for label_id in self.label_ids):
            raise ValueError(f"label ids go from 1 to {LARGEST_LABEL}")
        if self.painted and len(self.painted) != len(self.class_names):
            raise ValueError("there are not as many painted labels as class_names")
        if not all(0 < label_id <= LARGEST_LABEL for label_id in self.painted):
            raise ValueError(f"painted labels go from 1 to {LARGEST_LABEL}")
        if not {*self.absent} <= {*self.class_names}:
            raise ValueError("a class that is absent is none of class_names")
        if not {*self.whole, *(each.name for each in self.cleaning)} <= {*self.class_names}:
            raise ValueError("a class in whole or cleaning is none of class_names")
        if self.images and len({*self.images}) < len(self.images):
            raise ValueError("an image is named twice")
        if (len(self.images) or 1) != len(self.policy.each) or (self.images and self.policy.kind != "channels"):
            raise ValueError("there is not one intensity policy for each image")
        if self.slice_size is not None and self.prompt != "none":
            raise ValueError("prompts are placed on whole slices, so tiles cannot be")
        if self.three_planes and self.prompt != "none":
            raise ValueError("a prompt lies on slices of one direction, so three_planes cannot be")
        if self.coordinates and self.prompt != "none":
            raise ValueError("a prompt shows where a structure is, so coordinates cannot be")
        if self.slice_sigma and self.prompt != "none":
            raise ValueError("a neighbouring slice may have no prompt, so slice_sigma cannot be")
        return self

    @property
    def input_channels(self) -> list[str]:
        """What each channel of the network's input is: the images of a case, or SAM's colours."""
        if not self.images:
            neighbours = ["previous slice", "slice", "next slice"]
            return neighbours if self.channels == "adjacent" else list(COLOURS)
        return [*self.images, "mean of both"] if len(self.images) == 2 else list(self.images)

    @property
    def network_channels(self) -> list[str]:
        """The same, and the coordinates behind them where the network sees those too."""
        return [*self.input_channels, *(COORDINATES if self.coordinates else ())]

    def describe_images(self) -> str:
        """Which image goes where, as a part of a sentence."""
        channels = self.input_channels
        if len(channels) == len(COLOURS):
            return ", ".join(f"{name} is {colour}" for name, colour in zip(channels, COLOURS, strict=True))
        return f"{', '.join(channels)}, {len(channels)} channels that the first layer mixes by trained weights"

    @property
    def planes(self) -> list[SlicingSpec]:
        """One spec for each direction that volumes are sliced in; that of ``axis`` first."""
        others = [axis for axis in get_args(Axis) if axis != self.axis] if self.three_planes else []
        alone = self.slicing.model_copy(update={"three_planes": False})
        return [alone.model_copy(update={"axis": axis}) for axis in (self.axis, *others)]

    @property
    def absent_classes(self) -> list[int]:
        """The absent classes as the network numbers them, from 1."""
        return [self.class_names.index(name) + 1 for name in self.absent]

    @property
    def cleanings(self) -> dict[int, Cleaning]:
        """What is done to the classes of a predicted map, by their numbers from 1, in the order in which it is done."""
        return joint_cleanings([self])

    @property
    def whole_classes(self) -> dict[int, Cleaning]:
        """The same under the name by which ``inference.json`` of earlier runs calls it."""
        return self.cleanings

    @property
    def slicing(self) -> SlicingSpec:
        """These values alone, without what a record adds to them."""
        return SlicingSpec(**{name: getattr(self, name) for name in SlicingSpec.model_fields})


def joint_cleanings(specs: Sequence[SlicingSpec]) -> dict[int, Cleaning]:
    """The clean-up of runs that segment together: of each class what one run chose and no run rejected.

    Holes are filled first, so that what is removed of one class does not fill a hole of another.
    """
    first, *others = specs
    if first.overlapping:
        return {}
    earlier = [ClassCleanUp(name=name, step="fragments", min_share=_EARLIER_SHARE) for name in first.whole]
    choices = [*(first.cleaning or earlier), *(each for spec in others for each in spec.cleaning)]
    by_class = {
        number: joint_choice([each for each in choices if each.name == name])
        for number, name in enumerate(first.class_names, start=1)
    }
    found = {number: choice for number, choice in by_class.items() if choice is not None}
    order = get_args(Step)
    return {number: found[number].cleaning for number in sorted(found, key=lambda each: order.index(found[each].step))}
