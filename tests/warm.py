"""Processes that begin at once: forked from one that has imported what a prediction needs.

Starting Python and importing PyTorch takes seconds, in each of the processes of a test. Where a test is not about that
start, `fork_server` and `spawn_by_forking` save it, and `commands_by_forking` gives shell scripts a ``medsam-adapt``.
"""

import contextlib
import io
import multiprocessing
import multiprocessing.forkserver
import os
import sys
import threading
from functools import cache
from multiprocessing.connection import Listener

IMPORTED = ["medsam_adapt.cli.predict", "medsam_adapt.workflows.prediction_run", "medsam_adapt.inference.predictor"]
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
def commands_by_forking(program):
    """A program of this path that does what ``medsam-adapt`` does, with the caller's environment and folder."""
    context = fork_server()
    with Listener(family="AF_UNIX") as listener:

        def serve():
            while True:
                with listener.accept() as caller:
                    if (given := caller.recv()) is None:
                        return
                    answer, end = context.Pipe(duplex=False)
                    process = context.Process(target=_run, args=(*given, end))
                    process.start()
                    end.close()
                    with contextlib.suppress(
                        EOFError, OSError
                    ):  # of a process that was killed: its caller sees no answer
                        caller.send(answer.recv())
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


def _run(arguments, environment, folder, end):
    from medsam_adapt.cli.main import main

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
