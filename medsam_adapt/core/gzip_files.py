"""gzip files, by zlib-ng where it is installed: it compresses as well as Python's zlib in about half the time."""

from __future__ import annotations

import gzip
import zlib
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, cast

_LEVEL = 6  # zlib's default


@cache
def _library() -> tuple[ModuleType, tuple[type[Exception], ...]]:
    """What has `open` and `compress`, and what it raises about a damaged file; imported for the first file."""
    errors = (OSError, EOFError, zlib.error)
    try:
        from zlib_ng import gzip_ng, zlib_ng
    except ImportError:  # where there is neither a wheel nor a compiler
        return gzip, errors
    return gzip_ng, (*errors, cast(type[Exception], zlib_ng.error))


def gzip_errors() -> tuple[type[Exception], ...]:
    """What reading a damaged file raises."""
    return _library()[1]


def open_gzip(path: Path) -> BinaryIO:
    """The decompressed content of a file; reading it raises one of `gzip_errors` where it is damaged."""
    return _library()[0].open(path)


def gzip_compressed(content: Any) -> bytes:
    """Bytes, or a contiguous array of them, compressed; without time and name, so that equal content stays equal."""
    return _library()[0].compress(content, compresslevel=_LEVEL, mtime=0)
