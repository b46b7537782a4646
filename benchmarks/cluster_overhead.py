"""Print what Dask adds to each case of a prediction, against the same worker without it.

    python benchmarks/cluster_overhead.py [--cases 400] [--rounds 5]

The cases cost nothing: the worker returns a record of the usual size. Interleaved in each round are the cases one after
another in this process, and the same through `Cluster.run` with one local worker, which is started and has prepared the
job before. Printed are the medians of the milliseconds on the clock for each case, and of the processor's, in this
process (where the client and the scheduler are) and in the worker.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from medsam_adapt.core.cluster import Cluster, open_cluster
from medsam_adapt.prediction.job import CasePaths, PredictionJob
from medsam_adapt.prediction.json_report import case_entry
from medsam_adapt.prediction.plan import Outputs
from medsam_adapt.prediction.prompt_sources import PromptOptions
from medsam_adapt.runs.record import read_run
from tests.made_runs import NAMES, make_run


class NoWork:
    """Returns a record of a case at once."""

    def run(self, item: CasePaths) -> dict[str, Any]:
        return case_entry(1.25, dict.fromkeys(NAMES, 201.25), [], item.outputs)


@dataclass(frozen=True)
class EmptyJob(PredictionJob):
    """A prediction that loads nothing and segments nothing."""

    def start(self, device: int | None) -> NoWork:
        return NoWork()


def job_and_cases(folder: Path, count: int) -> tuple[EmptyJob, list[CasePaths]]:
    """The job as `predict` sends it, with the record of a run, and cases with paths of the usual length."""
    run = make_run(folder / "run")
    job = EmptyJob((run,), read_run(run), Outputs(), {}, "cpu", "auto", None, False, PromptOptions(), True)
    scans = Path("/archive/department/scans")
    cases = [
        CasePaths(name, scans / f"{name}.nii.gz", {"segmentation": scans.parent / "masks" / f"{name}_seg.nii.gz"})
        for name in (f"case_{number:06d}" for number in range(count))
    ]
    return job, cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=400, help="in each round")
    parser.add_argument("--rounds", type=int, default=5, help="of which the median is taken")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, open_cluster("local:1") as cluster:
        job, cases = job_and_cases(Path(name), options.cases)
        worker = job.start(None)
        works: dict[str, Callable[[], Any]] = {
            "without Dask": lambda: [worker.run(case) for case in cases],
            "with Dask": lambda: list(cluster.run(job, cases)),
        }
        found: dict[str, list[tuple[float, float, float]]] = {title: [] for title in works}
        for number in range(options.rounds + 1):
            for title, work in works.items():
                before = _clocks(cluster)
                work()
                passed = [after - earlier for after, earlier in zip(_clocks(cluster), before, strict=True)]
                if number:  # the first round imports what is needed
                    found[title].append((passed[0], passed[1], passed[2]))
    for title, rounds in found.items():
        clock, own, other = (1e3 * statistics.median(values) / options.cases for values in zip(*rounds, strict=True))
        print(f"{title:13} {clock:7.3f} ms per case, of the processor {own:7.3f} here and {other:7.3f} in the worker")


def _clocks(cluster: Cluster) -> tuple[float, float, float]:
    """Seconds on the clock, and those of the processor in this process and in the worker."""
    (theirs,) = cluster._client.run(time.process_time).values()
    return time.perf_counter(), time.process_time(), theirs


if __name__ == "__main__":
    main()
