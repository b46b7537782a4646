"""Items as tasks on a Dask cluster: ``--cluster ADDRESS`` of a scheduler, or ``local:N`` for N workers of this machine.

Each worker prepares the job once and keeps it for its next tasks. Tasks of a worker that is lost are done again by
another one. Through the scheduler pass the job and the items, which are names, paths and settings; results come from
the workers directly.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import threading
import uuid
from collections import OrderedDict
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.jobs import Item, Job, Result, Worker
from medsam_adapt.core.versions import versions

_TIMEOUT = "10s"  # to find the scheduler
_KEPT = 2  # jobs that a worker keeps prepared
_AHEAD = 4  # tasks that are submitted for each thread of the cluster
_LOCAL = re.compile(r"local:([1-9]\d{0,3})")
_THREADS = 2  # of each local worker: one case is computed while another one is read or written

_jobs: OrderedDict[str, Worker[Any, Any]] = OrderedDict()  # in a worker's process: those that it has prepared
_preparing = threading.Lock()


class Cluster:
    """A connection to a Dask cluster; see `open_cluster`."""

    def __init__(self, client: Any, address: str, local: bool) -> None:
        self._client, self.address, self._local = client, address, local

    @property
    def workers(self) -> int:
        """How many workers there are now."""
        return len(self._client.nthreads())

    def run(self, job: Job[Item, Result], items: Iterable[Item]) -> Generator[tuple[Item, Result], None, None]:
        """Items and their results, in the order in which they are done.

        Args:
            job: what to do.
            items: each with a name that is unique among them as ``name``.

        Raises:
            InputError: the job cannot be done on a worker, whose versions differ or which does not see a file.
        """
        from distributed import KilledWorker, as_completed
        from distributed.protocol.pickle import dumps

        token, waiting, release = uuid.uuid4().hex, iter(items), versions()["medsam-adapt"]
        # As bytes, which each task carries: Dask would pickle and read the job with its record of a run for each task.
        stored = dumps(job)
        begun: dict[Any, Item] = {}
        done = as_completed(loop=self._client.loop, with_results=True, raise_errors=False)

        def submit() -> int:
            """Tasks for every thread of the workers that there are now, and a few more while there is none.

            They are sent some at a time: asking the scheduler after each result took longer than all else.

            Returns:
                at how many unfinished tasks the next ones are due.
            """
            wanted = _AHEAD * max(sum(self._client.nthreads().values()), 2)
            some = list(itertools.islice(waiting, max(wanted - len(begun), 1)))
            if not some:
                return 0
            keys = [f"{token}-{item.name}" for item in some]
            task = partial(_do, token, stored, release, self._local)
            futures = self._client.map(task, some, key=keys, pure=False)
            begun.update(zip(futures, some, strict=True))
            done.update(futures)
            return len(begun) // 2

        try:
            due = submit()
            for future, result in done:
                item = begun.pop(future)
                if len(begun) <= due:
                    due = submit()
                if future.status != "finished":
                    error = result[1] if isinstance(result, tuple) else result
                    if not isinstance(error, KilledWorker):
                        raise _not_there(self.address, error) if isinstance(error, ModuleNotFoundError) else error
                    result = job.lost(item, "the workers that had it were lost, one after another")
                yield item, result
        finally:
            with suppress(Exception):  # the cluster may be what failed
                self._client.cancel([*begun], force=True)
                self._client.run(_forget, token, wait=False)


@contextmanager
def open_cluster(address: str) -> Iterator[Cluster]:
    """Connect to a cluster, or start workers on this machine, for the time of the block.

    Args:
        address: of a scheduler, such as ``tcp://node7:8786``, or ``local:4`` for four workers here.

    Raises:
        InputError: Dask is not installed, nothing answers at the address, or the versions there differ.
    """
    try:
        import distributed
    except ImportError as error:
        raise InputError(
            "--cluster: Dask is not installed. Install it with: pip install 'medsam-adapt[cluster]'."
        ) from error
    for name in ("distributed", "distributed.worker", "distributed.nanny", "distributed.scheduler", "tornado"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # our messages replace its log
    local = _LOCAL.fullmatch(address)
    if local is None and (":" not in address or address.startswith("local:")):
        raise InputError(f"--cluster {address}: it is no address. Write tcp://HOST:8786, or local:4 for four workers.")
    if local is not None:
        with (
            _local_cluster(distributed, int(local[1])) as cluster,
            distributed.Client(cluster, direct_to_workers=True, set_as_default=False) as client,
        ):
            yield Cluster(client, address, True)
        return
    try:
        client = distributed.Client(address, timeout=_TIMEOUT, direct_to_workers=True, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise InputError(
            f"--cluster {address}: no Dask scheduler answers there. Check the address; 'dask scheduler' starts one."
        ) from error
    with client:
        _check_versions(client, address, distributed.__version__)
        yield Cluster(client, address, False)


def _local_cluster(distributed: Any, count: int) -> Any:
    threads = max(1, (os.cpu_count() or 1) // count)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    return distributed.LocalCluster(
        n_workers=count,
        threads_per_worker=_THREADS,
        processes=True,
        host="127.0.0.1",
        dashboard_address=None,
        memory_limit=0,
        silence_logs=logging.CRITICAL,
        env={name: os.environ.get(name, str(threads)) for name in names},
    )


def _check_versions(client: Any, address: str, own: str) -> None:
    """Raise an InputError where the scheduler or a worker has another release of Dask or of this package."""
    theirs = client.get_versions(check=False)["scheduler"]["packages"].get("distributed")
    if theirs != own:
        raise InputError(
            f"--cluster {address}: its scheduler has distributed {theirs}, and this machine {own}. Install the same "
            "release on both."
        )
    try:
        client.run(_check_release, versions()["medsam-adapt"])
    except ModuleNotFoundError as error:
        raise _not_there(address, error) from error


def _not_there(address: str, error: ModuleNotFoundError) -> InputError:
    return InputError(f"--cluster {address}: a worker has no {error.name}. Install medsam-adapt on every worker.")


# ------------------------------------------------------------------------------------------------------- on a worker


def _check_release(expected: str) -> None:
    own = versions()["medsam-adapt"]
    if own != expected:
        raise InputError(
            f"--cluster: a worker has medsam-adapt {own}, and the command is {expected}. Install the same release on "
            "both."
        )


def _do(token: str, stored: bytes, release: str, local: bool, item: Any) -> Any:
    """One task: the item, by the job as this worker has prepared it."""
    with _preparing:
        if token not in _jobs:
            from distributed.protocol.pickle import loads

            _check_release(release)
            job: Job[Any, Any] = loads(stored)
            _jobs[token] = job.start(_number() if local else None)
            while len(_jobs) > _KEPT:
                _jobs.popitem(last=False)
        worker = _jobs[token]
    return worker.run(item)


def _forget(token: str) -> None:
    _jobs.pop(token, None)


def _number() -> int:
    from distributed import get_worker

    return int(get_worker().name)
