"""Print what a folder of very many scans costs `predict` beside the network.

    python benchmarks/many_cases.py [--cases 10000]

Makes as many tiny NIfTI volumes in a temporary folder and prints, for each step, seconds (on the clock, and of the
processor, which other work on the machine does not lengthen), and how far the memory of the process grew: the plan
without the headers (finding the volumes, what is in the output folder), the plan with them, the plan with
--skip-existing where all masks exist, and the report (its bytes over those of the records of all cases).
No network runs.
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import nibabel as nib
import numpy as np

from medsam_adapt.prediction import plan
from medsam_adapt.prediction.json_report import JsonReport, lines_of
from medsam_adapt.prediction.plan import Outputs, plan_cases

SHAPE = (4, 4, 2)


def make_scans(folder: Path, count: int) -> None:
    """``count`` copies of one volume, which `predict` reads as any other."""
    folder.mkdir()
    volume = nib.Nifti1Image(np.arange(32, dtype=np.int16).reshape(SHAPE), np.diag([-2, 2, 5, 1]))
    content = gzip.compress(volume.to_bytes(), mtime=0)
    for number in range(count):
        (folder / f"case_{number:06d}.nii.gz").write_bytes(content)


def measured(title: str, action: Callable[[], Any]) -> Any:
    """What an action returns; prints seconds, and the MiB by which the highest memory of the process rose."""
    before, started, worked = _memory(), time.perf_counter(), time.process_time()
    result = action()
    passed, work = time.perf_counter() - started, time.process_time() - worked
    print(f"{title:40} {passed:7.2f} s, of the processor {work:6.2f} s, {_memory() - before:6.1f} MiB more")
    return result


def _memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write_report(path: Path, count: int) -> tuple[int, int]:
    """Bytes written for a report of ``count`` cases, and those of the cases' records in it."""
    entry = {
        "seconds": 1.25,
        "volumes_ml": {"liver": 1512.5, "spleen": 201.25, "left kidney": 160.0},
        "flags": [],
        "files": {"segmentation": "masks/case_000000_seg.nii.gz"},
    }
    record = mock.Mock(bundle="blosam", class_names=["liver"], label_ids=[1])
    with JsonReport(path, {"run": record}, "cpu", {}, {}) as report:
        written = path.stat().st_size
        for number in range(count):
            report.add(f"case_{number:06d}", entry, Path(f"case_{number:06d}.nii.gz"))
        written += lines_of(path).stat().st_size
    written += path.stat().st_size
    return written, len(json.dumps(json.loads(path.read_text())["cases"], indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000, help="number of volumes")
    count = parser.parse_args().cases
    with tempfile.TemporaryDirectory() as name:
        scans, masks = Path(name, "scans"), Path(name, "masks")
        measured(f"making {count:,} volumes", lambda: make_scans(scans, count))
        plan_cases(scans / "case_000000.nii.gz", masks, Outputs())  # what the first plan of a process imports
        header = plan.read_header(scans / "case_000000.nii.gz")
        with mock.patch.object(plan, "read_header", return_value=header):
            measured("plan without reading headers", lambda: plan_cases(scans, masks, Outputs()))
        planned = measured("plan", lambda: plan_cases(scans, masks, Outputs()))
        assert len(planned.cases) == count
        masks.mkdir()
        for case in planned.cases:
            case.outputs["segmentation"].write_bytes(b"mask")
        done = measured(
            "plan with --skip-existing, all there", lambda: plan_cases(scans, masks, Outputs(), False, True)
        )
        assert len(done.skipped) == count
        written, records = measured("report", lambda: write_report(Path(name, "report.json"), count))
        print(f"report: {written:,} bytes written, {written / records:.2f} times those of the cases' records")


if __name__ == "__main__":
    main()
