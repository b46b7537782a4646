"""One of several processes that share the cases among them: which of them is this one's part.

The parts depend on the cases' names and the number of processes alone, so that every case is in exactly one of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from medsam_adapt.core.errors import InputError

_BATCH_STEPS = ("batch", "4294967291")  # a SLURM job's script itself, which is one process whatever its tasks are


@dataclass(frozen=True)
class Part:
    """Part ``number`` of ``count``, from 1."""

    number: int
    count: int

    def of(self, names: Iterable[str]) -> list[str]:
        """This part's names, in alphabetical order."""
        return sorted(names)[self.number - 1 :: self.count]

    def __str__(self) -> str:
        return f"{self.number}-of-{self.count}"


def parse_part(text: str) -> Part:
    """``2/8`` as a part.

    Raises:
        InputError: not of this form, or no such part.
    """
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise InputError(f"--part {text}: it is no part. Write it as 2/8, the second of eight.")
    return Part(int(found[1]), int(found[2]))


def part_of_environment(environment: Mapping[str, str] | None = None) -> Part | None:
    """The part that torchrun or SLURM gave this process; None where it runs alone.

    torchrun sets RANK and WORLD_SIZE, a SLURM job array SLURM_ARRAY_TASK_ID and _COUNT, and srun SLURM_PROCID and
    SLURM_NTASKS; the tasks of each member of an array share that member's part.

    Raises:
        InputError: variables that are not whole numbers, or an array whose numbers are not evenly spaced.
    """
    given = os.environ if environment is None else environment
    if _number(given, "WORLD_SIZE", 1) > 1:
        return _checked(_number(given, "RANK", 0), _number(given, "WORLD_SIZE", 1), "RANK")
    arrays, array = _number(given, "SLURM_ARRAY_TASK_COUNT", 1), 0
    if arrays > 1:
        first, step = _number(given, "SLURM_ARRAY_TASK_MIN", 0), _number(given, "SLURM_ARRAY_TASK_STEP", 1)
        if "SLURM_ARRAY_TASK_MIN" not in given and _number(given, "SLURM_ARRAY_TASK_ID", 0) >= arrays:
            first = 1
        array, rest = divmod(_number(given, "SLURM_ARRAY_TASK_ID", 0) - first, max(step, 1))
        if rest:
            array = -1
    alone = given.get("SLURM_STEP_ID") in _BATCH_STEPS
    tasks = 1 if alone else _number(given, "SLURM_NTASKS", 1)
    task = _number(given, "SLURM_PROCID", 0) if tasks > 1 else 0
    if arrays * tasks == 1:
        return None
    if not 0 <= array < arrays:
        raise InputError(
            "SLURM_ARRAY_TASK_ID is not one of evenly spaced numbers: submit --array=0-7 for eight, or give --part."
        )
    return _checked(array * tasks + task, arrays * tasks, "SLURM_PROCID")


def local_rank(environment: Mapping[str, str] | None = None) -> int | None:
    """Which of the processes of this machine this one is, from 0; None where it runs alone."""
    given = os.environ if environment is None else environment
    name = next((name for name in ("LOCAL_RANK", "SLURM_LOCALID") if name in given), None)
    return None if name is None else _number(given, name, 0)


def device_of_process(device: str, number: int | None) -> str:
    """A GPU for each process of this machine, where there are several and the user names none."""
    if device not in ("auto", "cuda") or number is None:
        return device
    import torch

    count = torch.cuda.device_count()
    return f"cuda:{number % count}" if count > 1 else device


def _checked(index: int, count: int, name: str) -> Part:
    if not 0 <= index < count:
        raise InputError(f"{name} is not below the number of processes, {count}: start them by torchrun or srun.")
    return Part(index + 1, count)


def _number(given: Mapping[str, str], name: str, default: int) -> int:
    text = given.get(name, str(default))
    if not re.fullmatch(r"\d{1,9}", text.strip()):
        raise InputError(f"{name}={text}: it is no whole number. Unset it, or start the processes by torchrun or srun.")
    return int(text)
