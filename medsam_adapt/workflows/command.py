"""Runs one of the package's commands in a separate process."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

from medsam_adapt.core.errors import RunError


def run_command(arguments: Sequence[str], title: str, quiet: bool = False) -> None:
    """Run one of our commands in a separate process, which gives its memory back and ends with this one.

    Args:
        arguments: of ``medsam-adapt``.
        title: for the message when it fails.
        quiet: whether to keep back what it prints, but for its errors.

    Raises:
        RunError: it failed.
    """
    words = [sys.executable, "-m", "medsam_adapt.cli", *arguments]
    asked: list[int] = []  # signals that came; the child gets the first of them, once it is there
    children: list[subprocess.Popen] = []

    def pass_on(number: int, _: object = None) -> None:
        asked.append(number)
        if children and len(asked) == 1:
            children[0].send_signal(number)

    handles = threading.current_thread() is threading.main_thread()  # Python lets no other thread handle signals
    previous = signal.signal(signal.SIGTERM, pass_on) if handles else None
    try:
        with subprocess.Popen(words, stdout=subprocess.DEVNULL if quiet else None) as child:
            if asked:
                child.send_signal(asked[0])
            children.append(child)
            try:
                code = child.wait()
            except KeyboardInterrupt:  # the child got it too, and keeps a checkpoint
                child.wait()
                raise
    finally:
        if handles:
            signal.signal(signal.SIGTERM, previous)
    if code in (-signal.SIGTERM, 128 + signal.SIGTERM):
        sys.exit(128 + signal.SIGTERM)
    if code:
        raise RunError(
            f"the {title if title.startswith('evaluation') else f'training of {title}'} ended with exit code "
            f"{code}: fix the error above and run the same command again, which continues from here."
        )
