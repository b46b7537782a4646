"""Features of slices, computed once and kept: in files, in memory, or on the GPU."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from medsam_adapt.core.cache import FEATURES, FEATURES_FILE, explain_cache_errors, made_in_cache
from medsam_adapt.core.distributed import main_process_first
from medsam_adapt.core.errors import RunError
from medsam_adapt.core.files import make_shared_folder
from medsam_adapt.data.slices.stored_array import StoredArray

Place = Literal["files", "memory", "gpu"]
Compute = Callable[[Sequence[int]], Tensor]
Progress = Callable[[int], None]
_SHARE = 0.5  # of what is free now, that features may take


class Features:
    """Kept features, by row.

    Args:
        kept: (N, ...) in memory or on the GPU, or in a file.
        device: where they are wanted.
    """

    def __init__(self, kept: Tensor | StoredArray, device: torch.device) -> None:
        self.kept, self.device = kept, device

    def __getitem__(self, rows: Sequence[int]) -> Tensor:
        """The features (B, ...) of rows, in single precision on the device."""
        if isinstance(self.kept, Tensor):
            found = self.kept[torch.as_tensor(rows, device=self.kept.device)]
        else:
            found = torch.from_numpy(np.stack([self.kept[row] for row in rows]))
        return found.to(self.device, non_blocking=True).float()


def choose_place(wanted: Place | Literal["auto"], size: int, folder: Path, device: torch.device) -> Place | None:
    """Where ``size`` bytes of features go: as wanted if there is room, else None.

    Left to us they go to a GPU that trains, if they take no more than half of its free memory. Otherwise to files,
    which another run finds again and which the system holds in memory as long as there is room; and to memory where
    the disk has none.

    Args:
        wanted: ``auto``, or the only place that will do.
        size: bytes.
        folder: of the files, which need not exist.
        device: that trains.
    """
    order: tuple[Place, ...] = ("gpu", "files", "memory") if wanted == "auto" else (wanted,)
    return next((place for place in order if size <= _SHARE * _free(place, folder, device)), None)


def _free(place: Place, folder: Path, device: torch.device) -> int:
    """Free bytes; 0 where there is no such place, or where that cannot be asked."""
    if place == "gpu":
        return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
    if place == "files":
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        return shutil.disk_usage(there).free
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def features_folder(cache: Path, key: str) -> Path:
    """Where the features of a ``key`` (64 hexadecimal digits) lie in the cache."""
    return cache / f"{FEATURES}{key[:32]}"


def hold_features(
    rows: int, batch: int, compute: Compute, dtype: torch.dtype, place: Literal["memory", "gpu"], progress: Progress
) -> Tensor:
    """Features of all rows (N, ...) in memory or on the GPU; arguments as for :func:`store_features`."""
    kept: Tensor | None = None
    done = 0
    for found in _computed(rows, batch, compute, dtype, progress):
        if kept is None:
            kept = torch.empty(rows, *found.shape[1:], dtype=dtype, device=found.device if place == "gpu" else "cpu")
        kept[done : done + len(found)] = found
        done += len(found)
    assert kept is not None, "there is no training without a slice"
    return kept


def store_features(
    folder: Path,
    rows: int,
    batch: int,
    compute: Compute,
    dtype: torch.dtype,
    progress: Progress,
    dataset: str | Path | None = None,
) -> StoredArray:
    """Features of all rows (N, ...) in a file of ``folder``, made if it is not there.

    Two runs that make it at once do the work twice and keep what is ready first. Of several processes that train
    together the first makes it and the others wait.

    Args:
        folder: from :func:`features_folder`.
        rows: N.
        batch: rows computed at once.
        compute: rows -> features (B, ...).
        dtype: that they are kept in.
        progress: called with the number of rows done each time.
        dataset: the folder that the slices come from, which ``cache info`` shows.

    Raises:
        InputError: the cache cannot be written to.
        RunError: the disk is full, features do not fit the type, or what the cache holds is damaged.
    """
    path = folder / FEATURES_FILE
    with main_process_first(), explain_cache_errors(folder.parent):
        if not path.is_file():
            make_shared_folder(folder.parent)
            with made_in_cache(folder, dataset) as temporary:
                _write(temporary / FEATURES_FILE, rows, _computed(rows, batch, compute, dtype, progress))
    try:
        return StoredArray(path)
    except (OSError, ValueError, EOFError) as error:
        raise RunError(f"{folder}: it is damaged ({error}). Remove it, or run 'medsam-adapt cache clear'.") from error


def _write(path: Path, rows: int, batches: Iterator[Tensor]) -> None:
    """Write an .npy file batch by batch: a file that is mapped to be written would end the process on a full disk."""
    with path.open("wb") as file:
        for number, found in enumerate(batches):
            array = found.numpy(force=True)
            if number == 0:
                header = {
                    "descr": np.lib.format.dtype_to_descr(array.dtype),
                    "fortran_order": False,
                    "shape": (rows, *array.shape[1:]),
                }
                np.lib.format.write_array_header_1_0(file, header)
            file.write(array.tobytes())


def _computed(rows: int, batch: int, compute: Compute, dtype: torch.dtype, progress: Progress) -> Iterator[Tensor]:
    for begin in range(0, rows, batch):
        wanted = range(begin, min(begin + batch, rows))
        found = compute(wanted).to(dtype)
        if not found.isfinite().all():
            raise RunError(
                f"cache_dtype: features of the frozen network are not finite as {str(dtype).removeprefix('torch.')}. "
                "Train with --set cache_dtype=float32 or --set cache_frozen=off."
            )
        yield found
        progress(len(wanted))
