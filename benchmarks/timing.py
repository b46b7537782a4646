"""Shared by the benchmarks: medians of interleaved rounds, memory in a separate process, tables, and JSON.

A script that measures memory must keep its work below ``if __name__ == "__main__":``, since the measuring process
imports it.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pages import into_page

from medsam_adapt.core.devices import select_device
from medsam_adapt.core.files import write_json

Work = Callable[[], Any]


def add_options(parser: argparse.ArgumentParser) -> None:
    """``--device``, ``--threads``, ``--rounds``, ``--quick``, ``--json`` and ``--page``, as in every benchmark."""
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the processor")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds of which the median is taken")
    parser.add_argument("--quick", action="store_true", help="small shapes and few rounds, to see that it runs")
    parser.add_argument("--json", type=Path, help="file of the figures")
    parser.add_argument("--page", type=Path, help="Markdown page between whose comments the table goes")


def start(options: argparse.Namespace) -> torch.device:
    """The device, after the number of threads has been set and the random state is known."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    return select_device(options.device)


def interleaved_medians(
    works: Mapping[str, Work],
    rounds: int = 5,
    device: torch.device | None = None,
    clock: Callable[[], float] = time.perf_counter,
    at_least: float = 0.0,
) -> dict[str, float]:
    """Median seconds of each work by name; every round runs all of them in turn, so that a busy moment hits all.

    A work's turn is one run of it, or as many as take ``at_least`` so many seconds together, of which the mean counts.
    One round before is not counted. On a GPU the clock is read when the device has finished. On a machine that is busy
    with other things, ``time.process_time`` with one thread is the steadier clock.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            _finish(device)
            begun, runs, taken = clock(), 0, 0.0
            while runs == 0 or taken < at_least:
                work()
                _finish(device)
                runs, taken = runs + 1, clock() - begun
            if number:
                seconds[name].append(taken / runs)
    return {name: statistics.median(values) for name, values in seconds.items()}


def extra_memory(prepare: Callable[..., Work], *arguments: Any, device: torch.device | None = None) -> int:
    """Most bytes that a work takes beyond what was there when it began, in a new process that does nothing else.

    On the CPU the pages of the process (Linux), on a GPU its tensors.

    Args:
        prepare: a function of a module; builds what the work needs and returns the work, which is run once.
        arguments: of ``prepare``; they must be picklable.
        device: where the memory is taken.

    Raises:
        RuntimeError: when the process ends without a result, for example out of memory.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(sender, torch.get_num_threads(), device, prepare, arguments))
    process.start()
    sender.close()  # so that the end of the process ends the wait
    try:
        return receiver.recv()
    except EOFError as error:
        process.join()
        raise RuntimeError(f"the process that measured memory ended with code {process.exitcode}") from error
    finally:
        process.join()


def matrix_rate(device: torch.device | None = None, dtype: torch.dtype = torch.float32, size: int = 2048) -> float:
    """Floating-point operations a second that the machine reaches on a product of two square matrices, the best of 5.

    Operations are counted as twice the multiplications.
    """
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = min(interleaved_medians({"product": lambda: left @ right}, 1, device)["product"] for _ in range(5))
    return 2 * size**3 / seconds


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table with the first column to the left and the others to the right; floats keep three figures."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *([_text(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def show(table: str, name: str, page: Path | None) -> None:
    """Print a table, and put it between the comments of that name in a page, where one is given."""
    print(table)
    if page is not None:
        into_page(page, table, name)


def write_results(path: Path | None, results: Any, device: torch.device | None = None) -> None:
    """``{"machine": …, "results": results}`` as JSON; nothing where ``path`` is None."""
    if path is not None:
        write_json(path, {"machine": machine(device), "results": results})


def machine(device: torch.device | None = None) -> dict[str, Any]:
    """Processor or GPU, threads, and the versions that matter."""
    gpu = device is not None and device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if gpu else _processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _measure(
    sender: Any, threads: int, device: torch.device | None, prepare: Callable[..., Work], given: tuple
) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    work = prepare(*given)
    gc.collect()
    if device is not None and device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        kept = work()
        peak = torch.cuda.max_memory_allocated(device)
    else:
        ctypes.CDLL(None).malloc_trim(0)  # what building has freed would hide what the work takes
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins again from here
        before = _resident("VmRSS")
        kept = work()
        peak = _resident("VmHWM")
    del kept  # held until the peak was read
    sender.send(peak - before)


def _resident(entry: str) -> int:
    """Bytes of this process: ``VmRSS`` now, ``VmHWM`` at most (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{entry}:"))


def _finish(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


def _processor() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _text(cell: Any) -> str:
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)
