"""Print what prediction costs outside the network and end to end, against SAMed's way of doing the same.

    python benchmarks/predict_speed.py [--sizes 512 256] [--volumes vit_b:1024 vit_b:512] [--device cuda] [--quick]
        [--json FILE] [--page docs/speed.md]

SAMed's way, written here from what its released test script does: a Python loop over the slices; each is enlarged or
reduced to the network's size by cubic splines (scipy), repeated to three channels, sent through the network alone, its
logits go through softmax and argmax, and the labels are brought back to the slice's size by nearest neighbour (scipy).
Outside the network: a stub stands for it, which returns the same logits at no cost. "One by one" is the arithmetic of
this package, a slice at a time, written out plainly; masks are compared with it voxel by voxel. End to end: volumes
read from NIfTI files, segmented by a random vit_nano, and written. What the random network draws is noise all over the
volume, which no trained one draws: it does its work, and then each class is a separate disc, the same on every slice.
Volumes: voxels in memory to label ids in memory, 100 slices through a real network with random weights, SAMed's way
with segment-anything's own encoder; on a GPU, where they are measured unless --volumes names others, this package in
bfloat16, as `predict` runs there.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import zoom
from timing import add_options, interleaved_medians, markdown_table, show, start, write_results
from torch import Tensor, nn

from medsam_adapt.core.precision import run_as
from medsam_adapt.data.phantom.phantom import make_phantom
from medsam_adapt.data.slices.geometry import SlicePlan, as_tensor, volume_to_slices
from medsam_adapt.data.slices.intensity import IntensityPolicy
from medsam_adapt.data.slices.padding import pad_image
from medsam_adapt.data.slices.slicing_spec import SlicingSpec
from medsam_adapt.inference.predictor import Predictor
from medsam_adapt.inference.slice_logits import SliceLogits
from medsam_adapt.networks import DecoderOnly, Segmenter, build_segmenter
from medsam_adapt.networks.sam import plain_encoder
from medsam_adapt.prediction.case_runner import CaseRunner
from medsam_adapt.prediction.plan import Outputs, plan_cases
from medsam_adapt.runs.record import RunRecord
from medsam_adapt.weights.backbones import get_variant

CLASSES = 13
WINDOW = IntensityPolicy(kind="window", low=-160, high=240, modality="CT")
SLICING = SlicingSpec(class_names=["structure"], label_ids=[1], policy=WINDOW)
BATCH = 8
BASELINE = "SAMed's way"
VOLUMES = ["vit_b:1024", "vit_b:512"]


class Stub(nn.Module):
    """Stands for a segmenter: logits (n, CLASSES + 1, S, S) with smooth borders, whatever the images."""

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.image_size, self.head = image_size, "exclusive"
        self.sam = nn.Module()
        self.sam.register_buffer("pixel_mean", torch.zeros(1))
        coarse = torch.randn(BATCH, CLASSES + 1, 12, 12)
        self.register_buffer("logits", F.interpolate(coarse, (image_size, image_size), mode="bicubic"))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits[: len(images)]


class Discs(nn.Module):
    """A segmenter that does its work and then answers each class with a disc, the same on every slice.

    Args:
        segmenter: whose logits (n, CLASSES + 1, S, S) are replaced.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.image_size, self.head, self.sam = segmenter.image_size, segmenter.head, segmenter.sam
        self.segmenter = segmenter
        place = (torch.arange(self.image_size) + 0.5) / self.image_size * 4
        centres = torch.arange(CLASSES)[:, None, None]
        distance = ((place[:, None] - centres // 4 - 0.5) ** 2 + (place - centres % 4 - 0.5) ** 2).sqrt()
        self.register_buffer("logits", torch.cat([torch.zeros_like(distance[:1]), 10 * (0.35 - distance)]))

    def forward(self, images: Tensor) -> Tensor:
        self.segmenter(images)
        return self.logits.expand(len(images), -1, -1, -1)


def in_batches(volume: np.ndarray, network: nn.Module) -> np.ndarray:
    """This package: classes (N, rows, columns)."""
    slices = SliceLogits(SLICING, volume, (1, 1, 1), network, window=WINDOW, batch_size=BATCH)
    classes = np.empty((1, *slices.shape), np.uint8)
    for indices in slices.batches():
        classes[:, indices] = slices.classes(indices).transpose(0, 1).cpu().numpy()
    return classes[0]


@torch.no_grad()
def one_by_one(volume: np.ndarray, network: nn.Module) -> np.ndarray:
    """The same arithmetic, slice by slice; the stub's logits are those of the slice's place in its batch."""
    grey = volume_to_slices(WINDOW.apply(volume), "axial")
    plan = SlicePlan.of(volume.shape, (1, 1, 1), "axial", network.image_size)
    device = network.sam.pixel_mean.device
    classes = []
    for index, one in enumerate(grey):
        image = pad_image(
            plan.resize_image(as_tensor(one[None])).expand(3, -1, -1), plan.image_size, network.input_scaling
        )
        logits = network(image.expand(index % BATCH + 1, -1, -1, -1).to(device))[-1:]
        enlarged = F.interpolate(logits, plan.native, mode="bilinear", align_corners=False)
        classes.append(enlarged.argmax(dim=1)[0].to(torch.uint8).cpu().numpy())
    return np.stack(classes)


@torch.no_grad()
def as_samed(volume: np.ndarray, network: nn.Module) -> np.ndarray:
    """SAMed's way: labels (N, rows, columns)."""
    grey = volume_to_slices(WINDOW.apply(volume), "axial")
    size, device = network.image_size, network.sam.pixel_mean.device
    labels = np.zeros(grey.shape, np.uint8)
    for index, one in enumerate(grey):
        rows, columns = one.shape
        resized = zoom(one, (size / rows, size / columns), order=3)
        image = torch.from_numpy(resized).float()[None, None].repeat(1, 3, 1, 1)
        classes = torch.argmax(torch.softmax(network(image.to(device)), dim=1), dim=1)[0].cpu().numpy()
        labels[index] = zoom(classes, (rows / size, columns / size), order=0)
    return labels


def outside(side: int, slices: int, size: int, rounds: int, device: torch.device) -> dict[str, float]:
    """Milliseconds a slice outside the network of each way, and the voxels that differ."""
    volume = np.asfortranarray(np.random.default_rng(0).uniform(-150, 230, (side, side, slices)).astype(np.float32))
    network = Stub(size).to(device)
    ways = {"this package": in_batches, "one by one": one_by_one, BASELINE: as_samed}
    seconds = interleaved_medians({name: _bound(way, volume, network) for name, way in ways.items()}, rounds, device)
    differing = int((in_batches(volume, network) != one_by_one(volume, network)).sum())
    return {**{name: 1e3 * value / slices for name, value in seconds.items()}, "differing voxels": differing}


def _bound(way: Callable, *arguments: object) -> Callable[[], object]:
    return lambda: way(*arguments)


def end_to_end(side: int, slices: int, size: int, rounds: int, device: torch.device) -> dict[str, float]:
    """Milliseconds a slice from file to file, over three volumes."""
    network = Discs(build_segmenter("vit_nano", size, CLASSES, DecoderOnly(), checkpoint="random")).eval().to(device)
    runner = CaseRunner(Predictor(_record(), network, BATCH))
    with tempfile.TemporaryDirectory() as folder:
        scans, masks = Path(folder) / "scans", Path(folder) / "masks"
        scans.mkdir()
        for number in range(3):
            phantom = make_phantom(number, shape=(side, side, slices), orientation="RAS")
            nib.save(nib.Nifti1Image(phantom.image, phantom.affine), scans / f"scan_{number}.nii.gz")
        cases = plan_cases(scans, masks, Outputs()).cases

        def samed() -> None:
            for case in cases:
                image = nib.load(case.header.path)
                labels = as_samed(np.asarray(image.dataobj, np.float32), network)
                nib.save(nib.Nifti1Image(labels, image.affine), masks / f"{case.name}_samed.nii.gz")

        works = {
            "this package": lambda: list(runner.run_all(cases)),
            "case after case": lambda: [runner.run(case) for case in cases],
            BASELINE: samed,
        }
        seconds = interleaved_medians(works, rounds, device)
    return {name: 1e3 * value / (3 * slices) for name, value in seconds.items()}


def whole_volume(network: str, side: int, slices: int, rounds: int, device: torch.device) -> dict[str, float]:
    """Milliseconds a slice from voxels to label ids, by a ``network`` such as ``vit_b:1024``."""
    backbone, size = network.split(":")
    ours, plain = (
        build_segmenter(backbone, int(size), CLASSES, DecoderOnly(), checkpoint="random").eval() for _ in range(2)
    )
    plain.sam.image_encoder = plain_encoder(get_variant(backbone), int(size)).eval()
    run_as(ours.sam.image_encoder, "auto")
    predictor = Predictor(_record(), ours.to(device))
    plain.to(device)
    volume = np.asfortranarray(np.random.default_rng(0).uniform(-150, 230, (side, side, slices)).astype(np.float32))
    works = {
        "this package": lambda: predictor(volume, np.eye(4)),
        BASELINE: lambda: as_samed(volume, plain),
    }
    seconds = interleaved_medians(works, rounds, device)
    return {name: 1e3 * value / slices for name, value in seconds.items()}


def _record() -> RunRecord:
    return RunRecord.model_construct(
        axis="axial",
        channels="repeat",
        prompt="none",
        overlapping=False,
        class_names=[f"class {i}" for i in range(1, CLASSES + 1)],
        label_ids=list(range(1, CLASSES + 1)),
        absent=[],
        policy=WINDOW,
    )


def _times(figures: dict[str, float], way: str) -> str:
    return f"{figures[BASELINE] / figures[way]:.1f} ×"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 256], help="of the network's input")
    parser.add_argument("--outside", action="store_true", help="leave out end to end")
    parser.add_argument("--volumes", nargs="*", metavar="NETWORK:SIZE", help="vit_b:1024 and vit_b:512 on a GPU")
    add_options(parser)
    options = parser.parse_args()
    device = start(options)
    side, slices = (128, 8) if options.quick else (512, 32)
    rounds = 1 if options.quick else options.rounds
    found = {
        f"outside the network, {side} × {side} at {size}": outside(side, slices, size, rounds, device)
        for size in options.sizes
    }
    if not options.outside:
        found[f"end to end, vit_nano at 128, {side} × {side}"] = end_to_end(side, slices, 128, rounds, device)
    volumes = options.volumes if options.volumes is not None else VOLUMES if device.type == "cuda" else []
    for network in volumes:
        count = 8 if options.quick else 100
        what = f"voxels to labels, {network.replace(':', ' at ')}, {side} × {side} × {count}"
        found[what] = whole_volume(network, side, count, rounds, device)
    rows = [
        [what, way, f"{figures[way]:.1f}", _times(figures, way)]
        for what, figures in found.items()
        for way in figures
        if way != "differing voxels"
    ]
    show(markdown_table(["what", "way", "ms a slice", "against SAMed's"], rows), "prediction", options.page)
    differing = sum(figures.get("differing voxels", 0) for figures in found.values())
    print(f"\n{differing:.0f} voxels differ between this package and the same, one by one.")
    write_results(options.json, found, device)


if __name__ == "__main__":
    main()
