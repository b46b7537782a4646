"""DICOM series for tests, written with pydicom."""

from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, uid
from pydicom.dataset import FileMetaDataset

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.volumes import io

SECRET = "Doe^Jane"
IDENTIFIER = "PATIENT-4711"
BIRTH = "19610203"
AXIAL = (1, 0, 0, 0, 1, 0)
STORED = np.random.default_rng(0).integers(0, 2000, (6, 5, 4)).astype(np.int16)  # slices, rows, columns
SPACING = (0.7, 0.9, 2.5)  # between rows, between columns, between slices
HU = STORED.transpose(2, 1, 0).astype(np.float32) - 1024  # what `series` writes by default, (X, Y, Z)
ANGLE = np.deg2rad(20)
OBLIQUE = (np.cos(ANGLE), np.sin(ANGLE), 0, 0, 0, -1)


def bare_image(modality="CT", sop_class=uid.CTImageStorage, **elements):
    """A data set with a patient's name in it, to look for in sentences."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = sop_class
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = uid.generate_uid()
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = SECRET, IDENTIFIER, BIRTH
    dataset.StudyInstanceUID, dataset.StudyDate, dataset.StudyTime = uid.generate_uid(), "", ""
    dataset.SeriesDescription = SECRET
    dataset.StudyID, dataset.AccessionNumber, dataset.ReferringPhysicianName, dataset.PatientSex = "", "", "", ""
    dataset.Modality = modality
    for name, value in elements.items():
        setattr(dataset, name, value)
    return dataset


def set_pixels(dataset, stored):
    """(rows, columns) or (frames, rows, columns) whole numbers as little-endian pixels."""
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    bits = 8 * stored.dtype.itemsize
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    dataset.PixelData = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
    dataset["PixelData"].VR = "OW" if bits > 8 else "OB"


def series(
    stored=STORED, orientation=AXIAL, spacing=SPACING, origin=(-30.0, -40.0, 100.0), number=3, modality="CT", **elements
):
    """One data set for each slice, ``origin`` the position of the first."""
    orientation = np.asarray(orientation, float)
    normal = np.cross(orientation[:3], orientation[3:])
    study_uid, series_uid, frame_of_reference = uid.generate_uid(), uid.generate_uid(), uid.generate_uid()
    found = []
    for index, pixels in enumerate(stored):
        dataset = bare_image(modality)
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study_uid, series_uid
        dataset.FrameOfReferenceUID = frame_of_reference
        dataset.SeriesNumber, dataset.InstanceNumber = number, 1 + (index * 5) % 7  # no order to rely on
        dataset.ImageOrientationPatient = [f"{value:.10g}" for value in orientation]
        dataset.ImagePositionPatient = [f"{v:.10g}" for v in np.asarray(origin) + normal * spacing[2] * index]
        dataset.PixelSpacing, dataset.SliceThickness = list(spacing[:2]), spacing[2]
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
        set_pixels(dataset, pixels)
        for name, value in elements.items():
            setattr(dataset, name, value)
        found.append(dataset)
    return found


def save(folder: Path, datasets, shuffled=True, prefix="IM"):
    """Write data sets to a folder under names without suffix that are in no order."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, dataset in enumerate(datasets):
        name = f"{prefix}{(index * 7 + 3) % 997:03d}" if shuffled else f"{prefix}{index:03d}"
        dataset.save_as(folder / name, enforce_file_format=True)
    return folder


def segmentation(sources, masks, names, kind="BINARY"):
    """A DICOM SEG of masks (slices, rows, columns, structures)."""
    import highdicom
    from pydicom.sr.codedict import codes

    organ = (codes.SCT.Organ, codes.SCT.Liver, "MANUAL")
    segments = [highdicom.seg.SegmentDescription(number, name, *organ) for number, name in enumerate(names, start=1)]
    ids = (uid.generate_uid(), 9, uid.generate_uid(), 1)
    return highdicom.seg.Segmentation(sources, masks, kind, segments, *ids, "maker", "model", "1", "1")


def structure_set(sources, structures):
    """An RTSTRUCT of {name: contours, each (N, 3) in DICOM's mm}; numbers start at 1."""
    dataset = bare_image("RTSTRUCT", uid.RTStructureSetStorage)
    frame = Dataset()
    frame.FrameOfReferenceUID = sources[0].FrameOfReferenceUID
    dataset.ReferencedFrameOfReferenceSequence = [frame]
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(structures.items(), start=1):
        structure, drawn = Dataset(), Dataset()
        structure.ROINumber, structure.ROIName = number, name
        drawn.ReferencedROINumber, drawn.ContourSequence = number, []
        for points in contours:
            contour = Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
            contour.ContourData = [f"{value:.8g}" for value in np.ravel(points)]
            drawn.ContourSequence.append(contour)
        dataset.StructureSetROISequence.append(structure)
        dataset.ROIContourSequence.append(drawn)
    return dataset


def refused(folder, sentence, read=io.read_header, **how):
    """The sentence, which names the folder, is one line, and shows nothing of the patient."""
    with pytest.raises(InputError, match=rf"(?i)^{folder}.*{sentence}") as reported:
        read(folder, **how)
    text = str(reported.value)
    assert "\n" not in text
    assert reported.value.__cause__ is None  # it might quote values
    assert not [word for word in (SECRET, "Doe", IDENTIFIER, BIRTH, "1.2.826") if word in text.replace(str(folder), "")]
