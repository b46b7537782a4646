"""Slicing specifications of classes that only have numbers, and training data under some settings."""

from pathlib import Path

from medsam_adapt.config import Knobs
from medsam_adapt.data.slices.intensity import IntensityPolicy
from medsam_adapt.data.slices.slicing_spec import SlicingSpec
from medsam_adapt.data.slices.training_data import TrainingData

WINDOW = IntensityPolicy(kind="window", low=-160, high=240)


def slicing_of(axis="axial", channels="repeat", prompt="none", num_classes=1, absent=(), policy=WINDOW, **fields):
    """How volumes of ``num_classes`` classes are sliced; ``absent`` holds the numbers of classes."""
    names = [f"class {number}" for number in range(1, num_classes + 1)]
    return SlicingSpec(
        class_names=names,
        label_ids=list(range(1, num_classes + 1)),
        absent=[names[number - 1] for number in absent],
        axis=axis,
        channels=channels,
        prompt=prompt,
        policy=policy,
        **fields,
    )


def training_data(root, **settings):
    """The data of a training on ``root`` under the defaults of `Knobs` and some settings; paths may be `Path`."""
    typed = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
    return TrainingData(root, Knobs(**typed))
