"""Print the seconds per scan from file to file: this build, an older one, and nnU-Net's predictor, side by side.

    python benchmarks/end_to_end.py [--networks vit_nano:128:2:3 lite_medsam:256:1:1] [--threads 2] [--nnunet PYTHON]
        [--old 4adda51] [--shape 512 512 100] [--two-processes lite_medsam:256:4:25] [--folder FOLDER]

``--networks`` gives backbone, side of the input, scans and rounds. Synthetic scans (`make_phantom`) as .nii.gz are
segmented into 13 classes and written as .nii.gz. Each build and each network is a process that has loaded everything
and segmented 8 slices before; one at a time works, in turn in every round. The older build is that of a commit of this
repository, with the same random weights; networks that it does not know are left out. "In turn" is this build without
overlap: each scan is read, segmented and written before the next one.

``--nnunet`` names a Python that has nnunetv2 2.8.1, whose 2d network has nearly as many operations for a slice
(`end_to_end_nnunet.py`). nnU-Net's predictor is called one scan after another, without its pools of processes. With
them it reads and writes while it computes, so beside the clock stands the least that they can reach: the processor's
seconds divided by the threads.

Then masks: those of both builds with the network's own noise, on 8 slices, are compared voxel by voxel.

Last, two processes against one, each with one thread: `predict` of all scans, and the same by --part 1/2 and --part 2/2
at the same time, from start to end, by a run with random weights; ``--two-processes`` gives backbone, side, scans, and
slices of each.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from medsam_adapt.data.phantom.phantom import make_phantom
from tests.made_runs import make_run

HERE = Path(__file__).resolve().parent
OURS, IN_TURN, NNUNET = "this build", "in turn", "nnU-Net"
NNUNET_FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")  # which it wants to know, and does not need
SPACING = (0.75, 0.75, 5.0)  # mm


def make_scans(folder: Path, count: int, shape: tuple[int, ...]) -> Path:
    """Phantoms in files, those that are there already left as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        path = folder / f"scan_{index}.nii.gz"
        if not path.is_file():
            phantom = make_phantom(index, shape=shape, spacing=SPACING, orientation="RAS")
            nib.save(nib.Nifti1Image(phantom.image, phantom.affine), folder.parent / "new.nii.gz")
            (folder.parent / "new.nii.gz").rename(path)
    return folder


class Worker:
    """A process that segments folders.

    Args:
        command: that starts it.
        tree: of another build of this package; None for the one that is installed.
        log: file of what it prints beside its answers.
    """

    def __init__(self, command: list[str], tree: Path | None, log: Path) -> None:
        paths = [str(tree)] if tree is not None else []
        environment = {**os.environ, **dict.fromkeys(NNUNET_FOLDERS, str(log.parent)), "PYTHONPATH": ":".join(paths)}
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        self.log = log
        self.facts = self.answer()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        if not (line := self.process.stdout.readline()):
            raise SystemExit(f"{self.log}: the process ended.\n{self.log.read_text()[-2000:]}")
        return json.loads(line)

    def __call__(self, scans: Path, masks: Path, discs: bool = True, overlap: bool = True) -> dict[str, float]:
        """Segment all scans of a folder; the seconds, and those of the processor."""
        order = {"scans": str(scans), "masks": str(masks), "discs": discs, "overlap": overlap}
        assert self.process.stdin is not None
        shutil.rmtree(masks, ignore_errors=True)
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


def old_tree(folder: Path, commit: str) -> Path:
    """The package as it was at a commit."""
    tree = folder / f"tree-{commit}"
    if not tree.is_dir():
        tree.mkdir(parents=True)
        archive = subprocess.run(
            ["git", "archive", commit, "medsam_adapt"], cwd=HERE.parent, check=True, capture_output=True
        ).stdout
        subprocess.run(["tar", "-x", "-C", tree], input=archive, check=True)
    return tree


def start_workers(folder: Path, network: str, size: int, options: argparse.Namespace) -> dict[str, Worker]:
    """One process for each of those that are compared."""
    script, weights = HERE / "end_to_end_worker.py", folder / f"{network}-{size}.pt"
    command = [sys.executable, str(script), network, str(size), str(options.threads), str(weights)]
    workers = {OURS: Worker(command, HERE.parent, folder / "ours.log")}
    if options.old:
        tree = old_tree(folder, options.old)
        known = subprocess.run(["grep", "-rq", f'"{network}"', tree], check=False).returncode == 0
        if known:
            workers[options.old] = Worker(command, tree, folder / "old.log")
        else:
            print(f"{options.old} has no {network}.")
    if options.nnunet:
        count = workers[OURS].facts["operations"]
        command = [str(options.nnunet), str(HERE / "end_to_end_nnunet.py"), str(count), str(options.threads)]
        workers[NNUNET] = Worker(command, None, folder / "nnunet.log")
        facts = workers[NNUNET].facts
        print(
            f"{network} at {size}: {count / 1e9:.2f} GFLOP per slice; {NNUNET}: {facts['operations'] / 1e9:.2f}, "
            f"features {facts['features']}"
        )
    return workers


