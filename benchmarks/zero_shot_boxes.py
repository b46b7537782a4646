"""Print the DSC of a SAM under tight boxes on real volumes or phantoms, beside the filled box and the ellipse in it.

    MEDSAM_ADAPT_REAL_DATA=FOLDER python benchmarks/zero_shot_boxes.py [--checkpoint NAME|FILE] [--variant vit_nano]

FOLDER holds ``ct_abdomen`` and ``mr_abdomen``, each with ``image.nii.gz``, ``labels.nii.gz`` and ``labels.json``.
Without it, or with ``--phantoms``, phantoms are scored.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from medsam_adapt.data.phantom.phantom import PHANTOM_CLASSES, case_seed, make_phantom
from medsam_adapt.networks.sam import build_sam
from medsam_adapt.networks.segmenter import Segmenter
from pretraining.zero_shot import Scores, mean_scores, score_folder, score_volume

REAL_VOLUMES = ("ct_abdomen", "mr_abdomen")


def phantom_scores(network: Segmenter, count: int, seed: int) -> dict[str, Scores]:
    """Scores by phantom and class."""
    classes = {name: number for number, name in PHANTOM_CLASSES.items()}
    scores = {}
    for index in range(count):
        phantom = make_phantom(case_seed(seed, index))
        found = score_volume(network, phantom.image, phantom.label, phantom.affine, classes)
        scores |= {f"{name} ({index})": score for name, score in found.items()}
    return scores


def table(title: str, scores: dict[str, Scores]) -> str:
    """A Markdown table with the mean at its end."""
    lines = [f"### {title}", "", "| structure | voxels | network | filled box | inscribed ellipse |"]
    lines.append("|---|---:|---:|---:|---:|")
    mean = mean_scores(scores)
    for name, score in [*scores.items(), (f"**mean of {len(scores)}**", mean)]:
        lines.append(f"| {name} | {score.voxels} | {score.network:.3f} | {score.box:.3f} | {score.ellipse:.3f} |")
    better = sum(score.network > max(score.box, score.ellipse) for score in scores.values())
    lines += ["", f"Better than both baselines on {better} of {len(scores)} structures."]
    return "\n".join(lines)


def main() -> None:
    """Score what is there and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="sam_nano", help="weights to score: a name or a file")
    parser.add_argument("--variant", default="vit_nano", help="what the weights are of")
    parser.add_argument("--phantoms", type=int, default=0, help="how many phantoms to score, instead of real volumes")
    parser.add_argument("--seed", type=int, default=0, help="of the phantoms")
    parser.add_argument("--threads", type=int, default=1, help="processor threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    network = Segmenter(build_sam(options.variant, checkpoint=options.checkpoint), head="structure")
    real = os.environ.get("MEDSAM_ADAPT_REAL_DATA")
    if options.phantoms or not real:
        count = options.phantoms or 4
        print(table(f"{count} phantoms", phantom_scores(network, count, options.seed)))
        return
    tables = {name: score_folder(network, Path(real) / name) for name in REAL_VOLUMES}
    for name, scores in tables.items():
        print(table(name, scores), end="\n\n")
    everything = {f"{name}: {part}": score for name, scores in tables.items() for part, score in scores.items()}
    mean = mean_scores(everything)
    print(
        f"All {len(everything)} structures: network {mean.network:.3f}, filled box {mean.box:.3f}, "
        f"inscribed ellipse {mean.ellipse:.3f}."
    )


if __name__ == "__main__":
    main()
