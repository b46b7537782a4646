"""Peak memory of segmenting one large volume, beyond the network and what one batch takes.

    python benchmarks/predict_memory.py [--shape 512 512 1000] [--classes 13] [--variant vit_b] [--size 256]
        [--real-slices 16] [--flips] [--probabilities] [--json FILE]

All logits together would take classes + 1 volumes in float32; the figure shows that they are never held at once. The
network has random weights, since memory does not depend on how well it segments. Its first batches, ``--real-slices``
slices, run in full, so that what they take is in the peak; behind them a stub returns the logits of the last batch, and
all else (windowing, resizing, decision, assembly) runs as it is, over the whole volume. ``--real-slices`` of the
volume's length stubs nothing. The peak holds the volume itself too. Probabilities lie in a temporary file; what of it
the system keeps in memory is counted too. Measured in a separate process (Linux).
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import extra_memory, write_results
from torch import Tensor

from medsam_adapt.data.slices.intensity import IntensityPolicy
from medsam_adapt.inference.predictor import Predictor
from medsam_adapt.networks import DecoderOnly, Segmenter, build_segmenter
from medsam_adapt.runs.record import RunRecord


def predictor(classes: int, batch_size: int, variant: str, size: int) -> Predictor:
    """A random network with a record of how it slices."""
    record = RunRecord.model_construct(
        axis="axial",
        channels="repeat",
        prompt="none",
        overlapping=False,
        class_names=[f"class {i}" for i in range(1, classes + 1)],
        label_ids=list(range(1, classes + 1)),
        absent=[],
        policy=IntensityPolicy(kind="window", low=-160, high=240, modality="CT"),
    )
    return Predictor(record, build_segmenter(variant, size, classes, DecoderOnly(), checkpoint="random"), batch_size)


def stub_network(segmenter: Segmenter, slices: int) -> None:
    """Behind the first ``slices`` slices, the logits of the last full batch stand for all that follow."""
    forward, seen, last = segmenter.forward, 0, torch.empty(0)

    def forward_at_first(image: Tensor, *given: Any) -> Tensor:
        nonlocal seen, last
        if seen < slices or len(image) > len(last):
            seen, last = seen + len(image), forward(image, *given)
            return last
        return last[: len(image)].clone()

    segmenter.forward = forward_at_first


def prediction(given: argparse.Namespace) -> Callable[[], Any]:
    """The work to measure: a volume made and segmented; the network is there before."""
    model = predictor(given.classes, given.batch_size, given.variant, given.size)
    stub_network(model.segmenter, given.real_slices)

    def work() -> Any:
        noise = np.random.default_rng(0).normal(0, 100, given.shape[:2]).astype(np.float32)
        volume = np.empty(given.shape, np.float32, order="F")
        volume[:] = noise[:, :, None]
        with tempfile.TemporaryDirectory() as folder:
            maps_in = Path(folder) if given.probabilities else None
            return model.segment(volume, np.diag([0.8, 0.8, 1.0, 1.0]), flips=given.flips, maps_in=maps_in)

    return work


def main() -> None:
    """Print the peak."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 1000))
    parser.add_argument("--classes", type=int, default=13)
    parser.add_argument("--variant", default="vit_b", help="the network")
    parser.add_argument("--size", type=int, default=256, help="side of its input")
    parser.add_argument("--real-slices", type=int, default=16, help="slices that the network runs on, before a stub")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--flips", action="store_true")
    parser.add_argument("--probabilities", action="store_true")
    parser.add_argument("--json", type=Path, help="file of the figures")
    given = parser.parse_args()
    started = time.perf_counter()
    beyond = extra_memory(prediction, given)
    found = {"volume": 4 * math.prod(given.shape), "beyond": beyond, "seconds": time.perf_counter() - started}
    size = " x ".join(map(str, given.shape))
    run = min(given.real_slices, given.shape[2])
    print(f"{size} voxels ({found['volume'] / 1e9:.2f} GB in float32), {given.classes} classes, {given.variant} at")
    print(f"{given.size} pixels, {run} of {given.shape[2]} slices run, a stub for the others: {found['seconds']:.0f} s")
    print(f"peak beyond the process with its network: {beyond / 1e9:.2f} GB, the volume among it;")
    print(f"all logits at once would be {(given.classes + 1) * found['volume'] / 1e9:.1f} GB more")
    write_results(given.json, found)


if __name__ == "__main__":
    main()
