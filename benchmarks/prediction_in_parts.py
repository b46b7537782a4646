"""Print whether several processes predict what one does, how long they take, and what a killed one loses.

    python benchmarks/prediction_in_parts.py [--output FOLDER] [--cases 1000] [--processes 1 2 4] [--kills 20]
        [--killed-cases 40] [--seed 0] [--ways parts gpus torchrun dask] [--seconds S]

A random vit_nano segments small synthetic volumes on the processor, with one thread: in one process, and then in each
of the ways:

parts     as many commands with --part K/N at the same time
gpus      one command with --gpus N --device cpu
torchrun  torchrun --nproc_per_node=N
dask      one command with --cluster local:N

Compared with the one process are every mask, byte by byte, and the report but for its seconds and folders. Then, for
each way with two processes, SIGKILL ends one of them at a random moment: when a number of masks is there that the seed
draws, and a part of a second later, so that any step of a case may be the last one. Ways that do the killed process's
cases by another one (gpus, dask) must finish by themselves; then the same command is run again with --skip-existing.
The tally counts the trials after which a mask or a record was missing or different, or a file was left that no other
run leaves, and the masks that were made again although they were in the report.

With --output every step leaves its result there as a JSON file, and the same command goes on where it was stopped;
--seconds begins no further step after so many.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.made_runs import make_run

WAYS = ("parts", "gpus", "torchrun", "dask")
_MENDING = ("gpus", "dask")  # another process does the cases of one that is killed
_FOREVER = 3600.0  # seconds, for a command that hangs
_UNEQUAL = ("seconds", "files", "input")  # of a case's record: times and folders


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
    """The commands of one way with so many processes; one process where the way is ``one``."""
    predict = arguments(run, scans, output)
    alone = [sys.executable, "-m", "medsam_adapt.cli", *predict]
    if way == "one":
        return [alone]
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
    """Digests of masks by name, the report without what differs from run to run, and names of all else that is there.

    Of parts, each one's report stays beside that of all.
    """
    report = json.loads((output / "report.json").read_text()) if (output / "report.json").is_file() else {}
    cases = {
        name: {key: value for key, value in entry.items() if key not in _UNEQUAL}
        for name, entry in report.pop("cases", {}).items()
    }
    notes = [note for note in report.pop("notes", []) if not note.startswith("part ")]
    masks = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((output / "masks").glob("[!.]*"))
    }
    hidden = sorted(path.name for path in (output / "masks").glob(".*"))
    lines = sorted(path.name for path in output.glob("*.jsonl"))
    return {"masks": masks, "cases": cases, **report, "notes": notes, "left": hidden + lines}


def unequal(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """What differs between two results, in words."""
    problems = []
    for kind in ("masks", "cases"):
        own, others = found[kind], expected[kind]
        for word, names in (
            ("missing", others.keys() - own.keys()),
            ("additional", own.keys() - others.keys()),
            ("different", {name for name in own.keys() & others.keys() if own[name] != others[name]}),
        ):
            if names:
                problems.append(f"{len(names)} {kind} {word}")
    keys = sorted((found.keys() | expected.keys()) - {"masks", "cases"})
    return problems + [f"{key} is {found.get(key)}" for key in keys if found.get(key) != expected.get(key)]


def processes_of(started: Sequence[subprocess.Popen]) -> list[int]:
    """The processes that segment, by number: children that were spawned, or else the commands themselves."""
    found = []
    for each in started:
        below = _below(each.pid)
        found += below or ([each.pid] if each.poll() is None else [])
    return found


def _below(parent: int, in_server: bool = False) -> list[int]:
    """Descendants that run a workflow: not the helpers that multiprocessing and Dask start for themselves.

    Args:
        parent: number of the process.
        in_server: whether it is multiprocessing's fork server, whose children have its command line.
    """
    children = []
    for thread in Path(f"/proc/{parent}/task").glob("*"):  # each has those that it started
        with suppress(OSError):
            children += (thread / "children").read_text().split()
    found = []
    for child in map(int, children):
        try:
            line = Path(f"/proc/{child}/cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        is_helper = "resource_tracker" in line or ("forkserver" in line and not in_server)
        found += _below(child, "forkserver" in line) or ([] if is_helper else [child])
    return found


def kill_one(way: str, run: Path, scans: Path, output: Path, after: int, seconds: float, victim: float) -> list[int]:
    """Begin one way with two processes, and SIGKILL one of them; the commands' exit codes.

    Args:
        way: how they share the cases.
        run: that segments.
        scans: to segment.
        output: of the masks and the report.
        after: so many masks are there then.
        seconds: later.
        victim: which of the processes, from 0 to 1.
    """
    started = start(commands(way, 2, run, scans, output))
    while len(_masks(output)) < after and any(each.poll() is None for each in started):
        time.sleep(0.002)
    time.sleep(seconds)
    if found := processes_of(started):
        with suppress(ProcessLookupError):
            os.kill(found[int(victim * len(found))], signal.SIGKILL)
    return finish(started)


def _masks(output: Path) -> list[Path]:
    return list((output / "masks").glob("[!.]*"))


def kill_trial(
    way: str, run: Path, scans: Path, output: Path, expected: dict[str, Any], chance: random.Random
) -> dict[str, Any]:
    """What a kill at a random moment did: problems after it and after the command was run again, masks made twice."""
    after, seconds, victim = chance.randrange(len(expected["masks"])), chance.random() / 20, chance.random()
    codes = kill_one(way, run, scans, output, after, seconds, victim)
    alone = unequal(result(output), expected) if way in _MENDING and not any(codes) else []
    if way in _MENDING and any(codes):
        alone = [f"exit codes {codes}"]
    recorded = {entry for path in output.glob("report*json*") for entry in _recorded(path)}
    before = {path.name: path.stat().st_mtime_ns for path in _masks(output)}
    codes = finish(start(commands(way, 2, run, scans, output)))
    problems = unequal(result(output), expected) + [f"exit codes {codes}"] * any(codes)
    again = [
        path for path in _masks(output) if before.get(path.name, path.stat().st_mtime_ns) != path.stat().st_mtime_ns
    ]
    twice = [path.name for path in again if path.name.removesuffix("_seg.nii.gz") in recorded]
    return {"way": way, "after": after, "masks": len(before), "alone": alone, "problems": problems, "twice": twice}


def _recorded(path: Path) -> set[str]:
    """Cases in a report, or in the lines that a killed process left."""
    if path.suffix == ".json":
        return {*json.loads(path.read_text())["cases"]}
    lines = [line for line in path.read_text().split("\n")[:-1] if line]  # the last one may be half a line
    return {json.loads(line)[1] for line in lines if json.loads(line)[0] == "cases"}


class Steps:
    """Steps of the benchmark, each done once: its result is a JSON file.

    Args:
        folder: of everything.
        seconds: after which no further step is begun.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.end, self.complete = folder, time.monotonic() + seconds, True

    def __call__(self, name: str, work: Callable[[Path], dict[str, Any]]) -> dict[str, Any] | None:
        """What ``work`` returns for a new folder, now or before; None where there is no time left."""
        path, output = self.folder / "results" / f"{name}.json", self.folder / "outputs" / name
        if not path.is_file():
            if time.monotonic() > self.end:
                self.complete = False
                return None
            shutil.rmtree(output, ignore_errors=True)
            found = work(output)
            shutil.rmtree(output, ignore_errors=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".part").write_text(json.dumps(found))
            path.with_suffix(".part").replace(path)
        return json.loads(path.read_text())


