"""Items shared among processes of this machine, one for each GPU; those of a process that is killed are done again."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from medsam_adapt.core.errors import RunError
from medsam_adapt.core.jobs import Item, Progress, Result, StreamJob

_DEATHS = 3  # of processes, after which the item that they all had begun is given up


@dataclass(eq=False)
class _Process:
    """A process, the pipe to it, and the items that it has begun, by name."""

    process: Any
    pipe: Connection
    number: int
    begun: dict[str, Any] = field(default_factory=dict)
    works: bool = False


def run_in_processes(
    count: int, job: StreamJob[Item, Result], items: Iterable[Item], progress: Progress | None = None
) -> Generator[tuple[Item, Result], None, None]:
    """Items and their results, in the order in which they are done.

    Args:
        count: processes.
        job: what to do; prepared once in each of them.
        items: each goes to the next process that is free.
        progress: called with an item and how much of it was just done.

    Raises:
        Exception: what preparing the job raised.
        RunError: several processes ended before they had prepared the job.
    """
    waiting = deque(items)
    left, deaths = len(waiting), Counter[str]()
    running = [_begun(job, number, count) for number in range(min(count, left))]
    free: list[_Process] = []
    try:
        while left:
            for pipe in wait([each.pipe for each in running]):
                each = next(other for other in running if other.pipe is pipe)
                try:
                    kind, *content = each.pipe.recv()
                except (EOFError, OSError):
                    running[running.index(each)] = _begun(job, each.number, count)
                    free = [other for other in free if other is not each]
                    for item, reason in _given_up(each, deaths, waiting):
                        left -= 1
                        yield item, job.lost(item, reason)
                    continue
                if kind == "error":
                    raise content[0]
                if kind == "next":
                    each.works = True
                    free.append(each)
                elif kind == "progress" and progress is not None:
                    progress(each.begun[content[0]], content[1])
                elif kind == "done":
                    left -= 1
                    yield each.begun.pop(content[0]), content[1]
            free = [each for each in free if not _answered(each, waiting)]
    finally:
        for each in running:
            each.pipe.close()
            each.process.terminate()
        for each in running:
            each.process.join()


def _answered(each: _Process, waiting: deque[Any]) -> bool:
    """Give a process that asks its next item, or let it finish what it has; False where it has nothing and must wait.

    It may get an item later that another process has begun and not finished.
    """
    if not waiting and not each.begun:
        return False
    item = waiting.popleft() if waiting else None
    if item is not None:
        each.begun[item.name] = item
    with suppress(OSError):  # it has just ended, which reading from it shows
        each.pipe.send(item)
    return True


def _given_up(dead: _Process, deaths: Counter[str], waiting: deque[Any]) -> Iterator[tuple[Any, str]]:
    """The items of a process that ended which are not tried again; its others wait for the next process."""
    dead.process.join()
    code = dead.process.exitcode
    reason = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    if not dead.works:
        deaths[""] += 1
        if deaths[""] >= _DEATHS:
            raise RunError(
                f"processes: they ended while they loaded the run, the last with {reason}. Free some memory."
            )
    for name, item in reversed(dead.begun.items()):
        deaths[name] += 1
        if deaths[name] < _DEATHS:
            waiting.appendleft(item)
        else:
            yield item, f"{_DEATHS} processes ended while they had it, the last one with {reason}"


def _begun(job: StreamJob[Any, Any], number: int, count: int) -> _Process:
    # Spawned, not forked: a fork in a process with running threads (torch's, BLAS's) may hang.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, job, number, count), daemon=True)
    process.start()
    theirs.close()
    return _Process(process, ours, number)


# ------------------------------------------------------------------------------------------------- in such a process


def _work(pipe: Connection, job: StreamJob[Any, Any], number: int, count: int) -> None:
    """Prepare the job, then do items until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this process
    try:
        try:
            _share_processor(count)
            worker = job.start(number)
        except Exception as error:
            pipe.send(("error", error))
            return
        while True:
            for item, result in worker.run_all(
                _items(pipe), lambda item, done: pipe.send(("progress", item.name, done))
            ):
                pipe.send(("done", item.name, result))
    except (EOFError, OSError):  # the parent has all that it wanted, or is gone
        return


def _items(pipe: Connection) -> Iterator[Any]:
    """Items as this process gets them, until there is none for now."""
    while True:
        pipe.send(("next",))
        if (item := pipe.recv()) is None:
            return
        yield item


def _share_processor(count: int) -> None:
    """Leave each process its share of the processor's cores."""
    threads = max(1, (os.cpu_count() or 1) // count)
    if "torch" not in sys.modules:  # which reads it when it is imported
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
        return
    import torch

    torch.set_num_threads(min(torch.get_num_threads(), threads))
