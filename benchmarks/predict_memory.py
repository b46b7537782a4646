"""Peak memory of segmenting one large volume, as a multiple of the volume itself.

    python benchmarks/predict_memory.py [--shape 512 512 1000] [--classes 13] [--flips] [--probabilities]

The baseline is the volume in float32 (1.0). All logits together would be classes + 1 times as much; the figure shows
that they are never held at once. A random vit_nano at 64 pixels does the work, since memory does not depend on how well
it segments; what the network and one batch of slices take is measured first and subtracted. The probabilities lie in a
temporary file; what of it the system keeps in memory is counted too.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from medsam_adapt.data.intensity import IntensityPolicy
from medsam_adapt.networks import DecoderOnly, build_segmenter
from medsam_adapt.prediction.predictor import Predictor
from medsam_adapt.runs import RunRecord


def predictor(classes: int, batch_size: int) -> Predictor:
    """A random network with a record that says how it slices."""
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
    return Predictor(record, build_segmenter("vit_nano", 64, classes, DecoderOnly(), checkpoint="random"), batch_size)


def peak_bytes() -> int:
    """Largest resident size of this process so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Print the peak."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 1000))
    parser.add_argument("--classes", type=int, default=13)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--flips", action="store_true")
    parser.add_argument("--probabilities", action="store_true")
    given = parser.parse_args()
    model = predictor(given.classes, given.batch_size)
    one_batch = np.zeros((*given.shape[:2], given.batch_size), np.float32)
    model(one_batch, np.eye(4), flips=given.flips)  # the network, and what one batch of slices takes
    fixed = peak_bytes()
    volume = np.random.default_rng(0).normal(0, 100, given.shape[:2]).astype(np.float32)
    volume = np.repeat(volume[:, :, None], given.shape[2], axis=2)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        maps_in = Path(folder) if given.probabilities else None
        model.segment(volume, np.diag([0.8, 0.8, 1.0, 1.0]), flips=given.flips, maps_in=maps_in)
    seconds = time.perf_counter() - started
    share = (peak_bytes() - fixed) / volume.nbytes
    size = " x ".join(map(str, given.shape))
    print(f"{size} voxels, {given.classes} classes: {volume.nbytes / 2**30:.2f} GiB a volume")
    print(f"peak beyond the network and one batch: {share:.2f} volumes (the input among them), {seconds:.0f} s")
    print(f"all logits at once would be {given.classes + 1} volumes more")


if __name__ == "__main__":
    main()
