"""Signals that ask a training to stop.

A scheduler's SIGTERM and Ctrl-C end a training after the current step, with a checkpoint; the exit code is 128 plus the
number of the signal, as for a program that the signal killed: 143 and 130. A second signal ends it at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT)
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
