"""Print the DSC of pretrained weights under tight boxes, beside the filled box and the ellipse in it.

    MEDSAM_ADAPT_REAL_DATA=FOLDER python benchmarks/zero_shot_boxes.py --output FOLDER
        [--weights sam_nano lite_medsam] [--sets ct_abdomen …] [--patients N …] [--page docs/backbones.md]

Every slice of a structure gives the tight box around it; DSC is that of the whole volume. The folder of the data holds
data sets in any layout, or single volumes with ``image.nii.gz``, ``labels.nii.gz`` and ``labels.json``. Of the data
sets in benchmarks/real_patients.py, the development patients are scored. Each data set has a JSON file in ``--output``
with the scores of each volume; the same command scores what is missing there, and prints the table of all.
``--phantoms N`` scores phantoms instead of real volumes. ``--each`` prints every structure too.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pages import into_page
from real_patients import SETS as DEVELOPMENT
from real_patients import split_of, write_json

from medsam_adapt.data.datasets.cases import find_cases
from medsam_adapt.data.phantom.phantom import PHANTOM_CLASSES, case_seed, make_phantom
from medsam_adapt.data.volumes.io import read_label, read_volume
from medsam_adapt.networks.sam import build_sam
from medsam_adapt.networks.segmenter import Segmenter
from medsam_adapt.weights import WEIGHTS

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from pretraining.zero_shot import Scores, mean_scores, score_folder, score_volume

SETS = ("ct_abdomen", "mr_abdomen", "hippocampus_mr", "abdomen_mr", "headneck_ct")
HEADER = (
    "| weights | volumes | structures | DSC | filled box | ellipse | better than both | processor s |",
    "|---|---|---:|---:|---:|---:|---:|---:|",
)


def phantom_scores(network: Segmenter, index: int, seed: int) -> dict[str, Scores]:
    """Scores by class of one phantom."""
    classes = {name: number for number, name in PHANTOM_CLASSES.items()}
    phantom = make_phantom(case_seed(seed, index))
    return score_volume(network, phantom.image, phantom.label, phantom.affine, classes)


def volumes_of(folder: Path, patients: int | None) -> list[str]:
    """The volumes of a data set to score: its development patients, all of them elsewhere, or the one that it is."""
    if (folder / "image.nii.gz").is_file():
        return [folder.name]
    ids = split_of(folder)["dev"] if folder.name in DEVELOPMENT else [case.id for case in find_cases(folder).cases]
    return ids[:patients]


def volume_scores(network: Segmenter, folder: Path, name: str) -> dict[str, Scores]:
    """Scores by structure of one of :func:`volumes_of`."""
    if (folder / "image.nii.gz").is_file():
        return score_folder(network, folder)
    found = find_cases(folder)
    case = next(each for each in found.cases if each.id == name)
    image, header = read_volume(case.image)
    classes = {structure: number for number, structure in found.classes.items()}
    return score_volume(network, image, read_label(case.label)[0], header.affine, classes)


def missing_scores(
    network: Segmenter, weights: str, options: argparse.Namespace
) -> Iterator[tuple[str, str, dict[str, Scores], float]]:
    """Set, volume, scores and processor seconds of what has no scores in ``options.output`` yet."""
    for each, patients in zip(sets_of(options), options.patients, strict=True):
        known = read(options.output, each).get(weights, {})
        folder = Path(os.environ.get("MEDSAM_ADAPT_REAL_DATA", "")) / each
        for name in range(options.phantoms) if options.phantoms else volumes_of(folder, patients):
            if str(name) in known:
                continue
            begun = time.process_time()
            if isinstance(name, int):
                scores = phantom_scores(network, name, options.seed)
            else:
                scores = volume_scores(network, folder, name)
            yield each, str(name), scores, time.process_time() - begun


def sets_of(options: argparse.Namespace) -> list[str]:
    """Names of the data sets; the phantoms of a seed are one."""
    return [f"phantoms_{options.seed}"] if options.phantoms else list(options.sets)


def read(output: Path, name: str) -> dict[str, Any]:
    """Weights -> volume -> ``scores`` and ``seconds`` of a data set, as far as there are any."""
    path = output / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def table(options: argparse.Namespace) -> str:
    """A Markdown table of means over the structures of all volumes, a row for each data set and weights."""
    lines = list(HEADER)
    for each in sets_of(options):
        found = read(options.output, each)
        for weights in options.weights:
            volumes = found.get(weights, {})
            scores = by_name(volumes)
            if not scores:
                continue
            better = np.mean([score.network > max(score.box, score.ellipse) for score in scores.values()])
            mean, seconds = mean_scores(scores), sum(volume["seconds"] for volume in volumes.values())
            numbers = f"{mean.network:.3f} | {mean.box:.3f} | {mean.ellipse:.3f} | {better:.0%} | {seconds:.0f}"
            lines.append(f"| `{weights}` | {each} ({len(volumes)}) | {len(scores)} | {numbers} |")
    return "\n".join(lines)


def by_name(volumes: Mapping[str, Any]) -> dict[str, Scores]:
    """Scores by structure and volume."""
    return {
        f"{structure} ({name})": Scores(*values)
        for name, volume in volumes.items()
        for structure, values in volume["scores"].items()
    }


def structures(options: argparse.Namespace) -> str:
    """A Markdown table of every structure."""
    lines = ["| weights | structure (volume) | voxels | DSC | filled box | ellipse |", "|---|---|---:|---:|---:|---:|"]
    for each in sets_of(options):
        for weights, volumes in read(options.output, each).items():
            for name, score in by_name(volumes).items():
                numbers = f"{score.voxels} | {score.network:.3f} | {score.box:.3f} | {score.ellipse:.3f}"
                lines.append(f"| `{weights}` | {name} | {numbers} |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the scores")
    parser.add_argument("--weights", nargs="+", default=["sam_nano", "lite_medsam"], help="names, see 'weights list'")
    parser.add_argument("--sets", nargs="+", default=list(SETS), help="folders below MEDSAM_ADAPT_REAL_DATA")
    parser.add_argument("--patients", type=int, nargs="+", help="score only so many: of each set, or a number for each")
    parser.add_argument("--phantoms", type=int, default=0, help="how many phantoms to score, instead of real volumes")
    parser.add_argument("--seed", type=int, default=0, help="of the phantoms")
    parser.add_argument("--threads", type=int, default=1, help="processor threads")
    parser.add_argument("--each", action="store_true", help="print every structure")
    parser.add_argument("--page", type=Path, help="page of docs/ that gets the table")
    options = parser.parse_args()
    sets = sets_of(options)
    options.patients = options.patients or [None]
    if len(options.patients) == 1:
        options.patients *= len(sets)
    if len(options.patients) != len(sets):
        raise SystemExit(
            f"--patients: {len(options.patients)} numbers for {len(sets)} sets. Give one, or one for each."
        )
    if not options.phantoms and "MEDSAM_ADAPT_REAL_DATA" not in os.environ:
        raise SystemExit("MEDSAM_ADAPT_REAL_DATA: it names no folder. Set it to that of the data, or give --phantoms.")
    return options


def main() -> None:
    """Score what is missing, and print the table."""
    options = parse()
    torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    for weights in options.weights:
        network = Segmenter(build_sam(WEIGHTS[weights].backbone, checkpoint=weights), head="structure")
        for each, name, scores, seconds in missing_scores(network, weights, options):
            found = read(options.output, each)
            found.setdefault(weights, {})[name] = {"scores": scores, "seconds": seconds}
            write_json(options.output / f"{each}.json", found)
            print(f"{weights}, {each}: {name} in {seconds:.0f} s", file=sys.stderr, flush=True)
    print(table(options))
    if options.each:
        print(f"\n{structures(options)}")
    if options.page:
        into_page(options.page, table(options), "zero-shot")


if __name__ == "__main__":
    main()
