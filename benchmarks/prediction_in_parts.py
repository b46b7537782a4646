"""Print whether several processes predict what one does, how long they take, and what a killed one loses.

    python benchmarks/prediction_in_parts.py [--cases 1000] [--processes 1 2 4] [--kills 20] [--seed 0]
        [--ways parts gpus torchrun dask]

A random vit_nano segments small synthetic volumes on the processor: in one process, and then in each of the ways:

parts     as many commands with --part K/N at the same time
gpus      one command with --gpus N --device cpu
torchrun  torchrun --nproc_per_node=N
dask      one command with --cluster local:N

Compared with the one process are every mask, byte by byte, and the report but for its seconds. Then, for each way with
two processes, SIGKILL ends one of them at a random moment, and the same command is run again with --skip-existing. The
tally counts the trials after which a mask or a record was lost, was different, or was there twice, or after which a
file was left that no other run leaves.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.made_runs import make_run

WAYS = ("parts", "gpus", "torchrun", "dask")
_FOREVER = 3600.0  # seconds, for a command that hangs


def make_scans(folder: Path, count: int) -> None:
    """Small volumes, each different."""
    folder.mkdir(parents=True)
    for number in range(count):
        voxels = np.random.default_rng(number).normal(40, 250, (20, 18, 4)).astype(np.int16)
        nib.save(nib.Nifti1Image(voxels, np.diag([-2, 2, 5, 1])), folder / f"case_{number:05d}.nii.gz")


def arguments(run: Path, scans: Path, output: Path) -> list[str]:
    """Of ``medsam-adapt``, in one process; what is done is skipped, so that it can be run again."""
    predict = ["predict", str(run), "-i", str(scans), "-o", str(output / "masks"), "--device", "cpu"]
    return [*predict, "--report", str(output / "report.json"), "--skip-existing"]


def commands(way: str, count: int, run: Path, scans: Path, output: Path) -> list[list[str]]:
    """The commands of one way with so many processes."""
    predict = arguments(run, scans, output)
    alone = [sys.executable, "-m", "medsam_adapt.cli", *predict]
    if way == "parts":
        return [[*alone, "--part", f"{number}/{count}"] for number in range(1, count + 1)]
    if way == "gpus":
        return [[*alone, "--gpus", str(count)]]
    if way == "dask":
        return [[*alone, "--cluster", f"local:{count}"]]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
    return [[*launcher, "-m", "medsam_adapt.cli", *predict]]


def start(orders: Sequence[Sequence[str]]) -> list[subprocess.Popen]:
    """Begin all commands, one thread each."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return [subprocess.Popen(order, env=environment, **quiet) for order in orders]


def finish(started: Sequence[subprocess.Popen]) -> list[int]:
    """Wait for all commands; their exit codes."""
    return [each.wait(_FOREVER) for each in started]


def result(output: Path) -> dict[str, Any]:
    """Masks by name, the report's cases without their seconds, and the names of everything else that lies there."""
    report = json.loads((output / "report.json").read_text()) if (output / "report.json").is_file() else {}
    cases = {
        name: {key: value for key, value in entry.items() if key not in ("seconds", "files", "input")}
        for name, entry in report.get("cases", {}).items()
    }
    masks = {path.name: path.read_bytes() for path in sorted((output / "masks").glob("[!.]*"))}
    hidden = sorted(path.name for path in (output / "masks").glob(".*"))
    lines = sorted(path.name for path in output.glob("*.jsonl"))
    return {"masks": masks, "cases": cases, "failed": report.get("failed"), "left": hidden + lines}


def processes_of(started: Sequence[subprocess.Popen]) -> list[int]:
    """The processes that segment, by number: children that were spawned, or else the commands themselves."""
    found = []
    for each in started:
        below = _below(each.pid)
        found += below or ([each.pid] if each.poll() is None else [])
    return found


def _below(parent: int) -> list[int]:
    """Descendants that run a workflow: not the helpers that multiprocessing and Dask start for themselves."""
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    except OSError:
        return []
    found = []
    for child in map(int, children):
        try:
            line = Path(f"/proc/{child}/cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        deeper = _below(child)
        found += deeper or ([child] if "resource_tracker" not in line and "forkserver" not in line else [])
    return found


def kill_one(way: str, run: Path, scans: Path, output: Path, seconds: float, chance: random.Random) -> dict[str, Any]:
    """What is there after one of two processes got SIGKILL at a random moment, and the command was run again."""
    orders = commands(way, 2, run, scans, output)
    started = start(orders)
    # A moment between the first mask and the usual end; when it comes is drawn from the length of a whole run.
    while not any((output / "masks").glob("[!.]*")) and any(each.poll() is None for each in started):
        time.sleep(0.01)
    time.sleep(chance.random() * seconds)
    if victims := processes_of(started):
        with suppress(ProcessLookupError):
            os.kill(chance.choice(victims), signal.SIGKILL)
    finish(started)
    finish(start(orders))
    return result(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000, help="volumes")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4], help="how many, one after another")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="how they share the volumes")
    parser.add_argument("--kills", type=int, default=20, help="for each way")
    parser.add_argument("--seed", type=int, default=0, help="of the kills' moments")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run, scans = make_run(folder / "run"), folder / "scans"
        make_scans(scans, options.cases)
        began = time.perf_counter()
        finish(start([commands("gpus", 1, run, scans, folder / "one")[0]]))
        seconds = time.perf_counter() - began
        expected = result(folder / "one")
        print(f"{options.cases} volumes in one process: {seconds:.1f} s, {len(expected['masks'])} masks")
        for way in options.ways:
            for count in options.processes:
                output = folder / f"{way}-{count}"
                began = time.perf_counter()
                codes = finish(start(commands(way, count, run, scans, output)))
                passed = time.perf_counter() - began
                same = result(output) == expected and not any(codes)
                print(f"{way:9} {count} processes: {passed:7.1f} s, {'the same' if same else 'DIFFERENT'}")
        for way in options.ways:
            chance, good = random.Random(options.seed), 0
            for number in range(options.kills):
                output = folder / f"kill-{way}-{number}"
                good += kill_one(way, run, scans, output, seconds / 3, chance) == expected
            print(f"{way:9} SIGKILL: {good} of {options.kills} trials ended with the same masks and report")


if __name__ == "__main__":
    main()
