"""How `end_to_end.py` orders work from its processes: a line of JSON for each order, and one for each answer."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

_ANSWERS = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # whatever else this process prints, also while it imports, is no answer


def processor_seconds() -> float:
    """Of this process and of those that it has started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def answer(segment: Callable[..., None], facts: dict[str, Any]) -> None:
    """Print facts, then the seconds of each order of the standard input, on the clock and of the processor.

    Args:
        segment: called with an order's ``scans``, ``masks``, ``discs`` and ``overlap``.
        facts: about the network.
    """
    _ANSWERS.write(json.dumps(facts) + "\n")
    for line in sys.stdin:
        began, worked = time.perf_counter(), processor_seconds()
        segment(**json.loads(line))
        passed = {"seconds": time.perf_counter() - began, "processor": processor_seconds() - worked}
        _ANSWERS.write(json.dumps(passed) + "\n")
