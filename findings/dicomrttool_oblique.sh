#!/usr/bin/env bash
# One would guess that DicomRTTool reads a structure set on an oblique series as it does on an axial one. It finds the
# slice of a contour by the z coordinate of its first point, and on oblique slices z changes within a slice. So contours
# land on other slices, and two on one slice cancel out: of a box of 10 x 10 pixels on 5 slices, 500 voxels, 300 are left,
# without an error or a warning. On an axial series the same box is read right.
# Whoever converts structure sets of oblique MR with it is hurt.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install -q --disable-pip-version-check --target "$folder/packages" \
    dicomrttool==6.2.0 pydicom==3.0.1 numpy==2.2.6 SimpleITK==2.5.2 opencv-python-headless==4.11.0.86
cd "$folder"
PYTHONPATH="$folder/packages" python3 - <<'PYTHON'
import logging
import os
from importlib.metadata import version

import numpy as np
from DicomRTTool import DicomReaderWriter
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, RTStructureSetStorage, generate_uid

logging.disable(logging.CRITICAL)
print("DicomRTTool", version("dicomrttool"), "SimpleITK", version("SimpleITK"), "numpy", np.__version__)


def bare(sop_class, modality, ids):
    item = Dataset()
    item.file_meta = FileMetaDataset()
    item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    item.SOPClassUID = item.file_meta.MediaStorageSOPClassUID = sop_class
    item.SOPInstanceUID = item.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    item.Modality, item.PatientID, item.PatientName = modality, "1", "A^B"
    item.StudyInstanceUID, item.SeriesInstanceUID, item.FrameOfReferenceUID = ids
    return item


def voxels(name, orientation):
    """Voxels that are read of a box of 10 x 10 pixels on each of 5 slices."""
    os.makedirs(name)
    ids = [generate_uid() for _ in range(3)]
    row, column = np.reshape(orientation, (2, 3))
    normal, origin = np.cross(row, column), np.array([-171.3, 12.7, 55.1])
    contours = []
    for index in range(5):
        image = bare(MRImageStorage, "MR", ids)
        image.Rows = image.Columns = 40
        image.PixelSpacing, image.SliceThickness, image.InstanceNumber = [0.7, 0.7], 2.5, index + 1
        position = origin + 2.5 * index * normal
        image.ImagePositionPatient = [f"{value:.10g}" for value in position]
        image.ImageOrientationPatient = [f"{value:.10g}" for value in orientation]
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit, image.PixelRepresentation = 15, 0
        image.PixelData = bytes(2 * 40 * 40)
        image.save_as(f"{name}/{index}.dcm", enforce_file_format=True)
        corners = ((9.6, 9.6), (19.4, 9.6), (19.4, 19.4), (9.6, 19.4))
        points = [position + 0.7 * (i * row + j * column) for i, j in corners]
        contour, reference = Dataset(), Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
        contour.ContourImageSequence = [reference]
        contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", 4
        contour.ContourData = [f"{value:.10g}" for value in np.ravel(points)]
        contours.append(contour)
    structures = bare(RTStructureSetStorage, "RTSTRUCT", [ids[0], generate_uid(), ids[2]])
    region, drawn, frame, study, series = Dataset(), Dataset(), Dataset(), Dataset(), Dataset()
    region.ROINumber, region.ROIName, region.ReferencedFrameOfReferenceUID = 1, "box", ids[2]
    drawn.ReferencedROINumber, drawn.ContourSequence = 1, contours
    series.SeriesInstanceUID, series.ContourImageSequence = ids[1], [c.ContourImageSequence[0] for c in contours]
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = "1.2.840.10008.3.1.2.3.1", ids[0]
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = ids[2], [study]
    structures.ReferencedFrameOfReferenceSequence = [frame]
    structures.StructureSetROISequence, structures.ROIContourSequence = [region], [drawn]
    os.makedirs(f"{name}_structures")
    structures.save_as(f"{name}_structures/box.dcm", enforce_file_format=True)
    reader = DicomReaderWriter(Contour_Names=["box"], arg_max=False, verbose=False)
    reader.walk_through_folders(name)
    reader.walk_through_folders(f"{name}_structures")
    reader.get_images_and_mask()
    return np.asarray(reader.mask)[..., 1].sum(axis=(1, 2)).tolist()


axial = voxels("axial", (1, 0, 0, 0, 1, 0))
oblique = voxels("oblique", (0.8, 0.6, 0, -0.48, 0.64, 0.6))
print(f"right: [100, 100, 100, 100, 100] voxels a slice; axial: {axial}; oblique: {oblique}")
assert axial == [100] * 5 and sum(oblique) != 500, "the behaviour has changed"
PYTHON
