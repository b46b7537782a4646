"""gzip files, by zlib-ng where it is installed: it compresses as well as Python's zlib in about half the time."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

#: what reading a damaged file raises
GZIP_ERRORS: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error)
_library: Any = gzip
try:
    from zlib_ng import gzip_ng, zlib_ng

    _library, _error = gzip_ng, cast(type[Exception], zlib_ng.error)
    GZIP_ERRORS = (*GZIP_ERRORS, _error)
except ImportError:  # where there is neither a wheel nor a compiler
    pass

_LEVEL = 6  # zlib's default


def open_gzip(path: Path) -> BinaryIO:
    """The decompressed content of a file; reading it raises one of `GZIP_ERRORS` where it is damaged."""
    return _library.open(path)


def gzip_compressed(content: Any) -> bytes:
    """Bytes, or a contiguous array of them, compressed; without time and name, so that equal content stays equal."""
    return _library.compress(content, compresslevel=_LEVEL, mtime=0)
