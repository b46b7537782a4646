"""Items as tasks of Dask: prepared once per worker, done again where a worker is lost."""

import os
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from medsam_adapt.core import cluster
from medsam_adapt.core.cluster import open_cluster
from medsam_adapt.core.errors import InputError
from tests.warm import spawn_by_forking

ITEMS = 12


@dataclass(frozen=True)
class Named:
    name: str


@dataclass
class Squares:
    folder: Path
    killed_once: str = ""
    refuse: bool = False
    device: int | None = field(default=None, init=False)

    def start(self, device):
        if self.refuse:
            raise InputError("run: it is not here. Check the path.")
        self.device = device
        (self.folder / f"prepared-{os.getpid()}").touch(exist_ok=False)
        return self

    def run(self, item):
        mark = self.folder / f"mark-{item.name}"
        if item.name == self.killed_once and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return int(item.name) ** 2, self.device

    def lost(self, item, reason):
        return reason


@pytest.fixture(scope="module")
def local():
    pytest.importorskip("distributed")
    with pytest.MonkeyPatch.context() as patch:
        spawn_by_forking(patch)
        with open_cluster("local:2") as opened:
            yield opened


def test_a_lost_worker_loses_nothing(local, tmp_path):
    items = [Named(str(number)) for number in range(ITEMS)]
    results = dict(local.run(Squares(tmp_path, killed_once="5"), items))
    assert {item.name: square for item, (square, _) in results.items()} == {str(n): n * n for n in range(ITEMS)}
    assert {device for _, device in results.values()} <= {0, 1}
    assert 2 <= len(list(tmp_path.glob("prepared-*"))) <= 3  # once in each process, of which one was replaced


def test_what_is_wrong_with_the_job_is_raised(local, tmp_path):
    with pytest.raises(InputError, match="it is not here"):
        list(local.run(Squares(tmp_path, refuse=True), [Named("1"), Named("2")]))


@dataclass
class Gate:
    """The first item is done at once; the others wait until the gate is opened."""

    folder: Path

    def start(self, device):
        return self

    def run(self, item):
        while item.name != "0" and not (self.folder / "open").exists():
            time.sleep(0.01)
        (self.folder / f"done-{item.name}").touch()

    def lost(self, item, reason):
        return reason


def test_what_was_not_begun_is_cancelled_when_the_results_are_not_wanted_any_more(local, tmp_path):
    results = local.run(Gate(tmp_path), [Named(str(number)) for number in range(40)])
    assert next(results)[0].name == "0"
    results.close()  # as Ctrl-C does
    threads = sum(local._client.nthreads().values())
    for _ in range(500):  # until the workers have heard of it
        if sum(local._client.run(lambda dask_worker: len(dask_worker.state.tasks)).values()) <= threads:
            break
        time.sleep(0.01)
    (tmp_path / "open").touch()
    (tmp_path / "next").mkdir()
    assert len(list(local.run(Squares(tmp_path / "next"), [Named("1"), Named("2")]))) == 2
    assert len(list(tmp_path.glob("done-*"))) <= 1 + threads


def test_another_release_is_refused(local):
    with pytest.raises(InputError, match=r"its scheduler has distributed .*, and this machine 0\.1\. Install the same"):
        cluster._check_versions(local._client, "tcp://node:8786", "0.1")
    with pytest.raises(InputError, match=r"a worker has medsam-adapt .*, and the command is 0\.0\.1\."):
        cluster._check_release("0.0.1")


@pytest.mark.parametrize("address", ["local:0", "local:x", "node7"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(InputError, match="it is no address"), open_cluster(address):
        pass


def test_an_address_where_nothing_answers_is_refused(monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(cluster, "_TIMEOUT", "500ms")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(InputError, match="no Dask scheduler answers there"), open_cluster(f"tcp://127.0.0.1:{port}"):
        pass


def test_without_dask_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"pip install 'medsam-adapt\[cluster\]'"), open_cluster("local:2"):
        pass
