"""Processes that begin at once: forked from one that has imported what a prediction needs.

Starting Python and importing PyTorch takes seconds, in each of the processes of a test. Where a test is not about that
start, `fork_server` and `spawn_by_forking` save it, `commands_by_forking` gives shell scripts a ``medsam-adapt``, and
`run_anew` and `monai_bundle` are ``python -c`` and ``python -m monai.bundle``.
"""

import contextlib
import io
import multiprocessing
import multiprocessing.forkserver
import os
import sys
import tempfile
import threading
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Listener
from pathlib import Path

IMPORTED = ["medsam_adapt.cli.predict", "medsam_adapt.workflows.prediction_run", "medsam_adapt.inference.predictor"]
IMPORTED += ["medsam_adapt.workflows.training_run", "medsam_adapt.training.trainer", "medsam_adapt.training.setup"]
IMPORTED += ["monai.bundle.scripts", "monai.engines", "fire"]
_CLIENT = """#!{python}
import os, sys
from multiprocessing.connection import Client
with Client({address!r}) as server:
    server.send((sys.argv[1:], dict(os.environ), os.getcwd()))
    code, printed = server.recv()
print(printed, end="", file=sys.stderr if code else sys.stdout)
sys.exit(code)
"""


@cache
def fork_server():
    """The context whose processes are forked."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*IMPORTED, "distributed"])
    multiprocessing.forkserver.ensure_running()
    return context


def spawn_by_forking(monkeypatch):
    """Until the test ends, whatever would spawn a process in this one forks it from the server."""
    context, usual = fork_server(), multiprocessing.get_context
    monkeypatch.setattr(multiprocessing, "get_context", lambda way=None: context if way == "spawn" else usual(way))


@contextlib.contextmanager
def commands_by_forking(program, prepare=None):
    """A program of this path that does what ``medsam-adapt`` does, with the caller's environment and folder.

    Each of its processes calls ``prepare`` first, a function at the top of a module.
    """
    context = fork_server()
    with Listener(family="AF_UNIX") as listener:

        def serve():
            while True:
                caller = listener.accept()
                if (given := caller.recv()) is None:
                    caller.close()
                    return
                threading.Thread(target=answer, args=(caller, given), daemon=True).start()

        def answer(caller, given):
            with caller:
                ended, end = context.Pipe(duplex=False)
                process = context.Process(target=_run, args=(*given, end, prepare))
                process.start()
                end.close()
                with contextlib.suppress(EOFError, OSError):  # of a process that was killed: its caller sees no answer
                    caller.send(ended.recv())
                process.join()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        program.write_text(_CLIENT.format(python=sys.executable, address=listener.address), encoding="utf-8")
        program.chmod(0o755)
        try:
            yield
        finally:
            with multiprocessing.connection.Client(listener.address) as caller:
                caller.send(None)
            thread.join()


def _run(arguments, environment, folder, end, prepare):
    from medsam_adapt.cli.main import main

    if prepare is not None:
        prepare()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    printed, code = io.StringIO(), 0
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            main(arguments)
        except SystemExit as stopped:
            code = stopped.code or 0
    end.send((code, printed.getvalue()))


@dataclass(frozen=True)
class Ended:
    """What a process that has ended left: its exit code, and what it printed on both streams."""

    code: int
    out: str
    err: str


def run_anew(code, *arguments, folder=None):
    """What ``python -c`` does with the code and arguments, in a folder.

    The process shares the imports of other packages and nothing of ours, which is imported anew.
    """
    with tempfile.TemporaryDirectory() as printed:
        paths = [Path(printed, name) for name in ("out", "err")]
        process = _started(code, arguments, folder, paths)
        process.join()
        return Ended(process.exitcode, *(path.read_text(encoding="utf-8") for path in paths))


@contextlib.contextmanager
def running_anew(code, *arguments):
    """The same while it runs: the process, and its standard output to read from; it is killed with the block."""
    ours, theirs = fork_server().Pipe(duplex=False)
    process = _started(code, arguments, None, [theirs])
    theirs.close()
    try:
        with os.fdopen(os.dup(ours.fileno()), encoding="utf-8") as out:
            yield process, out
    finally:
        process.kill()
        process.join()
        ours.close()


def monai_bundle(*arguments, folder=None):
    """What ``python -m monai.bundle`` does with the arguments, in a folder."""
    return run_anew(_BUNDLE, *arguments, folder=folder)


_BUNDLE = "import runpy; runpy.run_module('monai.bundle', run_name='__main__', alter_sys=True)"


def _started(code, arguments, folder, printed):
    given = (code, [str(each) for each in arguments], folder, printed)
    process = fork_server().Process(target=_run_anew, args=given)
    process.start()
    return process


def _run_anew(code, arguments, folder, printed):
    for number, place in enumerate(printed, start=1):
        os.dup2(os.open(place, os.O_WRONLY | os.O_CREAT, 0o600) if isinstance(place, Path) else place.fileno(), number)
    if folder is not None:
        os.chdir(folder)
    for name in [name for name in sys.modules if name.partition(".")[0] == "medsam_adapt"]:
        del sys.modules[name]
    sys.argv = ["-c", *arguments]
    try:
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    except Exception:  # the interpreter does this
        sys.excepthook(*sys.exc_info())
        sys.exit(1)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
