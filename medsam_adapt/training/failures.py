"""What can go wrong while a training runs: signals that end it, a folder in use, and faults told in a sentence.

A scheduler's SIGTERM and Ctrl-C end a training after the step it is in, with a checkpoint; the exit code is 128 plus
the signal's number, as of a program that the signal killed: 143 and 130. The same signal once more ends it at once.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from medsam_adapt.core.errors import InputError, RunError, causes
from medsam_adapt.core.files import is_disk_full

LOCK_FILE = ".lock"
_SIGNALS: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT)
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
_received: list[int] = []


class Stopped(SystemExit):
    """A signal asked for the end and what was done is kept; ends the process with 128 plus the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Within the block SIGTERM and Ctrl-C are only noted, for `raise_if_stopped`; a second one acts as always."""
    _received.clear()
    if threading.current_thread() is not threading.main_thread():  # Python lets no other thread handle signals
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def note(number: int, frame: FrameType | None) -> None:
        _received.append(number)
        signal.signal(number, before[number])

    try:
        for number in _SIGNALS:
            signal.signal(number, note)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _received.clear()


def stop_is_asked() -> bool:
    """Whether a signal has come that asks for the end."""
    return bool(_received)


def raise_if_stopped(*_: Any) -> None:
    """End the training when a signal has asked for it; whatever is to be kept has been written before.

    Raises:
        Stopped: a signal has come.
    """
    if _received:
        raise Stopped(_received[0])


class FolderLock:
    """Keeps a second process from writing to a folder; the system releases it when its process ends in any way.

    Args:
        folder: which exists.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK_FILE
        self._file: TextIO | None = None

    def hold(self) -> None:
        """Take the lock, and keep it to the end of the process or to `release`.

        Raises:
            InputError: another process holds it.
        """
        file = self.path.open("a+", encoding="utf-8")
        if not _lock(file):
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise InputError(
                f"{self.path.parent} is being trained by {holder}: wait for its end, or name another --output."
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        self._file = file

    def release(self) -> None:
        """Give the lock back and remove its file."""
        if self._file is not None:
            self.path.unlink(missing_ok=True)
            self._file.close()
            self._file = None

    @classmethod
    def refuse_if_held(cls, folder: Path) -> None:
        """Refuse a folder that another process is writing to.

        Raises:
            InputError: it is held.
        """
        if (folder / LOCK_FILE).is_file() and os.access(folder / LOCK_FILE, os.W_OK):
            lock = cls(folder)
            lock.hold()
            lock.release()


def _lock(file: TextIO) -> bool:
    """Whether this process has the lock now; also true on systems and disks that have no such locks."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        # lockf, not flock: processes that prepare slices inherit the latter and may outlive a killed training
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    return True


@contextmanager
def told_of_faults(output: Path, settings: Mapping[str, Any]) -> Iterator[None]:
    """Turn the faults that a training may meet into a sentence with the mend.

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
        told = next((sentence for sentence in sentences if sentence), None)
        if told is None:
            raise
        raise RunError(told) from error


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
    go_on = f"go on with 'medsam-adapt train --resume --output {output}'"
    if is_out_of_memory(error):
        settings_left = "".join(
            option
            for name, value, option in (
                ("slices_at_once", None, " --set slices_at_once=1"),
                ("low_memory", False, " --low-memory"),
            )
            if settings.get(name, "") == value
        )
        less = f"{go_on[:-1]}{settings_left}', or " if settings_left else ""
        return (
            f"there is not enough memory for this training: {less}lower batch_size (it is {settings['batch_size']}) or "
            "--image-size, or choose a smaller --backbone, and train anew with --overwrite."
        )
    if isinstance(error, RuntimeError) and "DataLoader worker" in str(error):
        return (
            "a process that prepares slices was killed, for want of memory perhaps: "
            f"{go_on}, with --set num_workers=0 for instance (it is {settings['num_workers']})."
        )
    if not isinstance(error, OSError):
        return None
    if is_disk_full(error):
        return f"the disk of {output} is full ({error.strerror}): free some space, and {go_on}."
    if error.errno in _NOT_THERE and not output.is_dir():
        return f"{output} was removed or renamed while it was trained: put it back, and {go_on}."
    if error.errno in _NOT_WRITABLE:
        return f"{output} can no longer be written to ({error.strerror}): make it writable, and {go_on}."
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was short, on the device or in the machine."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and any(words in str(error).lower() for words in _OUT_OF_MEMORY)
