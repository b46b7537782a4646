"""The attributes of one frame, wherever they are: at the top level of a file or in functional groups."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pydicom import Dataset

Sources = tuple["Dataset", ...]

# What distinguishes the volumes of one series, in the order in which it is asked: the name for --series, and the places
# (macro of multi-frame files or "", attribute). Of the last ones, single volumes have several values too.
VARYING: dict[str, tuple[tuple[str, str], ...]] = {
    "TemporalPositionIdentifier": (
        ("", "TemporalPositionIdentifier"),
        ("FrameContentSequence", "TemporalPositionIndex"),
    ),
    "EchoTime": (("", "EchoTime"), ("MREchoSequence", "EffectiveEchoTime")),
    "EchoNumbers": (("", "EchoNumbers"),),
    "DiffusionBValue": (("", "DiffusionBValue"), ("MRDiffusionSequence", "DiffusionBValue")),
    "DiffusionGradientOrientation": (("", "DiffusionGradientOrientation"),),
    "InversionTime": (("", "InversionTime"), ("MRModifierSequence", "InversionTimes")),
    "FlipAngle": (("", "FlipAngle"), ("MRTimingAndRelatedParametersSequence", "FlipAngle")),
    "NominalPercentageOfCardiacPhase": (
        ("", "NominalPercentageOfCardiacPhase"),
        ("CardiacSynchronizationSequence", "NominalPercentageOfCardiacPhase"),
    ),
    "ImageType": (
        ("MRImageFrameTypeSequence", "FrameType"),
        ("CTImageFrameTypeSequence", "FrameType"),
        ("PETFrameTypeSequence", "FrameType"),
        ("", "ImageType"),
    ),
    "ComplexImageComponent": (
        ("MRImageFrameTypeSequence", "ComplexImageComponent"),
        ("", "ComplexImageComponent"),
    ),
    "KVP": (("", "KVP"), ("CTXRayDetailsSequence", "KVP")),
    "ConvolutionKernel": (("", "ConvolutionKernel"), ("CTReconstructionSequence", "ConvolutionKernel")),
    "FrameReferenceTime": (("", "FrameReferenceTime"),),
    "AcquisitionNumber": (("", "AcquisitionNumber"), ("FrameContentSequence", "FrameAcquisitionNumber")),
    "TriggerTime": (
        ("", "TriggerTime"),
        ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
    ),
}
OFTEN_WITHIN_A_VOLUME = ("AcquisitionNumber", "TriggerTime")
VARYING_TAGS = sorted({name for places in VARYING.values() for macro, name in places if not macro})


class UnsupportedValuesError(ValueError):
    """Valid DICOM that this package cannot turn into numbers; the message is the second half of a sentence."""


def sources_of(dataset: Dataset, count: int) -> Iterator[Sources]:
    """Where each frame's attributes stand, the most particular first."""
    groups = dataset.get("PerFrameFunctionalGroupsSequence")
    shared = tuple(dataset.get("SharedFunctionalGroupsSequence") or ())
    if groups is None:
        if count == 1:
            yield (*shared, dataset)
        return  # frames without separate positions are no volume
    if len(groups) != count:
        raise ValueError("frames")
    for group in groups:
        yield (group, *shared, dataset)


def _values(sources: Sources, macro: str, name: str) -> Any:
    """An attribute of one frame, from its functional groups or from the file's top level; None where it is absent."""
    for source in sources:
        for place in (*(source.get(macro) or () if macro else ()), source):
            if (value := place.get(name)) is not None and value != "":
                return value
    return None


def numbers(sources: Sources, macro: str, name: str, length: int) -> tuple[float, ...] | None:
    """``length`` finite numbers of one frame; None where the attribute is absent."""
    if (value := _values(sources, macro, name)) is None:
        return None
    found = tuple(float(part) for part in (value if length > 1 else [value]))
    if len(found) != length or not all(map(math.isfinite, found)):
        raise ValueError(name)
    return found


