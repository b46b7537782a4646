"""Structure sets that we write, read back by our own reader and by two that are not ours; and the other way round."""

import numpy as np
import pytest
from DicomRTTool import DicomReaderWriter
from rt_utils import RTStructBuilder
from scipy.ndimage import gaussian_filter

from medsam_adapt.data.volumes.dicom_labels import read_dicom_labels
from medsam_adapt.data.volumes.io import read_header
from medsam_adapt.outputs import Segmentation, get_format
from tests.data.dicom_files import save, series

# Square, since rt-utils 1.2.7 takes rows for columns; and square pixels, since it swaps their spacings.
SIDE, SLICES = 40, 5
OBLIQUE = (0.8, 0.6, 0, -0.48, 0.64, 0.6)
AXIAL = (1, 0, 0, 0, 1, 0)


def disc(radius):
    x, y = np.ogrid[:SIDE, :SIDE]
    return np.repeat(((x - 19.3) ** 2 + (y - 20.6) ** 2 < radius**2)[..., None], SLICES, axis=2)


def rings():
    mask = np.zeros((SIDE, SIDE, SLICES), bool)
    for value, size in ((1, 0), (0, 4), (1, 8), (0, 12), (1, 16)):
        mask[3 + size : 37 - size, 3 + size : 37 - size, 1:4] = value
    return mask


def smooth():
    return gaussian_filter(np.random.default_rng(1).standard_normal((SIDE, SIDE, SLICES)), (2, 2, 0)) > 0.02


def specks():
    return np.random.default_rng(2).random((SIDE, SIDE, SLICES)) < 0.02


def thin_wall():
    return disc(9) & ~disc(8)


def snow():
    return np.random.default_rng(3).random((SIDE, SIDE, SLICES)) < 0.6


SHAPES = {
    "a disc": lambda: disc(10.9),
    "rings": rings,
    "blobs": smooth,
    "specks": specks,
    "a thin wall": thin_wall,
    "snow": snow,
}


def ct(folder, orientation=AXIAL, spacing=(0.68359375, 0.68359375, 2.5), shape=(SLICES, SIDE, SIDE)):
    slices = series(np.zeros(shape, np.int16), orientation=orientation, spacing=spacing, origin=(-171.3, 12.7, 55.1))
    for item in slices:
        item.PatientID = "1"
    return save(folder, slices)


def by_rt_utils(folder, path, name):
    """(X, Y, Z): rt-utils gives (rows, columns, slices)."""
    found = RTStructBuilder.create_from(dicom_series_path=str(folder), rt_struct_path=str(path))
    return found.get_roi_mask_by_name(name).transpose(1, 0, 2)


def by_dicomrttool(folder, path, name):
    reader = DicomReaderWriter(Contour_Names=[name], arg_max=False, verbose=False)
    reader.walk_through_folders(str(folder))
    reader.walk_through_folders(str(path.parent))
    reader.get_images_and_mask()
    return np.asarray(reader.mask)[..., 1].transpose(2, 1, 0) > 0


@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE])
@pytest.mark.parametrize("shape", SHAPES)
def test_our_contours_are_the_mask_again_for_each_reader(tmp_path, shape, orientation):
    mask, folder, path = SHAPES[shape](), ct(tmp_path / "ct", orientation), tmp_path / "rt" / "rt.dcm"
    path.parent.mkdir()
    get_format("rtstruct").write(path, Segmentation(mask.astype(np.uint8), ["a"], [1]), read_header(folder))
    np.testing.assert_array_equal(read_dicom_labels(path, folder)[0] > 0, mask)
    np.testing.assert_array_equal(by_rt_utils(folder, path, "a"), mask)
    if orientation == AXIAL:  # DicomRTTool loses slices of oblique series
        np.testing.assert_array_equal(by_dicomrttool(folder, path, "a"), mask)


@pytest.mark.parametrize("shape", SHAPES)
def test_contours_of_rt_utils_are_the_mask_again(tmp_path, shape):
    mask, folder = SHAPES[shape](), ct(tmp_path / "ct")
    made = RTStructBuilder.create_new(dicom_series_path=str(folder))
    made.add_roi(mask=mask.transpose(1, 0, 2), name="a")
    made.save(str(tmp_path / "rt.dcm"))
    np.testing.assert_array_equal(read_dicom_labels(tmp_path / "rt.dcm", folder)[0] > 0, mask)


def test_a_long_contour_on_pixels_that_are_not_square(tmp_path):
    comb = np.zeros((400, 300, 3), bool)  # one contour of more than 64 KiB
    comb[::2, 2:280, 1] = comb[:, 2, 1] = True
    folder = ct(tmp_path / "ct", OBLIQUE, (0.7, 1.3, 2.5), comb.shape[::-1])
    path = tmp_path / "rt.dcm"
    get_format("rtstruct").write(path, Segmentation(comb.astype(np.uint8), ["a"], [1]), read_header(folder))
    np.testing.assert_array_equal(read_dicom_labels(path, folder)[0] > 0, comb)