def compare(
    folder: Path, network: str, size: int, count: int, number_of_rounds: int, options: argparse.Namespace
) -> None:
    """Print the seconds per scan of each, and how many voxels differ between the two builds."""
    shape = options.shape
    scans, small = make_scans(folder / f"scans-{count}", count, shape), make_scans(folder / "small", 1, (*shape[:2], 8))
    workers = start_workers(folder, network, size, options)
    for name, worker in workers.items():
        worker(small, folder / "masks" / name)
    turns = [(name, worker, True) for name, worker in workers.items()]
    if count > 1:
        turns.append((IN_TURN, workers[OURS], False))
    found: dict[str, list[tuple[float, float]]] = {name: [] for name, *_ in turns}
    for _ in range(number_of_rounds):
        for name, worker, overlap in turns:
            passed = worker(scans, folder / "masks" / name, overlap=overlap)
            found[name].append((passed["seconds"] / count, passed["processor"] / count))
    own = [statistics.median(values) for values in zip(*found[OURS], strict=True)]
    for name, rounds in found.items():
        clock, work = (statistics.median(values) for values in zip(*rounds, strict=True))
        least = work / options.threads
        print(
            f"{network} at {size}, {name:10}: {clock:6.2f} s per scan ({clock / own[0]:.2f} x); of the processor "
            f"{work:6.2f} s ({work / own[1]:.2f} x), divided by the threads {least:6.2f} s ({least / own[0]:.2f} x)",
            flush=True,
        )
    if options.old in workers:
        noise = []
        for name in (OURS, options.old):
            workers[name](small, folder / "noise" / name, discs=False)
            (path,) = (folder / "noise" / name).glob("*.nii.gz")
            noise.append(np.asarray(nib.load(path).dataobj))
        differing = int((noise[0] != noise[1]).sum())
        classes = len(np.unique(noise[0]))
        print(f"{network} at {size}: {differing} of {noise[0].size} voxels differ ({classes} labels drawn)", flush=True)
    for worker in workers.values():
        worker.close()


def two_processes(folder: Path, network: str, size: int, count: int, slices: int, shape: list[int]) -> None:
    """Print the time of two processes over that of one."""
    scans = make_scans(folder / f"scans-{count}-{slices}", count, (*shape[:2], slices))
    run = folder / f"run-{network}"
    if not run.is_dir():
        make_run(run, backbone=network, image_size=size)
    predict = [sys.executable, "-m", "medsam_adapt.cli", "predict", str(run), "-i", str(scans), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    seconds = []
    for parts in (["1/1"], ["1/2", "2/2"]):
        masks = folder / f"masks-{len(parts)}"
        shutil.rmtree(masks, ignore_errors=True)
        began = time.perf_counter()
        started = [
            subprocess.Popen([*predict, "-o", str(masks), "--part", part], env=environment, stdout=subprocess.DEVNULL)
            for part in parts
        ]
        if any(each.wait() for each in started):
            raise SystemExit("predict failed.")
        seconds.append(time.perf_counter() - began)
    print(
        f"{network} at {size}, one thread each: one process {seconds[0]:.1f} s, two {seconds[1]:.1f} s, "
        f"{seconds[1] / seconds[0]:.2f} x",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    networks = ["vit_nano:128:2:3", "lite_medsam:256:1:1"]
    parser.add_argument("--networks", nargs="*", default=networks, metavar="NETWORK:SIZE:SCANS:ROUNDS")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each process")
    parser.add_argument("--shape", type=int, nargs=3, default=[512, 512, 100], help="voxels of a scan")
    parser.add_argument("--nnunet", type=Path, help="a Python that has nnunetv2")
    parser.add_argument("--old", default="4adda51", help="commit of the older build; empty for none")
    parser.add_argument("--two-processes", default="lite_medsam:256:4:25", metavar="NETWORK:SIZE:SCANS:SLICES")
    parser.add_argument("--folder", type=Path, help="of scans, masks and logs, to be kept; temporary without it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = (options.folder or Path(name)).absolute()
        for each in options.networks:
            network, *numbers = each.split(":")
            compare(folder, network, *map(int, numbers), options)
        if options.two_processes:
            network, *numbers = options.two_processes.split(":")
            two_processes(folder, network, *map(int, numbers), options.shape)


if __name__ == "__main__":
    main()
