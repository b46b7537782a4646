"""DICOM RT structure set (.dcm): contours of each structure on every slice, for treatment planning.

A contour runs half-way between the centres of the pixels inside and outside, so the pixels whose centres it encloses
are the mask again. Where a structure has a hole, its contours on that slice are combined by exclusive or, as the
standard's CLOSEDPLANAR_XOR says. Patient and study are those of the images.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from skimage.measure import find_contours

from medsam_adapt.data.volumes.formats.dicom import SeriesHeader
from medsam_adapt.data.volumes.io import VolumeHeader
from medsam_adapt.outputs import Segmentation
from medsam_adapt.outputs._anatomy import ANATOMICAL_STRUCTURE, describe
from medsam_adapt.outputs._dicom import (
    MANUFACTURER,
    SERIES_NUMBER,
    coded,
    lps_affine,
    refused_if_unusable,
    require_highdicom,
    save,
    series_of,
    source_images,
    version,
)

SUFFIX = "_rtstruct.dcm"
DESCRIPTION = "DICOM RT structure set, for treatment planning"
HOLDS_OVERLAP = True
NEEDS_DICOM = True


def require() -> None:
    """Raise an InputError when highdicom is not installed."""
    require_highdicom()


def write(path: Path, segmentation: Segmentation, like: VolumeHeader) -> None:
    """Write the contours of all structures to one structure set that refers to the images."""
    series = series_of(like)
    with refused_if_unusable(series):
        images, _ = source_images(series)
        dataset = _structure_set(images)
        for number, (name, label_id, mask) in enumerate(segmentation.structures(), start=1):
            _add_structure(dataset, number, name, label_id)
            dataset.ROIContourSequence[-1].ContourSequence = list(_contours(mask, series, images[0].SOPClassUID))
        save(dataset, path)


def _structure_set(images: list[Any]) -> Any:
    """A structure set without structures, with the patient, the study and the references of the images."""
    import highdicom as hd
    from highdicom.base import SOPClass
    from pydicom import uid

    first, now = images[0], datetime.now()
    dataset = SOPClass(
        study_instance_uid=first.StudyInstanceUID,
        series_instance_uid=hd.UID(),
        series_number=SERIES_NUMBER + 1,
        sop_instance_uid=hd.UID(),
        sop_class_uid=uid.RTStructureSetStorage,
        instance_number=1,
        modality="RTSTRUCT",
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER,
        software_versions=version(),
        transfer_syntax_uid=uid.ExplicitVRLittleEndian,
        series_description="Contours by medsam-adapt, for research",
    )
    dataset.copy_patient_and_study_information(first)
    dataset.FrameOfReferenceUID = first.FrameOfReferenceUID
    dataset.PositionReferenceIndicator = first.get("PositionReferenceIndicator", "")
    dataset.StructureSetLabel = "SEGMENTATION"
    dataset.StructureSetDate, dataset.StructureSetTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    dataset.ApprovalStatus = "UNAPPROVED"
    dataset.ReferencedFrameOfReferenceSequence = [_references(images)]
    dataset.StructureSetROISequence, dataset.ROIContourSequence, dataset.RTROIObservationsSequence = [], [], []
    return dataset


def _references(images: list[Any]) -> Any:
    """Frame of reference, study, series and images that were segmented."""
    from pydicom import Dataset, uid

    first = images[0]
    frame, study, series = Dataset(), Dataset(), Dataset()
    frame.FrameOfReferenceUID = first.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    study.ReferencedSOPClassUID = uid.UID("1.2.840.10008.3.1.2.3.1")  # a study, the only value that the standard has
    study.ReferencedSOPInstanceUID = first.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    series.SeriesInstanceUID = first.SeriesInstanceUID
    series.ContourImageSequence = [_image_reference(image.SOPClassUID, image.SOPInstanceUID) for image in images]
    return frame


def _image_reference(sop_class: str, instance: str, frame: int | None = None) -> Any:
    from pydicom import Dataset

    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = sop_class, instance
    if frame is not None:
        reference.ReferencedFrameNumber = frame
    return reference


def _add_structure(dataset: Any, number: int, name: str, label_id: int) -> None:
    from highdicom.sr import CodedConcept
    from pydicom import Dataset

    structure = describe(name, label_id)
    region, contour, observation = Dataset(), Dataset(), Dataset()
    region.ROINumber, region.ROIName, region.ROIGenerationAlgorithm = number, name[:64], "AUTOMATIC"
    region.ReferencedFrameOfReferenceUID = dataset.FrameOfReferenceUID
    contour.ReferencedROINumber, contour.ROIDisplayColor = number, list(structure.colour)
    observation.ObservationNumber = observation.ReferencedROINumber = number
    observation.RTROIInterpretedType, observation.ROIInterpreter = "ORGAN", ""
    if structure.code != ANATOMICAL_STRUCTURE:
        observation.RTROIIdentificationCodeSequence = [CodedConcept.from_code(coded(structure.code))]
    dataset.StructureSetROISequence.append(region)
    dataset.ROIContourSequence.append(contour)
    dataset.RTROIObservationsSequence.append(observation)


def _contours(mask: np.ndarray, series: SeriesHeader, sop_class: str) -> Iterator[Any]:
    """A contour item for each closed line on each slice of a mask (X, Y, Z)."""
    from pydicom import Dataset

    affine = lps_affine(series)
    for index in np.flatnonzero(mask.any(axis=(0, 1))):
        source = series.slices[index]
        lines = [line - 1 for line in find_contours(np.pad(mask[:, :, index], 1).astype(np.uint8), 0.5)]
        kind = "CLOSEDPLANAR_XOR" if _has_hole(lines) else "CLOSED_PLANAR"
        for line in lines:
            corners = line[:-1]  # the first point comes again at the end
            voxels = np.column_stack([corners, np.full(len(corners), index), np.ones(len(corners))])
            item = Dataset()
            frame = source.frame + 1 if source.frame_count > 1 else None
            item.ContourImageSequence = [_image_reference(sop_class, source.instance_uid, frame)]
            item.ContourGeometricType, item.NumberOfContourPoints = kind, len(corners)
            item.ContourData = [f"{value:.10g}" for value in (voxels @ affine.T)[:, :3].ravel()]
            yield item


def _has_hole(lines: list[np.ndarray]) -> bool:
    """Whether some contours run the other way round than others, as `find_contours` draws those of holes."""
    areas = [np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) for x, y in (line.T for line in lines)]
    return min(areas) < 0 < max(areas)