def timed(way: str, count: int, run: Path, scans: Path, output: Path) -> dict[str, Any]:
    """Seconds of one way, its exit codes and its result."""
    began = time.perf_counter()
    codes = finish(start(commands(way, count, run, scans, output)))
    return {"seconds": time.perf_counter() - began, "codes": codes, **result(output)}


def prepare(folder: Path, cases: int, killed: int) -> None:
    """The run, the volumes, and the first ``killed`` of them in a separate folder."""
    if not (folder / "run").is_dir():
        make_run(folder / "run")
    for name, count in (("scans", cases), ("few-scans", killed)):
        if (folder / name).is_dir() and len(list((folder / name).iterdir())) != count:
            raise SystemExit(f"--output {folder}: it has another number of volumes. Name another folder.")
        if not (folder / name).is_dir():
            shutil.rmtree(folder / f"{name}-new", ignore_errors=True)
            make_scans(folder / f"{name}-new", count)
            (folder / f"{name}-new").rename(folder / name)


def compare(steps: Steps, options: argparse.Namespace) -> None:
    """Print whether all ways give what one process does."""
    run, scans = steps.folder / "run", steps.folder / "scans"
    one = steps("one", lambda output: timed("one", 1, run, scans, output))
    if one is None:
        return
    print(f"{options.cases} volumes in one process: {one['seconds']:.1f} s, {len(one['masks'])} masks", flush=True)
    for way in options.ways:
        for count in options.processes:
            found = steps(f"{way}-{count}", lambda output, way=way, count=count: timed(way, count, run, scans, output))
            if found is not None:
                problems = unequal({**found, "seconds": 0, "codes": [0]}, {**one, "seconds": 0, "codes": [0]})
                problems += [f"exit codes {found['codes']}"] * any(found["codes"])
                outcome = "the same" if not problems else f"DIFFERENT: {'; '.join(problems)}"
                print(f"{way:9} {count} processes: {found['seconds']:7.1f} s, {outcome}", flush=True)


