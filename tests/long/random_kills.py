"""Kill trainings at random moments, resume them, and print how many equal an uninterrupted one bit by bit.

    python -m tests.long.random_kills [--kills 100] [--seed 0] [--methods blosam,infosam,samcobot,samparser]

Each trial begins a training in a separate process, which gets SIGKILL, and then continues with --resume, which gets
the next one, and so on; the last goes to its end. Half the kills come at a moment drawn from the length of a training,
half at the n-th renaming of a file, before or after it: between the files of a checkpoint. Half the trials keep a
checkpoint after every step, one in four has a process that prepares slices, one in four an empty slice cache. Compared
are weights, moments, schedules, random states, best score, adapter, logs (every scalar, as often as it was logged) and
record.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import monai.bundle  # noqa: F401 (what a training imports is imported before the processes part)
import torch
import torch.utils.tensorboard

from medsam_adapt.cli.main import main as run_command
from medsam_adapt.data.phantom.phantom import write_phantoms
from medsam_adapt.runs.record import PREVIOUS_STATE_FILE, RUN_FILE, STATE_FILE
from tests.equal_runs import differences

METHODS = ("blosam", "infosam", "samcobot", "samparser")
SETTINGS = {"image_size": 32, "batch_size": 2, "epochs": 3, "val_interval": 2, "min_steps": 3}
FROZEN = ("blosam", "samparser")  # whose image encoder stays as it is: its work is kept in the cache, and killed there
SHAPE = (24, 24, 8)
GIVEN_UP = 10  # trainings that differ


@dataclass(frozen=True)
class Whole:
    """An uninterrupted training: its folder, seconds, and number of files renamed."""

    folder: Path
    seconds: float
    renames: int


@dataclass(frozen=True)
class Kill:
    """SIGKILL after so many seconds, or before or after so many renamings."""

    seconds: float | None = None
    renames: int | None = None
    after: bool = False


def train(arguments, log, kill=None, counter=None):
    """The exit status of a training in a separate process: 0, or minus the signal that killed it."""
    child = os.fork()
    if child == 0:
        _run_child(arguments, log, kill, counter)
    if kill is not None and kill.seconds is not None:
        return _killed_in_time(child, kill.seconds)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _run_child(arguments, log, kill, counter):
    """Train and end the process, without a way back into the caller."""
    code = 70
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        renames = _count_renames(kill)
        try:
            run_command(arguments)
        except SystemExit as ended:
            code = ended.code or 0
        if counter is not None:
            counter.write_text(str(renames[0]), encoding="utf-8")
    except BaseException:  # a child must not come back; what it met is reported by its log
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _count_renames(kill):
    """How many files this process has renamed, as the one item of a list; it kills itself at ``kill``."""
    count, rename = [0], os.rename
    me = os.getpid()

    def counted(do):
        def wrapper(*paths, **options):
            count[0] += 1
            here = kill is not None and kill.renames == count[0] and os.getpid() == me
            if here and not kill.after:
                os.kill(me, signal.SIGKILL)
            do(*paths, **options)
            if here:
                os.kill(me, signal.SIGKILL)

        return wrapper

    os.rename, os.replace = counted(rename), counted(os.replace)
    return count


def _killed_in_time(child, seconds):
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def arguments_of(method, data, output, more=()):
    """Settings of a training; they are used to resume it as well."""
    settings = {**SETTINGS, **({"tune_encoder": "false"} if method in FROZEN else {}), **dict(more)}
    sets = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    given = ["--bundle", method, "--data", str(data), "--output", str(output), "--device", "cpu"]
    return ["train", "--resume", *given, *sets]


def uninterrupted(method, data, scratch):
    """Train without a kill; raises RuntimeError when that fails."""
    folder, log, counter = scratch / f"{method}_whole", scratch / f"{method}.log", scratch / f"{method}.count"
    for _ in range(2):  # the first one also fills the cache
        shutil.rmtree(folder, ignore_errors=True)
        started = time.monotonic()
        if code := train(arguments_of(method, data, folder), log, counter=counter):
            raise RuntimeError(f"{method} ended with {code}:\n{log.read_text(encoding='utf-8')}")
        seconds = time.monotonic() - started
    return Whole(folder, seconds, int(counter.read_text(encoding="utf-8")))


def draw_kill(draw, whole):
    """A kill at a random moment of a training."""
    if draw.random() < 0.5:
        return Kill(seconds=draw.uniform(0, whole.seconds))
    return Kill(renames=draw.randint(1, whole.renames), after=draw.random() < 0.5)


def stage(folder):
    """How far a killed training had come, by its files."""
    if not (folder / RUN_FILE).is_file():
        return "before the record"
    if not (folder / STATE_FILE).is_file():
        return "between two checkpoints" if (folder / PREVIOUS_STATE_FILE).is_file() else "before a checkpoint"
    if any(path.name.startswith(".") and path.name != ".lock" for path in folder.rglob("*")):
        return "with a file half written"
    return "after a checkpoint"


def trial(method, data, whole, draw, folder, kills):
    """Begin a training, kill it up to ``kills`` times, end it; the stages of the kills, and what differs then."""
    more = {"save_minutes": draw.choice((0, 10)), "num_workers": int(draw.random() < 0.25)}
    if draw.random() < 0.25:
        more["cache_dir"] = folder.parent / "cache"
    arguments, log = arguments_of(method, data, folder, more.items()), folder.parent / "log"
    stages = []
    for _ in range(kills):
        code = train(arguments, log, draw_kill(draw, whole))
        if code == 0:  # the end came before the kill
            break
        if code != -signal.SIGKILL:
            return stages, [f"exit code {code}: {log.read_text(encoding='utf-8')[-2000:]}"]
        stages.append(stage(folder))
    if code and (code := train(arguments, log)):
        return stages, [f"exit code {code}: {log.read_text(encoding='utf-8')[-2000:]}"]
    return stages, differences(folder, whole.folder)


def main():
    """Count kills and equal resumes; exit code 1 when one differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", type=lambda text: text.split(","), default=METHODS)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no training after so many")
    parser.add_argument("--most", type=int, default=3, help="kills of one training")
    options = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.monotonic()
    draw, by_method, stages, failed = random.Random(options.seed), Counter(), Counter(), []
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["MEDSAM_ADAPT_HOME"] = f"{scratch}/home"
        data = write_phantoms(Path(scratch, "data"), 5, seed=0, shape=SHAPE)
        wholes = {method: uninterrupted(method, data, Path(scratch)) for method in options.methods}
        for method, whole in wholes.items():
            print(f"{method}: {whole.seconds:.1f} s and {whole.renames} files renamed without a kill", flush=True)
        trials = 0
        while sum(by_method.values()) < options.kills and time.monotonic() < begun + options.seconds:
            method = options.methods[trials % len(options.methods)]
            trials += 1
            most = min(draw.randint(1, options.most), options.kills - sum(by_method.values()))
            with tempfile.TemporaryDirectory(dir=scratch) as place:
                found, differing = trial(method, data, wholes[method], draw, Path(place, "run"), most)
            by_method[method] += len(found)
            stages.update(found)
            if differing:
                failed.append((trials, method, found, differing))
                print(f"trial {trials}, {method}, killed {found}: {', '.join(differing[:5])}", flush=True)
            if len(failed) >= GIVEN_UP:
                break
    equal = trials - len(failed)
    print(f"\n{sum(by_method.values())} kills in {trials} trainings: {equal} equal, {len(failed)} differ")
    print(f"kills by method: {dict(by_method)}\nkills by stage: {dict(stages)}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
