"""A lock on a folder, so that two processes do not write to it at the same time."""

from __future__ import annotations

import errno
import logging
import os
import socket
from pathlib import Path
from typing import TextIO

from medsam_adapt.core.errors import InputError

LOCK_FILE = ".lock"
_log = logging.getLogger(__name__)


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
        # lockf, not flock: processes that prepare slices inherit the latter and may outlive a killed training.
        # On NFS it is also the kind of lock that the server knows, and so all hosts.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        _log.warning(
            "%s: this disk has no locks (%s). Start one process only in this folder.", file.name, error.strerror
        )
        return True
    if is_local_lock(Path(file.name), _mounts()):
        _log.warning("%s: locks of this disk hold on this host only. Start no process here on another host.", file.name)
    return True


def is_local_lock(path: Path, mounts: str) -> bool:
    """Whether a file lies on an NFS disk that is mounted without locks that other hosts see.

    Args:
        path: of the file.
        mounts: content of Linux's /proc/self/mounts, a line for each disk: device, place, kind, options, two numbers.
    """
    places = [line.split(" ") for line in mounts.splitlines()]
    path = path.resolve()
    above = [fields for fields in places if len(fields) > 3 and path.is_relative_to(fields[1].replace("\\040", " "))]
    if not above:
        return False
    _, _, kind, options, *_ = max(above, key=lambda fields: len(fields[1]))
    local = {"nolock", "local_lock=all", "local_lock=posix"}
    return kind.startswith("nfs") and not local.isdisjoint(options.split(","))


def _mounts() -> str:
    try:
        return Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return ""
