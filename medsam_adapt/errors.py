"""The two ways in which a command ends badly, each told to the user in one sentence."""

from __future__ import annotations


class InputError(Exception):
    """Something the user gave is wrong; the message is one sentence that names it and the mend (exit code 2).

    Raise it before anything slow has started and before anything is written.
    """


class RunError(Exception):
    """Something failed while running, through no mistake in the input (exit code 1)."""
