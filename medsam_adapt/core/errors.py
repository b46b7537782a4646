"""The two ways in which a command ends badly, each reported to the user in one sentence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")  # of torch


class InputError(Exception):
    """Something the user gave is wrong; the message is one sentence that names it and the fix (exit code 2).

    Raise it before anything slow has started and before anything is written.

    Args:
        message: the sentence; where there are many, one a line.
        problems: all sentences, where ``message`` has not room for all.

    Attributes:
        problems: a sentence for each thing that is wrong.
    """

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems) or (message,)


class RunError(Exception):
    """Something failed while running, through no mistake in the input (exit code 1)."""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it came from: MONAI wraps whatever is raised while it reads a config."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def user_error(error: BaseException) -> InputError | RunError | OSError | None:
    """The error among its causes that is reported to the user in a sentence; None for a fault of this package.

    Where memory was short and nothing better is known, it is a RunError that states so.
    """
    found = [cause for cause in causes(error) if isinstance(cause, InputError | RunError | OSError)]
    best = next((cause for cause in found if not isinstance(cause, OSError)), None)
    if best is None and any(is_out_of_memory(cause) for cause in causes(error)):
        return RunError(
            "memory: there is not enough for this command. Close other programs, use a machine with more memory, or "
            "choose a smaller --batch-size, --image-size or --backbone where the command has these options."
        )
    return best or next(iter(found), None)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error reports that memory was short, on the device or in the machine."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and any(words in str(error).lower() for words in _OUT_OF_MEMORY)


def problems_error(problems: Sequence[str], limit: int = 10) -> InputError:
    """One error out of many sentences: the first ``limit``, one a line, and how many more there are."""
    from medsam_adapt.core.text import counted  # not needed by 'medsam-adapt --help', which imports this module

    rest = [f"... and {counted(len(problems) - limit, 'more problem')}."] if len(problems) > limit else []
    return InputError("\n".join([*problems[:limit], *rest]), problems)