def measures(sources: Sources) -> dict[str, Any] | None:
    """Spacing and thickness of one frame; None where the spacing is not given."""
    macro = "PixelMeasuresSequence"
    names = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
    name = next((name for name in names if _values(sources, macro, name) is not None), None)
    if name is None:
        return None
    spacing = numbers(sources, macro, name, 2)
    if spacing is None or min(spacing) <= 0:
        raise ValueError("spacing")
    distance = numbers(sources, macro, "SpacingBetweenSlices", 1) or numbers(sources, macro, "SliceThickness", 1)
    thickness = numbers(sources, macro, "SliceThickness", 1)
    return {
        "pixel_spacing": spacing,
        "spacing_from": name,
        "step": distance[0] if distance else None,
        "thickness": thickness[0] if thickness else None,
    }


def rescaling(sources: Sources) -> dict[str, Any]:
    """Slope and intercept of one frame: the modality's own, or the mapping to real-world values.

    Raises:
        UnsupportedValuesError: the values go through a table, or are mapped in several ways.
    """
    macro = "PixelValueTransformationSequence"
    slope = numbers(sources, macro, "RescaleSlope", 1)
    intercept = numbers(sources, macro, "RescaleIntercept", 1)
    if any(source.get("ModalityLUTSequence") for source in sources):
        raise UnsupportedValuesError("turns its values into others by a table (ModalityLUTSequence)")
    if slope is None and intercept is None:
        return _real_world(sources)
    return {"slope": 1.0 if slope is None else slope[0], "intercept": 0.0 if intercept is None else intercept[0]}


def _real_world(sources: Sources) -> dict[str, Any]:
    found: set[tuple[float, float]] = set()
    items = next((items for source in sources if (items := source.get("RealWorldValueMappingSequence"))), ())
    for item in items:
        slope = numbers((item,), "", "RealWorldValueSlope", 1)
        if slope is None:
            raise UnsupportedValuesError("turns its values into others by a table (RealWorldValueMappingSequence)")
        found.add((slope[0], (numbers((item,), "", "RealWorldValueIntercept", 1) or (0.0,))[0]))
    if len(found) > 1:
        raise UnsupportedValuesError("maps its values to several quantities (RealWorldValueMappingSequence)")
    slope_, intercept = found.pop() if found else (1.0, 0.0)
    return {"slope": slope_, "intercept": intercept}


def varying(sources: Sources) -> dict[str, str]:
    """Name -> value, as text, of the attributes in `VARYING` that one frame has."""
    found = {}
    for label, places in VARYING.items():
        for macro, name in places:
            if (value := _values(sources, macro, name)) is not None:
                found[label] = _as_text(value)
                break
    return found


def _as_text(value: Any) -> str:
    parts = [value] if isinstance(value, str | int | float) else list(value)
    texts = (f"{float(part):g}" if isinstance(part, int | float) else str(part).strip() for part in parts)
    return "/".join(texts)


def padding(dataset: Dataset, dtype: np.dtype) -> tuple[float, float] | None:
    """The lowest and the highest stored value that means "no pixel here"; None where there is no such value."""
    name, limit = "PixelPaddingValue", "PixelPaddingRangeLimit"
    if dtype.kind == "f":
        kind = "Float" if dtype.itemsize == 4 else "DoubleFloat"
        name, limit = kind + name, kind + limit
    values = [dataset.get(key) for key in (name, limit)]
    found = sorted(_as_stored(float(value), dtype) for value in values if isinstance(value, int | float))
    return (found[0], found[-1]) if found else None


def _as_stored(value: float, dtype: np.dtype) -> float:
    """A padding value as the pixels hold it: writers confuse signed and unsigned, so -2000 comes as 63536."""
    if dtype.kind == "f" or np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
        return value
    span = float(1 << 8 * dtype.itemsize)
    return value - span if value > 0 else value + span