def tally(steps: Steps, options: argparse.Namespace) -> None:
    """Print what kills at random moments did."""
    run, scans = steps.folder / "run", steps.folder / "few-scans"
    one = steps("few", lambda output: timed("one", 1, run, scans, output))
    if one is None:
        return
    expected = {key: value for key, value in one.items() if key not in ("seconds", "codes")}
    for way in options.ways:
        trials = []
        for number in range(options.kills):
            chance = random.Random(f"{options.seed} {way} {number}")
            trials.append(
                steps(
                    f"kill-{way}-{options.seed}-{number}",
                    lambda output, way=way, chance=chance: kill_trial(way, run, scans, output, expected, chance),
                )
            )
        done = [trial for trial in trials if trial is not None]
        for trial in done:
            if trial["problems"] or trial["alone"] or trial["twice"]:
                print(f"{way:9} after {trial['after']} masks: {trial['alone']} {trial['problems']} {trial['twice']}")
        good = sum(not trial["problems"] for trial in done)
        alone = sum(not trial["alone"] for trial in done)
        by_itself = f", {alone} without being run again" if way in _MENDING else ""
        twice = sum(len(trial["twice"]) for trial in done)
        print(
            f"{way:9} SIGKILL: {good} of {len(done)} trials ended with the same masks and report{by_itself}; "
            f"{twice} recorded masks were made twice",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder of results; temporary without it")
    parser.add_argument("--cases", type=int, default=1000, help="volumes")
    parser.add_argument(
        "--processes", type=int, nargs="*", default=[1, 2, 4], help="one after another; none for kills only"
    )
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="how they share the volumes")
    parser.add_argument("--kills", type=int, default=20, help="for each way")
    parser.add_argument("--killed-cases", type=int, default=40, help="volumes of each of these trials")
    parser.add_argument("--seed", type=int, default=0, help="of the kills' moments")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no further step after so many")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        steps = Steps(options.output or Path(name), options.seconds)
        prepare(steps.folder, options.cases, options.killed_cases)
        if options.processes:
            compare(steps, options)
        if options.kills:
            tally(steps, options)
    if not steps.complete:
        print("Not all steps were begun: run the same command again.")


if __name__ == "__main__":
    main()
