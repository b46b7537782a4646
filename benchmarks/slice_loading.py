"""Print how many slices a second reach the trainer, against reading the NIfTI file for every slice, and the memory.

    python benchmarks/slice_loading.py [--shape 512 512 100] [--volumes 10 200] [--size 256] [--epochs 2]

Three figures for each number of volumes: *cold* makes the slice cache and delivers one pass, *warm* delivers the
passes that follow, *per slice* decompresses a volume for every slice. Memory is the peak of what the process holds
for itself (anonymous memory, without the pages of the mapped cache, which the system takes back when it needs them),
less what it held before; each number of volumes is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from medsam_adapt.data.geometry import SlicePlan, as_tensor, volume_to_slices
from medsam_adapt.data.io import read_label, read_volume, to_ras
from medsam_adapt.data.phantom import make_phantom
from medsam_adapt.data.sampling import slice_loader
from medsam_adapt.data.training import TrainingData

BATCH = 4
SINGLE_SLICES = 12  # enough to time, for a volume is decompressed for each


def write_volumes(folder: Path, count: int, shape: tuple[int, int, int]) -> None:
    """Volumes that differ in one voxel, since the cache knows files by their bytes."""
    phantom = make_phantom(0, shape=shape, orientation="RAS")
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for index in range(count):
        image = phantom.image.copy()
        image[0, 0, 0] = -1024 + index
        for part, array in (("images", image), ("labels", phantom.label)):
            nib.save(nib.Nifti1Image(array, phantom.affine), folder / part / f"v{index:03}.nii.gz")


def own_memory() -> float:
    """MiB of anonymous memory that this process holds now (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("RssAnon"))


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """MiB beyond what the process held before, as the one item of a list when the block ends."""
    before, peak, done = own_memory(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            peak[0] = max(peak[0], own_memory() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()


def measure(folder: Path, cache: Path, size: int, epochs: int) -> dict[str, float]:
    """The figures of one data set; slices a second and MiB."""
    torch.set_num_threads(1)
    data = TrainingData(folder, image_size=size, held_out=0.0, empty_share=1.0, augment="none", cache_dir=cache)
    with peak_memory() as peak:
        started = time.perf_counter()
        loader = slice_loader(data.dataset(), BATCH)
        delivered = sum(len(batch["image"]) for batch in loader)
        cold = delivered / (time.perf_counter() - started)
        started = time.perf_counter()
        warm_slices = sum(len(batch["image"]) for _ in range(epochs) for batch in loader)
        warm = warm_slices / (time.perf_counter() - started)
    return {"slices": delivered, "cold": cold, "warm": warm, "per slice": one_by_one(data, size), "MiB": peak[0]}


def one_by_one(data: TrainingData, size: int) -> float:
    """Slices a second where the NIfTI file is read for every slice, with the same preprocessing of that slice."""
    started = time.perf_counter()
    for index in range(SINGLE_SLICES):
        case = data.cases.cases[index % len(data.cases.cases)]
        assert case.label is not None
        (image, header), (label, _) = read_volume(case.image), read_label(case.label)
        (image, affine), (label, _) = to_ras(image, header.affine), to_ras(label, header.affine)
        plan = SlicePlan.of(image.shape, tuple(np.linalg.norm(affine[:3, :3], axis=0)), "axial", size)
        at = slice(index, index + 1)
        plan.resize_image(as_tensor(data.policy.apply(volume_to_slices(image, "axial")[at])))
        plan.resize_label(as_tensor(volume_to_slices(label, "axial")[at], torch.uint8))
    return SINGLE_SLICES / (time.perf_counter() - started)


def main() -> None:
    """Make volumes, measure each number of them in a process of its own, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(128, 128, 40), help="voxels of a volume")
    parser.add_argument("--volumes", type=int, nargs="+", default=(10, 200), help="numbers of volumes to measure")
    parser.add_argument("--size", type=int, default=128, help="side of a slice in pixels")
    parser.add_argument("--epochs", type=int, default=1, help="warm passes")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        figures = measure(options.measure / "data", options.measure / "cache", options.size, options.epochs)
        print(json.dumps(figures))
        return
    print(f"volumes of {' × '.join(map(str, options.shape))} voxels, slices of {options.size} pixels, one thread\n")
    print("| volumes | slices | cold, slices/s | warm, slices/s | per slice, slices/s | warm : per slice | peak MiB |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for count in options.volumes:
        with tempfile.TemporaryDirectory() as folder:
            write_volumes(Path(folder) / "data", count, tuple(options.shape))
            command = [sys.executable, __file__, "--measure", folder, "--size", str(options.size)]
            command += ["--epochs", str(options.epochs)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        speeds = [found[name] for name in ("cold", "warm", "per slice", "MiB")]
        cold, warm, single, memory = speeds
        print(
            f"| {count} | {found['slices']:.0f} | {cold:.0f} | {warm:.0f} | {single:.1f} | {warm / single:.0f} | "
            f"{memory:.0f} |"
        )


if __name__ == "__main__":
    main()
