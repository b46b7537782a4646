"""PNG and JPEG: a picture is a volume of one slice, with pixels of 1 mm, that lies as a radiologist would view it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from medsam_adapt.core.errors import InputError
from medsam_adapt.data.volumes.formats.base import (
    DEFLATE_RATIO,
    LPS_TO_RAS,
    VolumeFormat,
    VolumeHeader,
    check_size,
    plain_label_header,
    unreadable,
)

_GREY = ("L", "I;16", "I", "F")  # Pillow's names of one number a pixel
_SAME_COLOUR = 16  # grey levels between the colours of a grey JPEG, at most


def _read_header(path: Path) -> VolumeHeader:
    with _opened(path) as picture:
        return VolumeHeader(path, (picture.width, picture.height, 1), LPS_TO_RAS)


def _read_voxels(header: VolumeHeader) -> tuple[np.ndarray, float, float]:
    """(X, Y, 1) of a grey picture, (X, Y, 1, 3) of one in colour."""
    with _opened(header.path) as picture:
        if picture.mode not in _GREY:
            picture = picture.convert("L" if picture.mode in ("1", "LA") else "RGB")
        pixels = np.asarray(picture)
    return pixels.swapaxes(0, 1)[:, :, None], 1.0, 0.0


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is checked here
            picture = Image.open(path, formats=("PNG", "JPEG"))
        with picture:
            check_size(path, picture.width * picture.height // 8, path.stat().st_size, DEFLATE_RATIO)
            yield picture
    except UnidentifiedImageError as error:
        raise InputError(f"{path} is no PNG and no JPEG, whatever its name says; export it again") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's own for a damaged PNG
        raise unreadable(path, error) from error


def one_number(values: np.ndarray, path: Path) -> np.ndarray:
    """A label's (X, Y, 1, 3) as (X, Y, 1): grey that was saved as colour.

    Raises:
        InputError: real colours.
    """
    if (np.ptp(values, axis=-1) > _SAME_COLOUR).any():
        raise InputError(f"{path} is in colour, and a label is one number a pixel; save it in grey levels")
    return values[..., 1]  # of a JPEG's colours, green keeps most


PICTURE = VolumeFormat(_read_header, _read_voxels, plain_label_header)
