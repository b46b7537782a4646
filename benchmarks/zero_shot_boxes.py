"""Print the DSC of pretrained weights under tight boxes, beside the filled box and the ellipse in it.

    PYTHONPATH=. MEDSAM_ADAPT_REAL_DATA=FOLDER python benchmarks/zero_shot_boxes.py [--weights sam_nano lite_medsam]

Every slice of a structure gives the tight box around it; DSC is that of the whole volume. FOLDER holds data sets in any
layout, or single volumes with ``image.nii.gz``, ``labels.nii.gz`` and ``labels.json``. Of the data sets in
benchmarks/real_patients.py, the first of the development patients are scored. Without it, or with
``--phantoms``, phantoms are scored. ``--each`` prints every structure instead of the means alone.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
import torch
from real_patients import SETS as DEVELOPMENT
from real_patients import split_of

from medsam_adapt.data.datasets.cases import find_cases
from medsam_adapt.data.phantom.phantom import PHANTOM_CLASSES, case_seed, make_phantom
from medsam_adapt.data.volumes.io import read_label, read_volume
from medsam_adapt.networks.sam import build_sam
from medsam_adapt.networks.segmenter import Segmenter
from medsam_adapt.weights import WEIGHTS
from pretraining.zero_shot import Scores, mean_scores, score_folder, score_volume

SETS = ("ct_abdomen", "mr_abdomen", "hippocampus_mr", "abdomen_mr", "headneck_ct")


def phantom_scores(network: Segmenter, count: int, seed: int) -> dict[str, Scores]:
    """Scores by phantom and class."""
    classes = {name: number for number, name in PHANTOM_CLASSES.items()}
    scores = {}
    for index in range(count):
        phantom = make_phantom(case_seed(seed, index))
        found = score_volume(network, phantom.image, phantom.label, phantom.affine, classes)
        scores |= {f"{name} ({index})": score for name, score in found.items()}
    return scores


def set_scores(network: Segmenter, folder: Path, patients: int) -> dict[str, Scores]:
    """Scores by structure of a single volume, or by structure and patient of the first patients of a data set."""
    if (folder / "image.nii.gz").is_file():
        return score_folder(network, folder)
    cases = find_cases(folder, "auto")
    wanted = split_of(folder)["dev"] if folder.name in DEVELOPMENT else [case.id for case in cases.cases]
    by_id = {case.id: case for case in cases.cases}
    scores = {}
    for case in (by_id[name] for name in wanted[:patients]):
        image, header = read_volume(case.image)
        label = read_label(case.label)[0]
        classes = {name: number for number, name in cases.classes.items()}
        found = score_volume(network, image, label, header.affine, classes)
        scores |= {f"{name} ({case.id})": score for name, score in found.items()}
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


def row(name: str, which: str, scores: dict[str, Scores], seconds: float) -> str:
    """One line of the table of means."""
    mean = mean_scores(scores)
    better = np.mean([score.network > max(score.box, score.ellipse) for score in scores.values()])
    numbers = f"{mean.network:.3f} | {mean.box:.3f} | {mean.ellipse:.3f} | {better:.0%} | {seconds:.0f}"
    return f"| {which} | {name} | {len(scores)} | {numbers} |"


def main() -> None:
    """Score what is there and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="+", default=["sam_nano", "lite_medsam"], help="names, see 'weights list'")
    parser.add_argument("--sets", nargs="+", default=list(SETS), help="folders below MEDSAM_ADAPT_REAL_DATA")
    parser.add_argument("--patients", type=int, default=5, help="of each data set")
    parser.add_argument("--phantoms", type=int, default=0, help="how many phantoms to score, instead of real volumes")
    parser.add_argument("--seed", type=int, default=0, help="of the phantoms")
    parser.add_argument("--threads", type=int, default=1, help="processor threads")
    parser.add_argument("--each", action="store_true", help="print every structure")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    real = os.environ.get("MEDSAM_ADAPT_REAL_DATA")
    if real and not options.phantoms:
        print("| weights | volumes | structures | DSC | filled box | ellipse | better than both | processor s |")
        print("|---|---|---:|---:|---:|---:|---:|---:|", flush=True)
    for name in options.weights:
        network = Segmenter(build_sam(WEIGHTS[name].backbone, checkpoint=name), head="structure")
        if options.phantoms or not real:
            count = options.phantoms or 4
            print(table(f"{name}: {count} phantoms", phantom_scores(network, count, options.seed)), end="\n\n")
            continue
        for each in options.sets:
            begun = time.process_time()
            scores = set_scores(network, Path(real) / each, options.patients)
            print(row(each, name, scores, time.process_time() - begun), flush=True)
            if options.each:
                print(table(f"{name}: {each}", scores), end="\n\n")


if __name__ == "__main__":
    main()
