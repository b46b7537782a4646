"""``train --gpus N``: N processes at one training, started and watched by torch's launcher, as ``torchrun`` does.

The launcher's process reports errors for all of them. Each of the others runs `training_process` with what is trained.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsam_adapt.core.errors import InputError, RunError
from medsam_adapt.core.text import counted
from medsam_adapt.runs.record import read_run
from medsam_adapt.runs.resume import has_checkpoint

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure


def is_one_of_several() -> bool:
    """Whether ``torchrun``, or `train_together`, started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_main_process() -> bool:
    """Whether this process shows how far it is: the first of several, or the only one."""
    return not is_one_of_several() or os.environ["RANK"] == "0"


def count_processes(gpus: int | None, device: str, run: Path | None = None, resume: bool = False) -> int:
    """How many processes to start.

    Args:
        gpus: as the user gave it; None is as many as ``run`` had, or one.
        device: as the user gave it.
        run: the run that is gone on with or repeated.
        resume: whether it is gone on with.

    Raises:
        InputError: the machine has too few GPUs, or the run was begun with another number of processes.
    """
    if is_one_of_several():
        return 1
    begun = 1 if run is None else read_run(run).processes
    count = gpus or begun
    if resume and count != begun:
        raise InputError(f"{run}: it was begun with {counted(begun, 'process')}. Resume it with --gpus {begun}.")
    if count > 1 and device != "cpu":
        import torch

        there = torch.cuda.device_count()
        if there < count:
            raise InputError(
                f"--gpus {count}: this machine has {counted(there, 'GPU')}. Ask for fewer, or add --device cpu "
                "for processes on the CPU."
            )
    return count


def train_together(count: int, output: Path, worker: str, order: Mapping[str, Any]) -> None:
    """Train with ``count`` processes; when one of them ends early, all are ended.

    Args:
        count: at least two.
        output: the run's folder.
        worker: the module that each process runs, with the order as its argument.
        order: what is trained, as `TrainingOrder.as_json` gives it.

    Raises:
        InputError: as `run_training`.
        RunError: a process failed, or was killed.
        Stopped: a signal asked for the end.
    """
    from torch.distributed.elastic.agent.server.api import SignalException
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from medsam_adapt.core.interrupts import Stopped

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # our messages replace its log
    with tempfile.TemporaryDirectory() as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            monitor_interval=0.1,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        try:
            elastic_launch(config, sys.executable)("-m", worker, json.dumps(order))
        except ChildFailedError as error:
            rank, failure = next(iter(error.failures.items()))  # the first that was seen to fail
            raise _explained(rank, count, failure, output) from None
        except SignalException as error:
            raise Stopped(error.sigval) from None


def _explained(rank: int, count: int, failure: ProcessFailure, output: Path) -> InputError | RunError:
    """What the process of a rank failed of."""
    who = f"the process of rank {rank} (of {count}, counted from 0)"
    go_on = f"Continue with 'train --resume --output {output}'." if has_checkpoint(output) else "Train again."
    if failure.exitcode < 0 or failure.exitcode > 128:
        number = -failure.exitcode if failure.exitcode < 0 else failure.exitcode - 128
        why = " (possibly out of memory)" * (number == signal.SIGKILL)
        return RunError(f"{who}: it was ended by {signal.Signals(number).name}{why}, and all others with it. {go_on}")
    if not isinstance(failure.message, dict):
        return RunError(f"{who}: it ended with exit code {failure.exitcode}, and all others with it. {go_on}")
    kind, _, sentence = failure.message["message"].partition(": ")
    if kind == InputError.__name__:
        return InputError(sentence)
    if kind == RunError.__name__:
        return RunError(sentence)
    print(failure.message["extraInfo"]["py_callstack"], file=sys.stderr)
    return RunError(f"{who}: it failed with {kind} ({sentence}). See the traceback above.")
