"""DICOM RT structure set (.dcm): contours of each structure on every slice, for treatment planning.

How contours run, and how holes are written, is in `_outlines`: readers of several programs give the mask again. Patient
and study are those of the images.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
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
    lps_affine,
    require_highdicom,
    source_images,
    version,
    write_object,
)
from medsam_adapt.outputs._outlines import outlines

SUFFIX = "_rtstruct.dcm"
DESCRIPTION = "DICOM RT structure set, for treatment planning"
HOLDS_OVERLAP = True
NEEDS_DICOM = True


def require() -> None:
    """Raise an InputError when highdicom is not installed."""
    require_highdicom()


def write(path: Path, segmentation: Segmentation, like: VolumeHeader) -> None:
    """Write the contours of all structures to one structure set that refers to the images."""
    write_object(_object, path, segmentation, like)


def check(like: VolumeHeader) -> None:
    """Raise an InputError where contours on these images cannot be written, whatever they will be."""
    check_object(_object, like)


def _object(segmentation: Segmentation, series: SeriesHeader) -> Any:
    images, _ = source_images(series)
    dataset = _structure_set(images)
    roi_names = dicom_names(segmentation.names)
    for number, (name, label_id, mask) in enumerate(segmentation.structures(), start=1):
        _add_structure(dataset, number, roi_names[number - 1], name, label_id)
        dataset.ROIContourSequence[-1].ContourSequence = list(_contours(mask, series, images[0].SOPClassUID))
    return dataset


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
        transfer_syntax_uid=uid.ImplicitVRLittleEndian,  # the explicit one has no room for contours above 64 KiB
        series_description="Contours by medsam-adapt, for research",
        specific_character_set=CHARACTER_SET,
    )
    dataset.copy_patient_and_study_information(first)
    dataset.SpecificCharacterSet = CHARACTER_SET  # not that of the images
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


def _add_structure(dataset: Any, number: int, roi_name: str, name: str, label_id: int) -> None:
    from highdicom.sr import CodedConcept
    from pydicom import Dataset

    structure = describe(name, label_id)
    region, contour, observation = Dataset(), Dataset(), Dataset()
    region.ROINumber, region.ROIName, region.ROIGenerationAlgorithm = number, roi_name, "AUTOMATIC"
    if roi_name != name:
        region.ROIDescription = name[:LONGEST_TEXT]
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
        for corners in outlines(mask[:, :, index]):
            voxels = np.column_stack([corners, np.full(len(corners), index), np.ones(len(corners))])
            item = Dataset()
            frame = source.frame + 1 if source.frame_count > 1 else None
            item.ContourImageSequence = [_image_reference(sop_class, source.instance_uid, frame)]
            item.ContourGeometricType, item.NumberOfContourPoints = "CLOSED_PLANAR", len(corners)
            item.ContourData = [f"{value:.10g}" for value in (voxels @ affine.T)[:, :3].ravel()]
            yield item
