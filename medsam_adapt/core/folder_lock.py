"""A lock on a folder, so that two processes do not write to it at the same time."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import TextIO

from medsam_adapt.core.errors import InputError

LOCK_FILE = ".lock"


class FolderLock:
    """Keeps a second process from writing to a folder; the system releases it when its process ends in any way.

    Args:
        folder: which exists.
        use: what the holder does to the folder, for the message.
    """

    def __init__(self, folder: Path, use: str = "trained") -> None:
        self.path, self.use = folder / LOCK_FILE, use
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
                f"{self.path.parent} is being {self.use} by {holder}: wait for its end, or name another --output."
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
