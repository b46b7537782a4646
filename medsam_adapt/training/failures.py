"""Errors that a training may meet while it runs, turned into a sentence with the fix."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medsam_adapt.core.errors import InputError, RunError, causes, is_out_of_memory
from medsam_adapt.core.files import is_disk_full

_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def explain_training_errors(output: Path, settings: Mapping[str, Any]) -> Iterator[None]:
    """Turn the errors of a training into one sentence with the fix.

    Args:
        output: the run's folder.
        settings: the run's.

    Raises:
        RunError: for a full disk, a folder that is gone or read-only, too little memory, a worker that was killed.
    """
    try:
        with _said_once():
            yield
    except Exception as error:
        if any(isinstance(cause, InputError | RunError) for cause in causes(error)):
            raise
        sentences = (_explain(cause, output, settings) for cause in causes(error))
        message = next((sentence for sentence in sentences if sentence), None)
        if message is None:
            raise
        raise RunError(message) from error


@contextmanager
def _said_once() -> Iterator[None]:
    """Keep ignite, MONAI and TensorBoard's thread from printing the traceback of an error that is raised as well."""
    loggers = [logging.getLogger(name) for name in ("ignite", "monai")]
    statistics = logging.getLogger("monai.handlers.StatsHandler")  # a trainer that is made in the block sets its level
    levels, was_disabled, hook = [logger.level for logger in loggers], statistics.disabled, threading.excepthook

    def but_for_files(failed: threading.ExceptHookArgs) -> None:
        if not issubclass(failed.exc_type, OSError):
            hook(failed)

    try:
        threading.excepthook, statistics.disabled = but_for_files, True
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        threading.excepthook, statistics.disabled = hook, was_disabled
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _explain(error: BaseException, output: Path, settings: Mapping[str, Any]) -> str | None:
    """What happened and what to do about it; None for any other error."""
    go_on = f"continue with 'medsam-adapt train --resume --output {output}'"
    if is_out_of_memory(error):
        settings_left = "".join(
            option
            for name, value, option in (
                ("slices_at_once", None, " --set slices_at_once=1"),
                ("low_memory", False, " --low-memory"),
            )
            if settings.get(name, "") == value
        )
        less = f"C{go_on[1:-1]}{settings_left}', or lower" if settings_left else "Lower"
        return (
            f"batch_size: there is not enough memory for this training. {less} batch_size (it is "
            f"{settings['batch_size']}) or --image-size, or choose a smaller --backbone, and train again with "
            "--overwrite."
        )
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
        return (
            "num_workers: a process that prepares slices was killed, possibly out of memory. "
            f"C{go_on[1:]}, with --set num_workers=0 for instance (it is {settings['num_workers']})."
        )
    if not isinstance(error, OSError):
        return None
    if is_disk_full(error):
        return f"{output}: its disk is full ({error.strerror}). Free some space, and {go_on}."
    if error.errno in _NOT_THERE and not output.is_dir():
        return f"{output}: it was removed or renamed during the training. Put it back, and {go_on}."
    if error.errno in _NOT_WRITABLE:
        return f"{output}: it can no longer be written to ({error.strerror}). Make it writable, and {go_on}."
    return None
