"""The scripts of docs/scaling.md run, with stand-ins for the cluster's own programs."""

import json
import os
import runpy
import shutil
import subprocess
import sys

import pytest

from tests.doc_blocks import REPOSITORY, blocks
from tests.warm import commands_by_forking, spawn_by_forking

PAGE = REPOSITORY / "docs" / "scaling.md"
SRUN = """#!/bin/bash
for rank in 0 1; do SLURM_PROCID=$rank SLURM_LOCALID=$rank SLURM_NTASKS=2 "$@" || exit 1; done
"""
TORCHRUN = """#!/bin/bash
[[ "$1 $2 $3" == "-u -m medsam_adapt.cli" ]] && exec medsam-adapt "${@:4}"
"""
QUEUE = """from distributed import LocalCluster


class SLURMCluster(LocalCluster):
    def __init__(self, cores, processes, memory, walltime, job_extra_directives):
        super().__init__(n_workers=processes, threads_per_worker=cores, host="127.0.0.1", dashboard_address=None)

    def adapt(self, minimum, maximum):
        pass
"""


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    """A folder with a run and scans, and the programs that the scripts call."""
    shutil.copytree(made / "run", tmp_path / "runs" / "liver")
    (tmp_path / "scans").mkdir()
    for number in (0, 1):
        shutil.copy(made / "scans" / f"case_{number}.nii.gz", tmp_path / "scans")
    programs = {
        "torchrun": f'#!/bin/bash\nexec {sys.executable} -m torch.distributed.run "$@"\n',
        "srun": SRUN,
        "python-of-torchrun": TORCHRUN,
    }
    (tmp_path / "bin").mkdir()
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


@pytest.fixture
def commands(place):
    """``medsam-adapt`` for the scripts."""
    with commands_by_forking(place / "bin" / "medsam-adapt"):
        yield


def script(mark):
    """The one script of the page that has ``mark`` in it."""
    (found,) = [block.text for block in blocks(PAGE) if mark in block.text]
    return found


def run(place, command, **variables):
    done = subprocess.run(
        command, cwd=place, env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def check(place):
    """All scans are segmented, and one report has them."""
    report = json.loads((place / "masks" / "report.json").read_text())
    assert list(report["cases"]) == ["case_0", "case_1"]
    assert sorted(path.name for path in (place / "masks").glob("*.nii.gz")) == [
        "case_0_seg.nii.gz",
        "case_1_seg.nii.gz",
    ]


@pytest.mark.usefixtures("commands")
def test_the_job_array(place):
    text = script("#SBATCH --array=0-7").replace("--skip-existing", "--skip-existing --device cpu")
    for number in ("0", "1"):
        run(place, ["bash", "-c", text], SLURM_ARRAY_TASK_ID=number, SLURM_ARRAY_TASK_COUNT="2")
    check(place)


@pytest.mark.usefixtures("commands")
def test_srun(place):
    run(place, ["bash", "-c", script("srun medsam-adapt").replace("--skip-existing", "--skip-existing --device cpu")])
    check(place)


@pytest.mark.usefixtures("commands")
def test_torchrun(place):
    """The launcher is a separate process; what it starts is forked."""
    text = script("torchrun --standalone").replace("--nproc_per_node=4", "--nproc_per_node=2")
    run(place, ["bash", "-c", text], PYTHON_EXEC=str(place / "bin" / "python-of-torchrun"))
    check(place)


def test_dask_on_slurm(place, monkeypatch):
    pytest.importorskip("distributed")
    spawn_by_forking(monkeypatch)
    (place / "dask_jobqueue.py").write_text(QUEUE)
    (place / "segment.py").write_text(script("SLURMCluster"))
    monkeypatch.syspath_prepend(place)
    monkeypatch.delitem(sys.modules, "dask_jobqueue", raising=False)
    monkeypatch.chdir(place)
    runpy.run_path(str(place / "segment.py"), run_name="__main__")
    check(place)
