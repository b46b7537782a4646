"""Whether a run trained on scripted annotations scores as one trained on the true labels.

    MEDSAM_ADAPT_REAL_DATA=FOLDER python benchmarks/scripted_annotator.py --part pool --output ANNOTATED
    MEDSAM_ADAPT_REAL_DATA=FOLDER python benchmarks/annotated_training.py ANNOTATED --output FOLDER [--seeds 3]
        [--data abdomen_mr] [--structure liver] [--patients 5] [--epochs N] [--steps N] [--part dev]

ANNOTATED is what the first command wrote. Both runs are trained on the same patients with the same settings and seed,
and scored on the true labels of the development patients. Prints the DSC of both for every seed, and the mean
difference. A training that is done is not computed again.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from real_patients import link_cases, patient_means, split_of, write_json

LIMIT = 0.03


def main() -> None:
    options = parse()
    data = Path(os.environ["MEDSAM_ADAPT_REAL_DATA"]) / options.data
    parts = split_of(data)
    there = {path.name.removesuffix(".nii.gz") for path in (options.annotated / "labels").glob("*.nii.gz")}
    patients = [patient for patient in parts["pool"] if patient in there][: options.patients]
    if len(patients) < options.patients:
        raise SystemExit(f"{options.annotated}: it has finished labels of {len(patients)} pool patients only.")
    sources = {"annotated": options.annotated, "true": data}
    for name, source in sources.items():
        if not (options.output / name).is_dir():
            link_cases(source, patients, options.output / name)
    if not (options.output / "scored").is_dir():
        link_cases(data, parts[options.part], options.output / "scored")
    differences = []
    for seed in range(options.seeds):
        scores = {name: trained_score(name, seed, options) for name in sources}
        differences.append(scores["annotated"] - scores["true"])
        print(
            f"seed {seed}: annotated {scores['annotated']:.3f}, true labels {scores['true']:.3f} "
            f"({differences[-1]:+.3f})",
            flush=True,
        )
    mean = float(np.mean(differences))
    print(
        f"{options.seeds} seeds: mean difference {mean:+.4f} ({'within' if abs(mean) <= LIMIT else 'beyond'} {LIMIT})"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotated", type=Path, help="folder that scripted_annotator.py --output wrote")
    parser.add_argument("--output", type=Path, required=True, help="folder of runs and results")
    parser.add_argument("--data", default="abdomen_mr", help="folder below MEDSAM_ADAPT_REAL_DATA")
    parser.add_argument("--structure", default="liver")
    parser.add_argument("--patients", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="of each training; the bundle's default when left out")
    parser.add_argument("--steps", type=int, help="of each epoch; the bundle's default when left out")
    parser.add_argument("--part", default="dev", choices=["dev", "test"], help="who is scored")
    options = parser.parse_args()
    if "MEDSAM_ADAPT_REAL_DATA" not in os.environ:
        raise SystemExit("MEDSAM_ADAPT_REAL_DATA: it names no folder. Set it to the folder of the data sets.")
    options.output.mkdir(parents=True, exist_ok=True)
    return options


def trained_score(name: str, seed: int, options: argparse.Namespace) -> float:
    """Mean DSC over the scored patients of a run that is trained on the labels ``name``."""
    result = options.output / f"{name}-{seed}.json"
    if not result.is_file():
        run = options.output / f"{name}-{seed}"
        data = ["--data", options.output / name, "--classes", options.structure]
        call(["train", *data, "--output", run, "--seed", seed, "--overwrite", *length(options)])
        scores = ["--output", run / "scores", "--metrics", "dsc", "--overwrite"]
        call(["evaluate", run, "--data", options.output / "scored", *scores])
        metrics = json.loads((run / "scores" / "metrics.json").read_text(encoding="utf-8"))
        write_json(result, {"dsc": float(np.nanmean(list(patient_means(metrics, "dsc").values())))})
    return float(json.loads(result.read_text(encoding="utf-8"))["dsc"])


def length(options: argparse.Namespace) -> list[Any]:
    """How long to train."""
    epochs = [] if options.epochs is None else ["--epochs", options.epochs]
    steps = [] if options.steps is None else ["--set", f"min_steps={options.steps}", f"--set=max_steps={options.steps}"]
    return [*epochs, *steps]


def call(arguments: Sequence[Any]) -> None:
    """A command of ours in this process, which imports PyTorch once."""
    from medsam_adapt.cli.main import main as command

    with suppress(SystemExit):
        command([str(each) for each in (*arguments, "--quiet")])


if __name__ == "__main__":
    main()
