"""Print how many slices a second reach the trainer, against reading the NIfTI file for every slice, and the memory.

    python benchmarks/slice_loading.py [--shape 512 512 100] [--volumes 10 200] [--size 256] [--rounds 3]
        [--json FILE] [--page docs/speed.md]

Speed, on the smallest number of volumes, as medians of rounds: *per slice*, the baseline, decompresses image and label
for every slice; *cold* starts from the folder and ends with one pass over all slices (labels checked, slice cache made,
every slice read from it); *warm* is a pass with the cache in place. Image and label are resized in all three.

Memory is the peak resident size of a process that does what *cold* does and then a warm pass, mapped files included,
beside what it held once everything was imported. Each number of volumes has a separate process. The volumes differ in
one voxel, since the cache knows files by their bytes. They and the caches lie in a temporary folder (about 9 GB for 200
volumes), which is removed.
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from statistics import median

import nibabel as nib
import numpy as np
import torch
from timing import markdown_table, show, write_results

from medsam_adapt.config import Knobs
from medsam_adapt.data.phantom.phantom import make_phantom
from medsam_adapt.data.slices.geometry import SlicePlan, as_tensor, volume_to_slices
from medsam_adapt.data.slices.sampling import slice_loader
from medsam_adapt.data.slices.training_data import TrainingData
from medsam_adapt.data.volumes.io import read_label, read_volume, to_ras

BATCH = 4
SINGLE_SLICES = 6  # a round, enough to time, for a volume is decompressed for each
FIRST_BYTES = 1 << 16  # of a file, which hold the voxel that differs


def write_volumes(folder: Path, count: int, shape: tuple[int, int, int]) -> None:
    """One phantom, ``count`` times, but for its first voxel; what the files share is compressed once."""
    phantom = make_phantom(0, shape=shape, orientation="RAS")
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    nib.save(nib.Nifti1Image(phantom.label, phantom.affine), folder / "label.nii.gz")
    label = (folder / "label.nii.gz").read_bytes()
    (folder / "label.nii.gz").unlink()
    content = bytearray(nib.Nifti1Image(phantom.image, phantom.affine).to_bytes())
    begin = len(content) - phantom.image.nbytes
    end = zlib.compressobj(level=1, wbits=-15)
    shared = end.compress(content[FIRST_BYTES:]) + end.flush()
    for index in range(count):
        content[begin : begin + 2] = struct.pack("<h", -1024 + index)
        (folder / f"images/v{index:03}.nii.gz").write_bytes(as_gzip(content, shared))
        (folder / f"labels/v{index:03}.nii.gz").write_bytes(label)


def as_gzip(content: bytearray, shared: bytes) -> bytes:
    """One gzip stream of ``content``, whose bytes from `FIRST_BYTES` on ``shared`` holds compressed."""
    packer = zlib.compressobj(level=1, wbits=-15)
    first = packer.compress(content[:FIRST_BYTES]) + packer.flush(zlib.Z_FULL_FLUSH)
    ends = struct.pack("<LL", zlib.crc32(content), len(content) % 2**32)
    return b"\x1f\x8b\x08" + bytes(6) + b"\xff" + first + shared + ends


def resident(field: str) -> float:
    """MiB that this process holds now (VmRSS), or has held at most (VmHWM); Linux."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith(field))


def one_pass(folder: Path, cache: Path, size: int) -> tuple[TrainingData, float]:
    """All slices of a folder, delivered once; and how many of them a second."""
    started = time.perf_counter()
    knobs = Knobs(image_size=size, held_out=0.0, empty_share=1.0, augment="none", cache_dir=str(cache))
    data = TrainingData(folder, knobs)
    return data, delivered(data) / (time.perf_counter() - started)


def delivered(data: TrainingData) -> int:
    """Number of slices in one pass."""
    return sum(len(batch["image"]) for batch in slice_loader(data.dataset(), BATCH))


def one_by_one(data: TrainingData, size: int, first: int) -> float:
    """Slices a second where the NIfTI file is read for every slice, with the same preprocessing of that slice."""
    started = time.perf_counter()
    for index in range(first, first + SINGLE_SLICES):
        case = data.cases.cases[index % len(data.cases.cases)]
        assert case.label is not None
        (image, header), (label, _) = read_volume(case.image), read_label(case.label)
        (image, affine), (label, _) = to_ras(image, header.affine), to_ras(label, header.affine)
        plan = SlicePlan.of(image.shape, tuple(np.linalg.norm(affine[:3, :3], axis=0)), "axial", size)
        at = slice(index, index + 1)
        plan.resize_image(as_tensor(data.policy.apply(volume_to_slices(image, "axial")[at])))
        plan.resize_label(as_tensor(volume_to_slices(label, "axial")[at], torch.uint8))
    return SINGLE_SLICES / (time.perf_counter() - started)


