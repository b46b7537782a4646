"""Whether labels of suggested scans teach a run more than labels of random ones.

    MEDSAM_ADAPT_REAL_DATA=FOLDER python benchmarks/suggested_scans.py --output FOLDER [--seeds 10] [--start 3]
        [--add 5] [--epochs N] [--steps N] [--set hippocampus_mr] [--part dev]

A seed draws ``--start`` labelled patients from the pool of `real_patients.split_of` and trains a run on them. Then
``--add`` patients of the rest of the pool get their labels: those that ``medsam-adapt suggest`` names with this run, or
random ones. A run is trained on each of the two sets from the start, with the same settings and the same seed, and
scored on the development patients. Prints the mean DSC of both for every seed, the mean of the paired differences, and
a Wilcoxon signed-rank test over the seeds. A seed that is done is not computed again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from real_patients import SETS, link_cases, patient_means, split_of, training_patients, write_json

import medsam_adapt
from medsam_adapt.comparison.run import wilcoxon


def main() -> None:
    options = parse()
    data = Path(os.environ["MEDSAM_ADAPT_REAL_DATA"]) / options.set
    results = []
    for seed in range(options.seeds):
        path = options.output / f"seed{seed}.json"
        if not path.is_file():
            write_json(path, one_seed(data, seed, options))
        results.append(json.loads(path.read_text(encoding="utf-8")))
        print(row(results[-1]), flush=True)
    print(summary(results))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of runs and results")
    parser.add_argument("--set", default="hippocampus_mr", choices=list(SETS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--start", type=int, default=3, help="labelled patients at the beginning")
    parser.add_argument("--add", type=int, default=5, help="patients that get a label")
    parser.add_argument("--epochs", type=int, help="of each training; the bundle's default when left out")
    parser.add_argument("--steps", type=int, help="of each epoch; the bundle's default when left out")
    parser.add_argument("--part", default="dev", choices=["dev", "test"], help="who is scored")
    options = parser.parse_args()
    if "MEDSAM_ADAPT_REAL_DATA" not in os.environ:
        raise SystemExit("MEDSAM_ADAPT_REAL_DATA: it names no folder. Set it to the folder of the data sets.")
    options.output.mkdir(parents=True, exist_ok=True)
    return options


def one_seed(data: Path, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train the first run, choose patients in both ways, and train and score a run on each choice."""
    parts = split_of(data)
    folder = options.output / f"seed{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    start = training_patients(parts["pool"], options.start, seed)
    rest = [patient for patient in parts["pool"] if patient not in start]
    link_cases(data, parts[options.part], folder / "scored")
    first = train(data, start, folder / "first", seed, options)
    (folder / "rest").mkdir()
    for patient in rest:
        (folder / "rest" / f"{patient}.nii.gz").symlink_to((data / "images" / f"{patient}.nii.gz").resolve())
    suggested = [scan.name for scan in medsam_adapt.suggest(first, folder / "rest", options.add).scans]
    order = np.random.default_rng([seed, options.start, options.add]).permutation(len(rest))
    chosen = {"random": [rest[index] for index in order[: options.add]], "suggested": suggested}
    scores = {}
    for arm, added in chosen.items():
        scores[arm] = score(train(data, [*start, *added], folder / arm, seed, options), folder)
    shutil.rmtree(folder)
    return {"seed": seed, "start": start, **chosen, "dsc": scores}


def train(data: Path, patients: Sequence[str], folder: Path, seed: int, options: argparse.Namespace) -> Path:
    """The run of a training on these patients with our default bundle."""
    link_cases(data, patients, folder / "data")
    call("train", "--data", folder / "data", "--output", folder / "run", "--seed", seed, "--quiet", *length(options))
    return folder / "run"


def score(run: Path, folder: Path) -> float:
    """Mean DSC over patients, of each patient over classes."""
    output = run.with_name("scores")
    call("evaluate", run, "--data", folder / "scored", "--output", output, "--metrics", "dsc", "--quiet")
    metrics = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    return float(np.nanmean(list(patient_means(metrics, "dsc").values())))


def length(options: argparse.Namespace) -> list[Any]:
    """How long to train."""
    epochs = [] if options.epochs is None else ["--epochs", options.epochs]
    steps = [] if options.steps is None else ["--set", f"min_steps={options.steps}", f"--set=max_steps={options.steps}"]
    return [*epochs, *steps]


def call(*arguments: Any) -> None:
    """A command of ours in this process, which imports PyTorch once."""
    from medsam_adapt.cli.main import main as command

    with suppress(SystemExit):
        command([str(each) for each in arguments])


def row(result: Mapping[str, Any]) -> str:
    dsc = result["dsc"]
    return (
        f"seed {result['seed']}: random {dsc['random']:.3f}, "
        f"suggested {dsc['suggested']:.3f} ({dsc['suggested'] - dsc['random']:+.3f})"
    )


def summary(results: Sequence[Mapping[str, Any]]) -> str:
    """Means, the mean paired difference, and the test."""
    suggested, random = (np.array([each["dsc"][arm] for each in results]) for arm in ("suggested", "random"))
    difference = suggested - random
    p = f", p = {wilcoxon(suggested, random):.3f} (Wilcoxon)" if len(results) > 4 else ""
    return (
        f"{len(results)} seeds: random {random.mean():.4f}, suggested {suggested.mean():.4f}, mean difference "
        f"{difference.mean():+.4f}, better in {(difference > 0).sum()}{p}"
    )


if __name__ == "__main__":
    main()
