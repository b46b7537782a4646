#!/usr/bin/env bash
# One would guess that a structure set of rt-utils, filled by "is the pixel's centre inside the polygon?", gives the mask
# that it was made from. It draws contours exactly through the centres of the outermost pixels. DICOM PS3.3 C.8.8.6.3
# counts points on the path to the structure, but the common tests of "inside" do not: a disc of 373 pixels is read as
# 373, 347 or 337, by rounding errors alone: the number changes with the place of the same disc. A square of 100 pixels
# is read as 81. Small structures shrink most.
# Whoever fills such contours with skimage.draw.polygon or matplotlib's Path is hurt.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install -q --disable-pip-version-check --no-deps --target "$folder/packages" \
    rt-utils==1.2.7 pydicom==3.0.1 numpy==2.2.6 opencv-python-headless==4.11.0.86 scikit-image==0.25.2 scipy==1.15.3 \
    lazy-loader==0.4 packaging==24.2
cd "$folder"
PYTHONPATH="$folder/packages" python3 - <<'PYTHON'
import os
from importlib.metadata import version

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from rt_utils import RTStructBuilder
from skimage.draw import polygon

print("rt-utils", version("rt-utils"), "scikit-image", version("scikit-image"), "numpy", np.__version__)
SPACING = 0.68359375  # 350 mm / 512


def series(folder, origin):
    os.makedirs(folder)
    ids = generate_uid(), generate_uid(), generate_uid()
    for index in range(3):
        image = Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = CTImageStorage
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        image.Modality, image.PatientID, image.PatientName, image.PatientSex = "CT", "1", "A^B", "O"
        image.PatientBirthDate = image.StudyDate = image.StudyTime = image.StudyID = image.AccessionNumber = ""
        image.ReferringPhysicianName = ""
        image.SeriesInstanceUID, image.StudyInstanceUID, image.FrameOfReferenceUID = ids
        image.Rows = image.Columns = 40
        image.PixelSpacing, image.SliceThickness = [SPACING, SPACING], 2
        image.ImagePositionPatient, image.ImageOrientationPatient = [origin, origin, 2 * index], [1, 0, 0, 0, 1, 0]
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit, image.PixelRepresentation = 15, 0
        image.PixelData = bytes(2 * 40 * 40)
        image.save_as(f"{folder}/{index}.dcm", enforce_file_format=True)


rows, columns = np.ogrid[:40, :40]
disc = (rows - 20) ** 2 + (columns - 20) ** 2 < 119
square = (abs(rows - 15.5) < 5) & (abs(columns - 15.5) < 5)
found = {}
for name, mask in (("disc", disc), ("square", square)):
    found[name] = []
    for number, origin in enumerate((-175.0, -171.3, 12.7, 0.1)):
        series(f"{name}{number}", origin)
        made = RTStructBuilder.create_new(dicom_series_path=f"{name}{number}")
        made.add_roi(mask=np.stack([mask] * 3, axis=2), name="a")
        made.save(f"{name}{number}.dcm")
        contour = pydicom.dcmread(f"{name}{number}.dcm").ROIContourSequence[0].ContourSequence[0]
        points = (np.reshape([float(value) for value in contour.ContourData], (-1, 3))[:, :2] - origin) / SPACING
        found[name].append(len(polygon(points[:, 1], points[:, 0], (40, 40))[0]))
    print(f"{name}: {mask.sum()} pixels in the mask, read at four places: {found[name]}")
assert disc.sum() == 373, "the input has changed"
assert min(found["disc"]) < 350 and {*found["square"]} == {100, 81}, "the behaviour has changed"
PYTHON
