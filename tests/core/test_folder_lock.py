"""Locks on disks that hosts share: whether other hosts see them."""

import errno
import fcntl
from pathlib import Path

import pytest

from medsam_adapt.core.folder_lock import FolderLock, is_local_lock

MOUNTS = """/dev/sda1 / ext4 rw,relatime 0 0
server:/home /home nfs4 rw,vers=4.2,local_lock=none,addr=10.0.0.1 0 0
server:/old /home/old nfs rw,vers=3,nolock,local_lock=all,addr=10.0.0.1 0 0
server:/with\\040space /mnt/with\\040space nfs rw,vers=3,local_lock=posix 0 0
"""


@pytest.mark.parametrize(
    ("path", "local"),
    [
        ("/data/run/.lock", False),
        ("/home/me/run/.lock", False),
        ("/home/old/run/.lock", True),
        ("/mnt/with space/.lock", True),
    ],
)
def test_an_nfs_disk_without_shared_locks_is_recognised(path, local):
    assert is_local_lock(Path(path), MOUNTS) is local


def test_where_nothing_is_known_of_disks_locks_are_trusted():
    assert is_local_lock(Path("/home/old/.lock"), "") is False


def test_a_disk_without_locks_is_reported(tmp_path, monkeypatch, caplog):
    def refuse(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    lock = FolderLock(tmp_path)
    lock.hold()
    lock.release()
    assert "this disk has no locks (No locks available). Start one process only" in caplog.text
