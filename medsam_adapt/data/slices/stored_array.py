"""An array in a file, of which one slice after another is read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from medsam_adapt.core.errors import RunError


class StoredArray:
    """The array (N, ...) of an .npy file, read slice by slice: ``array[3]`` is a new array, and nothing else is kept.

    A mapped file would keep a file descriptor for as long as the array lives, of which a process has about a thousand,
    and every page that was ever read would count as the process's own memory.

    Args:
        path: of the file, written by `numpy.save` in C order.

    Raises:
        OSError, ValueError, EOFError: no such file, or one that is damaged.
    """

    def __init__(self, path: Path) -> None:
        mapped = np.load(path, mmap_mode="r")  # checks header and length, and is let go of
        if not mapped.flags.c_contiguous:
            raise ValueError("it is not in C order")
        self.path, self.shape, self.dtype = path, mapped.shape, mapped.dtype
        self._begin: int = mapped.offset

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> np.ndarray:
        """Slice ``index`` (...), writable.

        Raises:
            RunError: the file has gone.
        """
        count = math.prod(self.shape[1:])
        try:
            offset = self._begin + range(len(self))[index] * count * self.dtype.itemsize
            return np.fromfile(self.path, self.dtype, count, offset=offset).reshape(self.shape[1:])
        except (OSError, ValueError) as error:
            raise RunError(
                f"{self.path}: it can no longer be read ({error}), possibly removed by 'medsam-adapt cache clear'. "
                "Continue with --resume."
            ) from error

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(np.load(self.path), dtype)
