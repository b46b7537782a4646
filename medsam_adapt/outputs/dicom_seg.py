"""DICOM segmentation object (.dcm): one binary segment for each structure, on the frames of the images segmented.

It carries the patient and the study of those images, as the standard asks, so it belongs where they are kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medsam_adapt.data.volumes.formats.dicom import SeriesHeader
from medsam_adapt.data.volumes.io import VolumeHeader
from medsam_adapt.outputs import Segmentation
from medsam_adapt.outputs._anatomy import ANATOMICAL_STRUCTURE, describe
from medsam_adapt.outputs._dicom import (
    CHARACTER_SET,
    LONGEST_TEXT,
    MANUFACTURER,
    SERIES_NUMBER,
    check_object,
    coded,
    dicom_names,
    require_highdicom,
    source_images,
    version,
    write_object,
)

SUFFIX = "_seg.dcm"
DESCRIPTION = "DICOM segmentation, for a hospital's archive"
HOLDS_OVERLAP = True
NEEDS_DICOM = True
_ALGORITHM = {"by a model": "AUTOMATIC", "by people": "MANUAL", "by both": "SEMIAUTOMATIC"}


def require() -> None:
    """Raise an InputError when highdicom is not installed."""
    require_highdicom()


def write(path: Path, segmentation: Segmentation, like: VolumeHeader) -> None:
    """Write all segments to one object that refers to the images."""
    write_object(_object, path, segmentation, like)


def check(like: VolumeHeader) -> None:
    """Raise an InputError where a segmentation of these images cannot be written, whatever it will be."""
    check_object(_object, like)


def _object(segmentation: Segmentation, series: SeriesHeader) -> Any:
    import highdicom as hd

    images, order = source_images(series)
    frames = _frames(segmentation)[order]
    named = zip(dicom_names(segmentation.names), segmentation.names, segmentation.label_ids, strict=True)
    return hd.seg.Segmentation(
        source_images=images,
        pixel_array=frames,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_describe(index, *each, segmentation.drawn) for index, each in enumerate(named, start=1)],
        series_instance_uid=hd.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER,
        software_versions=version(),
        device_serial_number="0",
        content_label="SEGMENTATION",
        series_description="Segmentation by medsam-adapt, for research",
        omit_empty_frames=bool(frames.any()),
        specific_character_set=CHARACTER_SET,
    )


def _frames(segmentation: Segmentation) -> np.ndarray:
    """(slices, rows, columns) of segment numbers, or (slices, rows, columns, segments) of 0 and 1."""
    voxels = segmentation.voxels
    if segmentation.overlapping:
        return np.ascontiguousarray(voxels.transpose(3, 2, 1, 0))
    numbers = np.zeros(max(int(voxels.max(initial=0)), *segmentation.label_ids) + 1, dtype=np.uint8)
    numbers[list(segmentation.label_ids)] = np.arange(1, len(segmentation.label_ids) + 1)
    return np.ascontiguousarray(numbers[voxels].transpose(2, 1, 0))


def _describe(number: int, label: str, name: str, label_id: int, drawn: str = "by a model") -> Any:
    import highdicom as hd
    from highdicom.color import CIELabColor
    from pydicom.sr.codedict import codes

    structure = describe(name, label_id)
    algorithm = hd.AlgorithmIdentificationSequence(
        name=MANUFACTURER, family=codes.cid7162.ArtificialIntelligence, version=version()
    )
    description = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=coded(ANATOMICAL_STRUCTURE),
        segmented_property_type=coded(structure.code),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues[_ALGORITHM[drawn]],
        algorithm_identification=None if drawn == "by people" else algorithm,
        tracking_uid=hd.UID(),
        tracking_id=label,
        display_color=CIELabColor.from_rgb(*structure.colour),
    )
    if label != name:
        description.SegmentDescription = name[:LONGEST_TEXT]
    if structure.side is not None:
        side = hd.sr.CodedConcept.from_code(coded(structure.side))
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [side]
    return description
