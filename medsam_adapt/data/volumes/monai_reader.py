"""MONAI's door to `read_volume`: every format, with the same checks and the same geometry."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from monai.config import KeysCollection, PathLike
from monai.data import ImageReader
from monai.data.utils import is_supported_format
from monai.transforms import LoadImaged
from monai.utils import ensure_tuple
from monai.utils.enums import MetaKeys, SpaceKeys

from medsam_adapt.data.volumes.image_set import ImageSet, as_set
from medsam_adapt.data.volumes.io import FORMATS, PICTURES, VolumeHeader, read_volume


class VolumeReader(ImageReader):
    """Reads one volume, a file or the folder of a DICOM series, as float32 (X, Y, Z) with its affine in RAS mm.

    A picture in colour gives (X, Y, 1, 3), and a list of the images of a case, or the one 4D file that holds them,
    (X, Y, Z, images).

    Args:
        suv: as for `read_volume`, one for each image of a case.
    """

    def __init__(self, suv: Sequence[bool] = (False,)) -> None:
        super().__init__()
        self.suv = suv

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        known = [suffix.lstrip(".") for suffix in (*FORMATS, *PICTURES)]
        return is_supported_format([name for name in ensure_tuple(filename) if str(name) not in ("", ".")], known)

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> tuple[np.ndarray, VolumeHeader]:
        paths = ["" if str(path) in ("", ".") else path for path in ensure_tuple(data)]  # "": an image is missing
        if len(paths) == 1 and len(self.suv) == 1:
            return read_volume(paths[0], suv=self.suv)
        names = tuple(f"image {number}" for number in range(1, max(len(self.suv), len(paths)) + 1))
        return read_volume(ImageSet(names, as_set(paths).files), suv=self.suv)

    def get_data(self, img: tuple[np.ndarray, VolumeHeader]) -> tuple[np.ndarray, dict]:
        voxels, header = img
        return voxels, {
            MetaKeys.AFFINE: header.affine.copy(),
            MetaKeys.ORIGINAL_AFFINE: header.affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.array(header.shape),
            # a picture's colours are its channels, and a volume has no axis of them
            MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan") if voxels.ndim == 3 else 3,
            MetaKeys.SPACE: SpaceKeys.RAS,
        }


def volume_loader(keys: KeysCollection, suv: Sequence[bool] = (False,)) -> LoadImaged:
    """MONAI's LoadImaged with `VolumeReader`, which reads PET by ``suv``.

    It makes one of each of MONAI's own readers too, of which one reports that a GPU decoder of DICOM is missing, which
    nobody asked for: that is kept quiet.
    """
    logger = logging.getLogger("monai.data.nvimgcodec_pydicom_plugin")
    before = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "NvImgCodecPydicomReader")
            # MONAI documents instances of readers, and its annotation has their classes alone
            return LoadImaged(keys, VolumeReader(suv), image_only=True)  # type: ignore[arg-type]
    finally:
        logger.disabled = before