def measure_speed(folder: Path, size: int, rounds: int) -> dict[str, list[float]]:
    """Slices a second of each kind in every round."""
    torch.set_num_threads(1)
    speeds: dict[str, list[float]] = {"per slice": [], "cold": [], "warm": []}
    for number in range(rounds):
        with tempfile.TemporaryDirectory(dir=folder.parent) as cache:
            data, cold = one_pass(folder, Path(cache), size)
            started = time.perf_counter()
            speeds["warm"].append(delivered(data) / (time.perf_counter() - started))
        speeds["cold"].append(cold)
        speeds["per slice"].append(one_by_one(data, size, number * SINGLE_SLICES))
    return speeds


def measure_memory(folder: Path, size: int) -> dict[str, float]:
    """Slices, and MiB before and at most."""
    torch.set_num_threads(1)
    before = resident("VmRSS")
    with tempfile.TemporaryDirectory(dir=folder.parent) as cache:
        data, _ = one_pass(folder, Path(cache), size)
        slices = delivered(data)
    return {"slices": slices, "before": before, "peak": resident("VmHWM")}


def in_a_process(kind: str, folder: Path, options: argparse.Namespace) -> dict:
    """What ``measure_speed`` or ``measure_memory`` returns, run in a separate process."""
    command = [sys.executable, __file__, "--measure", kind, str(folder), "--size", str(options.size)]
    command += ["--rounds", str(options.rounds)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def subset(source: Path, folder: Path, count: int) -> Path:
    """A data set of the first ``count`` volumes, which are linked to."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
        for path in sorted((source / part).iterdir())[:count]:
            (folder / part / path.name).hardlink_to(path)
    return folder


def main() -> None:
    """Make volumes, measure, and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 100), help="voxels of a volume")
    parser.add_argument("--volumes", type=int, nargs="+", default=(10, 200), help="numbers of volumes to measure")
    parser.add_argument("--size", type=int, default=256, help="side of a slice in pixels")
    parser.add_argument("--rounds", type=int, default=3, help="of the speeds")
    parser.add_argument("--json", type=Path, help="file of the figures")
    parser.add_argument("--page", type=Path, help="Markdown page between whose comments the tables go")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        kind, folder = options.measure[0], Path(options.measure[1])
        speed = kind == "speed"
        found = measure_speed(folder, options.size, options.rounds) if speed else measure_memory(folder, options.size)
        print(json.dumps(found))
        return
    counts = sorted(options.volumes)
    print(f"volumes of {' × '.join(map(str, options.shape))} voxels, slices of {options.size} pixels, one thread\n")
    with tempfile.TemporaryDirectory() as scratch:
        write_volumes(Path(scratch, "all"), counts[-1], tuple(options.shape))
        folders = {count: subset(Path(scratch, "all"), Path(scratch, str(count)), count) for count in counts}
        speeds = in_a_process("speed", folders[counts[0]], options)
        show(f"{speed_table(speeds)}\n", "loading", options.page)
        memory = {count: in_a_process("memory", folders[count], options) for count in counts}
        show(memory_table(memory), "loading memory", options.page)
    write_results(options.json, {"slices_per_second": speeds, "memory_mib": memory})


def speed_table(speeds: dict[str, list[float]]) -> str:
    """Slices a second of each kind: median, all rounds, and against the baseline."""
    base = median(speeds["per slice"])
    rows = [
        [name, f"{median(found):.1f}", ", ".join(f"{speed:.1f}" for speed in found), f"{median(found) / base:.0f} ×"]
        for name, found in speeds.items()
    ]
    return markdown_table(["slices a second", "median", "rounds", "against per slice"], rows)


def memory_table(memory: dict[int, dict[str, float]]) -> str:
    """MiB of a process by number of volumes."""
    fewest = next(iter(memory.values()))["peak"]
    rows = [
        [count, *(f"{found[each]:.0f}" for each in ("slices", "before", "peak")), f"{found['peak'] / fewest:.3f} ×"]
        for count, found in memory.items()
    ]
    return markdown_table(["volumes", "slices", "before, MiB", "peak, MiB", "against the fewest"], rows)


if __name__ == "__main__":
    main()
