#!/usr/bin/env bash
# One would guess that rt-utils places the contours of a mask where the mask's pixels are. Where pixels are not square,
# it multiplies columns by the distance between rows and rows by the distance between columns (PixelSpacing holds the
# distance between rows first): a box of 10 x 20 pixels of 1.0 x 0.5 mm, 9 x 9.5 mm between its outermost centres, is
# drawn as 4.5 x 19 mm, in another place. rt-utils reads its own files back right, since it divides by the same numbers.
# Whoever sends such a structure set to a planning system, or trains on it with another reader, is hurt.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install -q --disable-pip-version-check --no-deps --target "$folder/packages" \
    rt-utils==1.2.7 pydicom==3.0.1 numpy==2.2.6 opencv-python-headless==4.11.0.86
cd "$folder"
PYTHONPATH="$folder/packages" python3 - <<'PYTHON'
import os
from importlib.metadata import version

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from rt_utils import RTStructBuilder

print("rt-utils", version("rt-utils"), "pydicom", version("pydicom"), "numpy", np.__version__)
os.makedirs("ct")
series, study, frame = generate_uid(), generate_uid(), generate_uid()
for index in range(3):
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = CTImageStorage
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    image.Modality, image.PatientID, image.PatientName, image.PatientSex = "CT", "1", "A^B", "O"
    image.PatientBirthDate = image.StudyDate = image.StudyTime = image.StudyID = image.AccessionNumber = ""
    image.ReferringPhysicianName = ""
    image.SeriesInstanceUID, image.StudyInstanceUID, image.FrameOfReferenceUID = series, study, frame
    image.Rows = image.Columns = 40
    image.PixelSpacing, image.SliceThickness = [0.5, 1.0], 2  # between rows, between columns
    image.ImagePositionPatient, image.ImageOrientationPatient = [0, 0, 2 * index], [1, 0, 0, 0, 1, 0]
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation = 15, 0
    image.PixelData = bytes(2 * 40 * 40)
    image.save_as(f"ct/{index}.dcm", enforce_file_format=True)

mask = np.zeros((40, 40, 3), bool)  # rows, columns, slices, as rt-utils wants it
mask[10:30, 5:15, 1] = True
made = RTStructBuilder.create_new(dicom_series_path="ct")
made.add_roi(mask=mask, name="box")
made.save("box.dcm")
contour = pydicom.dcmread("box.dcm").ROIContourSequence[0].ContourSequence[0]
points = np.reshape([float(value) for value in contour.ContourData], (-1, 3))
low, high = points.min(axis=0)[:2], points.max(axis=0)[:2]
print(f"right: x from 5 to 14 mm, y from 5 to 14.5 mm; drawn: x from {low[0]:g} to {high[0]:g}, y from {low[1]:g} to {high[1]:g}")
assert np.allclose([*low, *high], [2.5, 10, 7, 29], atol=1e-3), "the behaviour has changed"
again = RTStructBuilder.create_from(dicom_series_path="ct", rt_struct_path="box.dcm").get_roi_mask_by_name("box")
print("rt-utils reads its own file back right:", np.array_equal(again, mask))
assert np.array_equal(again, mask), "the behaviour has changed"
PYTHON
