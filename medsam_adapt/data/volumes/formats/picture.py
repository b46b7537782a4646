"""PNG and JPEG: a picture is a volume of one slice, with pixels of 1 mm, that lies as a radiologist would view it.

What is read is what a viewer shows: turned by EXIF, palettes as colours, 16 bits from black to white, CMYK as RGB.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.lazy import lazy_module
from medsam_adapt.data.volumes.formats.base import (
    DEFLATE_RATIO,
    LPS_TO_RAS,
    VolumeFormat,
    VolumeHeader,
    check_size,
    plain_label_header,
    unreadable,
)

if TYPE_CHECKING:
    from PIL import Image
else:
    Image = lazy_module("PIL.Image")

_SAME_COLOUR = 16  # grey levels between the colours of a grey JPEG, at most
_ORIENTATION = 0x0112  # EXIF's tag; from 5 on, width and height change places
_DEEP_WHITE = 65535  # of a grey PNG of 16 bits; Pillow gives no other numbers above 255
_TO_8_BITS = 1 / 257  # so that white is 255
_PNG = b"\x89PNG\r\n\x1a\n"


def _read_header(path: Path) -> VolumeHeader:
    with _opened(path) as picture:
        width, height = picture.size if _orientation(picture) < 5 else picture.size[::-1]
        return VolumeHeader(path, (width, height, 1), LPS_TO_RAS)


def _read_voxels(header: VolumeHeader) -> tuple[np.ndarray, float, float]:
    """(X, Y, 1) of a grey picture, (X, Y, 1, 3) of one in colour, as a viewer shows it: black is 0, white 255."""
    with _opened(header.path) as picture:
        deep = _is_deep(picture)
        pixels = np.asarray(picture if deep else _displayed(picture))
        pixels = _upright(pixels, _orientation(picture))
    return pixels.swapaxes(0, 1)[:, :, None], _TO_8_BITS if deep else 1.0, 0.0


def read_mask(header: VolumeHeader) -> np.ndarray:
    """(X, Y, 1) numbers of a mask: grey levels, or a palette's indices, which are the classes where it is in colour.

    Of one bit the numbers are 0 and 1. A grey palette is shown as its levels where these are black and white alone, so
    that it does not matter which of the two comes first.

    Raises:
        InputError: a damaged file, or real colours.
    """
    with _opened(header.path) as picture:
        if picture.mode == "P" and not _is_black_and_white(picture):
            pixels = np.asarray(picture)
        elif picture.mode == "1":
            pixels = np.asarray(picture).astype(np.uint8)
        elif _is_deep(picture):
            pixels = np.asarray(picture)
            if pixels.max() > 255 and not (pixels % 257).any():  # 8 bits that were stretched to 16
                pixels = pixels // 257
        else:
            pixels = np.asarray(_displayed(picture))
        pixels = _upright(pixels, _orientation(picture))
    values = pixels.swapaxes(0, 1)[:, :, None]
    return values if values.ndim == 3 else _one_number(values, header.path)


def is_dark_16_bit(path: Path) -> bool:
    """Whether a picture has 16 bits and uses the lower half of them only, as 10- and 12-bit detectors do."""
    with _opened(path) as picture:
        return _is_deep(picture) and int(np.asarray(picture).max()) <= _DEEP_WHITE // 2


# ------------------------------------------------------------------------------------------------ what a viewer shows


def _is_deep(picture: Image.Image) -> bool:
    return picture.mode.startswith("I")


def _displayed(picture: Image.Image) -> Image.Image:
    """Grey levels (mode L) or colours (RGB) of 8 bits; what is transparent is black."""
    if picture.has_transparency_data:
        layered = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "black"), layered).convert(
            "L" if picture.mode in ("L", "LA", "La") else "RGB"
        )
    return picture.convert("L" if picture.mode in ("1", "L") else "RGB")


def _is_black_and_white(picture: Image.Image) -> bool:
    used = np.unique(np.asarray(picture))
    colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    return used.size <= 2 and bool(np.isin(colours, (0, 255)).all() and (colours == colours[:, :1]).all())


def _orientation(picture: Image.Image) -> int:
    """EXIF's number from 1, as stored, to 8; 1 where there is none that can be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of what is corrupt in it
            found = picture.getexif().get(_ORIENTATION, 1)
    except (ValueError, SyntaxError, KeyError, TypeError, IndexError, struct.error):
        return 1  # viewers show the picture all the same
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """(rows, columns, ...) as EXIF's orientation shows them."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        _check_chunks(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is checked here
            picture = Image.open(path, formats=("PNG", "JPEG"))
        with picture:
            check_size(path, picture.width * picture.height // 8, path.stat().st_size, DEFLATE_RATIO)
            yield picture
    except Image.UnidentifiedImageError as error:
        raise InputError(f"{path}: it is neither PNG nor JPEG, despite its name. Export it again.") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # Pillow's own for a damaged PNG
        raise unreadable(path, error) from error


def _check_chunks(path: Path) -> None:
    """Refuse a PNG whose chunks claim more bytes than the file has, for which Pillow would set memory aside."""
    held = path.stat().st_size
    with path.open("rb") as file:
        if file.read(len(_PNG)) != _PNG:
            return
        end = len(_PNG)
        while len(head := file.read(8)) == 8 and head[4:] != b"IEND":  # length and name
            end += len(head) + int.from_bytes(head[:4], "big")
            check_size(path, end, held)
            end = file.seek(end + 4)  # behind a checksum


def _one_number(values: np.ndarray, path: Path) -> np.ndarray:
    """A mask's (X, Y, 1, 3) as (X, Y, 1): grey that was saved as colour."""
    if (np.ptp(values, axis=-1) > _SAME_COLOUR).any():
        raise InputError(f"{path}: it is in colour, and a label is one number per pixel. Save it in grey levels.")
    return values[..., 1]  # of a JPEG's colours, green keeps most


PICTURE = VolumeFormat(_read_header, _read_voxels, plain_label_header)
