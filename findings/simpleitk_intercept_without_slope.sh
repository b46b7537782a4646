#!/usr/bin/env bash
# SimpleITK 2.5.0 adds the intercept of a NIfTI file whose slope is 0; nibabel, and the standard, ignore both.
# One would guess: NIfTI says that scl_slope 0 means "no scaling", so that the numbers of a label stay as stored.
# What happens: SimpleITK gives every voxel plus scl_inter: background 0 becomes 5, and the label 1 becomes 6.
# Who is hurt: whoever scores or trains on such labels with one library and writes them with another.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m pip install --quiet --target "$folder/site" SimpleITK==2.5.0 nibabel==5.3.2 numpy==2.2.6 2>/dev/null
cat > "$folder/show.py" <<'PYTHON'
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk

label = np.zeros((4, 4, 4), np.int16)
label[1:3, 1:3, 1:3] = 1
header = nib.Nifti1Image(label, np.eye(4)).header
header.set_sform(np.eye(4), 1)
header["vox_offset"], header["magic"], header["scl_slope"], header["scl_inter"] = 352, b"n+1", 0, 5
path = Path(sys.argv[1], "label.nii")
path.write_bytes(header.binaryblock.ljust(352, b"\0") + label.tobytes(order="F"))
by_nibabel = np.unique(np.asarray(nib.load(path).dataobj)).tolist()
by_itk = np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(path)))).tolist()
print("SimpleITK", sitk.Version_VersionString(), "nibabel", nib.__version__)
print("stored: [0, 1], slope 0, intercept 5")
print("nibabel reads", by_nibabel)
print("SimpleITK reads", by_itk)
assert by_nibabel == [0, 1]
assert by_itk == [5, 6]
PYTHON
PYTHONPATH="$folder/site" python "$folder/show.py" "$folder"
