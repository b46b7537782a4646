"""Checkpoints of a training: written whole, the one before kept, read back with a damaged one left aside.

RUN/state.pt             the training state: weights that are trained, optimisers, schedules, random states, best score
    state.previous.pt    the one before it
"""

from __future__ import annotations

import os
import pickle
import random
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from monai.handlers import TensorBoardHandler
from torch import Tensor

from medsam_adapt.core.errors import InputError, RunError
from medsam_adapt.core.files import written_whole
from medsam_adapt.core.versions import newer_error
from medsam_adapt.runs.record import PREVIOUS_STATE_FILE, RUN_FILE, STATE_FILE

FORMAT = 2


def write_checkpoint(folder: Path, state: Mapping[str, Any]) -> None:
    """Write ``state`` as the folder's checkpoint and keep the one before; killed at any moment it leaves a whole one.

    Raises:
        RunError: the folder is no longer there.
        OSError: the disk is full, or the folder cannot be written to.
    """
    if not (folder / RUN_FILE).is_file():
        raise RunError(
            f"{folder}: it was removed or renamed during the training, and what was trained since is lost. Leave the "
            "folder where it is and train again."
        )
    path = folder / STATE_FILE
    with written_whole(path) as temporary:
        save_tensors({"format": FORMAT, **state}, temporary)
        if path.is_file():
            path.replace(folder / PREVIOUS_STATE_FILE)


def save_tensors(content: Mapping[str, Any], path: Path) -> None:
    """``torch.save`` whose failures to write are an OSError, and whose bytes have reached the disk when it returns.

    Raises:
        OSError: the disk is full, or the folder cannot be written to.
    """
    with path.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # torch's writer goes on after a failed write, and hides why it failed
            file.flush()
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None
        file.flush()
        os.fsync(file.fileno())


def read_checkpoint(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest whole checkpoint of a run, and a sentence for each that is damaged.

    Returns:
        None where there is no checkpoint yet.

    Raises:
        InputError: there are checkpoints, and none is whole.
    """
    paths = [path for name in (STATE_FILE, PREVIOUS_STATE_FILE) if (path := folder / name).is_file()]
    problems: list[str] = []
    for path in paths:
        try:
            return _read(path), problems
        except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
            problems.append(
                f"{path}: it is damaged ({str(error).splitlines()[0] if str(error) else 'it ends too soon'})"
            )
    if problems:
        raise InputError(f"{' and '.join(problems)}. Train again with --overwrite.")
    return None, problems


def _read(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:  # torch.load does not compare the checksums
        if broken := archive.testzip():
            raise ValueError(f"the checksum of {Path(broken).name} is wrong")
    state = torch.load(path, map_location="cpu", weights_only=True)
    if (newer := newer_error(path, state, FORMAT)) is not None:
        raise newer
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError("it is of another version of medsam-adapt")
    return state


def random_states() -> dict[str, Any]:
    """The states of all global random generators, as tensors, lists and numbers."""
    _, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 (transforms may draw from it)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),
        "numpy": [np.asarray(keys).tolist(), *rest],
        "python": list(random.getstate()[1]),
    }


def set_random_states(states: Mapping[str, Any]) -> None:
    """Put all global random generators where `random_states` found them."""
    torch.set_rng_state(states["torch"])
    for index, state in zip(range(torch.cuda.device_count()), states["cuda"], strict=False):  # it may have other GPUs
        torch.cuda.set_rng_state(state, index)
    keys, *rest = states["numpy"]
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
    random.setstate((3, tuple(states["python"]), None))


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no value is NaN or infinite."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


class LogFiles:
    """The TensorBoard files of a run, which a checkpoint knows by their length.

    What a killed process logged after its last checkpoint is cut off when the run goes on, so that no step is logged
    twice.

    Args:
        folder: of the event files.
        engines: whose TensorBoard handlers write there.
    """

    def __init__(self, folder: Path, *engines: Engine) -> None:
        self.folder, self.engines = folder, engines

    def lengths(self) -> dict[str, int]:
        """Bytes of each file by name, with all that was logged so far in them."""
        for writer in self._writers():
            writer.flush()
        return {path.name: path.stat().st_size for path in self._files()}

    def cut(self, lengths: Mapping[str, int]) -> None:
        """Bring the files back to what `lengths` gave; those that it does not name are removed."""
        for writer in self._writers():
            writer.close()  # it begins another file with the next value
        for path in self._files():
            if path.name in lengths:
                os.truncate(path, min(lengths[path.name], path.stat().st_size))
            else:
                path.unlink()

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*tfevents*"))

    def _writers(self) -> list[Any]:
        """Of the engines' handlers, which neither ignite nor MONAI gives in another way."""
        owners = {
            id(owner): owner
            for engine in self.engines
            for handlers in engine._event_handlers.values()
            for handler, *_ in handlers
            if isinstance(owner := getattr(handler, "__self__", None), TensorBoardHandler)
        }
        return [owner._writer for owner in owners.values()]
