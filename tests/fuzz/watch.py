"""One command on one hostile input, watched: how it ended, and which promise it broke.

The promises: it is done, or it ends with one sentence and exit code 2 or 1; no traceback, no warning of a library, no
hang, no memory for what a header merely claims, nothing left of an output that was not finished, nothing written
elsewhere, no program started, no pickled function looked up, no connection made.
"""

import contextlib
import io
import os
import re
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import NamedTuple

HANG_SECONDS = 20  # of this process's own time; waiting is given three times as much
MEMORY_BYTES = 1 << 29  # that one tiny input may take
_MASKS = re.compile(r"out(/[^/.]+_seg\.nii\.gz)?")
_ADDRESSES = 2 << 30  # bytes: beyond this an allocation fails, so that a breach does not take the machine down
_PLAIN = tempfile.gettempdir()
_RUNS_CODE = {"os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen", "pty.spawn"}
_RUNS_CODE |= {"pickle.find_class", "socket.connect", "webbrowser.open"}
_PLACES = {"open": 0, "os.mkdir": 0, "os.rename": 1, "os.symlink": 1, "os.link": 1}  # event -> argument that is written


class Verdict(NamedTuple):
    """How a command ended: ``done``, ``refused`` (exit code 2), ``failed`` (1), or the promise that it broke."""

    outcome: str
    detail: str = ""

    @property
    def is_breach(self):
        return self.outcome not in ("done", "refused", "failed")


class TookTooLongError(BaseException):
    """Passes through every ``except Exception``."""


class _Hook:
    """Python's audit events while an input is watched; a hook cannot be taken away again, so there is one."""

    def __init__(self):
        self.folder, self.seen, self.installed = None, [], False

    def __call__(self, event, arguments):
        if self.folder is None:
            return
        if event in _RUNS_CODE:
            self.seen.append(f"{event} {arguments!r:.120}")
            raise PermissionError(f"{event} in a watched command")
        if event in _PLACES and not _may_write(event, arguments, self.folder):
            self.seen.append(f"wrote {arguments[_PLACES[event]]!r:.160}")

    @contextlib.contextmanager
    def watching(self, folder):
        if not self.installed:
            sys.addaudithook(self)
            self.installed = True
        self.folder, self.seen = str(folder.resolve()), []
        try:
            yield self.seen
        finally:
            self.folder = None


def _may_write(event, arguments, folder):
    place = arguments[_PLACES[event]]
    if not isinstance(place, str | bytes | os.PathLike):
        return True  # a file that is open already
    if event == "open":
        flags = arguments[2] if isinstance(arguments[2], int) else 0
        if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return True
    path = os.path.realpath(os.fsdecode(place))
    return path.startswith(folder + os.sep) or path == os.devnull or "__pycache__" in path


_HOOK = _Hook()


def watch(command, folder, secrets=()):
    """Run ``command`` and judge it.

    Args:
        command: called without arguments; ends as `medsam_adapt.cli.main.main` does.
        folder: everything that it may write to; its subfolder ``out`` is the output.
        secrets: words that must not be printed.
    """
    before = _listing(folder)
    printed = io.StringIO()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code, fault = None, None
    with (
        _standard_error() as noise,
        _HOOK.watching(folder) as events,
        _bounded(),
        warnings.catch_warnings(record=True) as warned,
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
    ):
        warnings.simplefilter("always", RuntimeWarning)
        warnings.simplefilter("always", UserWarning)
        try:
            command()
        except SystemExit as stopped:
            code = stopped.code or 0
        except TookTooLongError:
            fault = Verdict("hang", _where(sys.exc_info()[2]))
        except MemoryError as error:
            fault = Verdict("memory", _where(error.__traceback__))
        except BaseException as error:
            fault = Verdict("traceback", f"{type(error).__name__}: {str(error)[:200]} at {_where(error.__traceback__)}")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024
    if events:
        return Verdict("ran or wrote what it must not", events[0])
    if fault is not None:
        return fault
    if grown > MEMORY_BYTES:
        return Verdict("memory", f"{grown:,} bytes")
    reported = [*(str(each.message) for each in warned), *noise]
    return _judge(code or 0, printed.getvalue(), reported, before, folder, secrets)


def _judge(code, text, warned, before, folder, secrets):
    if code not in (0, 1, 2):
        return Verdict("exit code", str(code))
    if "Traceback" in text or (code and not text.strip()) or len(text) > 20_000:
        return Verdict("no sentence", text[-300:])
    if reported := [secret for secret in secrets if secret in text]:
        return Verdict("reported a secret", f"{reported[0]}: {text[-300:]}")
    if warned:
        return Verdict("warning", warned[0][:300])
    after = _listing(folder)
    left = {name: size for name, size in after.items() if before.get(name) != size}
    hidden = [name for name in left if Path(name).name.startswith(".") or name.startswith("temporary/")]
    # The masks of a set's other volumes are whole, and the command lists how many it wrote.
    whole = _MASKS if "volumes could not be segmented. Written: " in text else re.compile("")
    if hidden or (code and [name for name in left if not name.startswith("home") and not whole.fullmatch(name)]):
        return Verdict("partial output", f"{(hidden or sorted(left))[:3]} after exit code {code}")
    if set(before) - set(after):
        return Verdict("removed", str(sorted(set(before) - set(after))[:3]))
    return Verdict(("done", "failed", "refused")[code], text.strip().splitlines()[-1][:300] if text.strip() else "")


def _listing(folder):
    found = {}
    for path in folder.rglob("*"):
        facts = path.lstat()
        found[path.relative_to(folder).as_posix()] = (facts.st_size, facts.st_mtime_ns) if path.is_file() else 0
    return found


def _where(trace):
    """The last of our frames, and the innermost of all."""
    frames = traceback.extract_tb(trace)
    ours = [frame for frame in frames[:-1] if "medsam" in frame.filename]
    return ", ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in [*ours[-3:], *frames[-1:]])


@contextlib.contextmanager
def _standard_error():
    """What libraries write past Python during the block, in the list that it gives, when the block is done."""
    reported, kept = [], os.dup(2)
    with tempfile.TemporaryFile(dir=_PLAIN) as file:
        os.dup2(file.fileno(), 2)
        try:
            yield reported
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            if text := file.read().decode("utf-8", "replace").strip():
                reported.append(text)


@contextlib.contextmanager
def _bounded():
    """A limit on time, and on memory that is set aside."""

    def stop(*_):
        raise TookTooLongError

    limits = resource.getrlimit(resource.RLIMIT_AS)
    timers = ((signal.SIGPROF, signal.ITIMER_PROF, 1), (signal.SIGALRM, signal.ITIMER_REAL, 3))
    previous = {number: signal.signal(number, stop) for number, _, _ in timers}
    statm = Path("/proc/self/statm")
    if statm.exists():
        now = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + _ADDRESSES, limits[1]))
    for _, timer, factor in timers:
        signal.setitimer(timer, factor * HANG_SECONDS)
    try:
        yield
    finally:
        for number, timer, _ in timers:
            signal.setitimer(timer, 0)
            signal.signal(number, previous[number])
        resource.setrlimit(resource.RLIMIT_AS, limits)
