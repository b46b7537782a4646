"""Compare backbones for the default bundle and others at equal minutes of training, on development patients.

    python benchmarks/default_backbone.py --data FOLDER/hippocampus_mr --output FOLDER [--minutes 3] [--k 5] [--cases 6]
        [--bundles detail lora] [--backbones vit_nano lite_medsam]

Training patients come from the pool of benchmarks/real_patients.py, scored ones from its development patients. Prints
the mean DSC of each class, and the processor time of training and of prediction. The processor should be free.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
from pathlib import Path

import numpy as np
from real_patients import call, link_cases, split_of, training_patients


def processor_seconds() -> float:
    """Of all processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def trial(folder: Path, data: Path, scored: Path, options: list[str]) -> tuple[dict[str, float], list[float]]:
    """Train, segment and score: mean DSC by class, and processor seconds of training and prediction."""
    shutil.rmtree(folder, ignore_errors=True)
    times = [processor_seconds()]
    call("train", "--data", data, "--output", folder / "run", *options, "--quiet")
    times.append(processor_seconds())
    call("predict", folder / "run", "-i", scored / "images", "-o", folder / "masks", "--quiet")
    times.append(processor_seconds())
    for mask in (folder / "masks").glob("*_seg.nii.gz"):
        mask.rename(mask.with_name(mask.name.replace("_seg.nii.gz", ".nii.gz")))
    names = ["--labels", scored / "labels.json"]
    call("evaluate", "--pred", folder / "masks", "--ref", scored / "labels", *names, "--output", folder / "scores")
    cases = json.loads((folder / "scores" / "metrics.json").read_text(encoding="utf-8"))["cases"]
    found: dict[str, list[float]] = {}
    for case in cases.values():
        for name, scores in case["classes"].items():
            if scores.get("dsc") is not None:
                found.setdefault(name, []).append(scores["dsc"])
    return {name: float(np.mean(values)) for name, values in found.items()}, [float(each) for each in np.diff(times)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="one of the data sets of benchmarks/real_patients.py")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--minutes", type=float, default=3, help="of each training")
    parser.add_argument("--k", type=int, default=5, help="training patients")
    parser.add_argument("--cases", type=int, default=6, help="development patients that are scored")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of training patients")
    parser.add_argument("--bundles", nargs="+", default=["detail", "lora"])
    parser.add_argument("--backbones", nargs="+", default=["vit_nano", "lite_medsam"])
    options = parser.parse_args()
    parts = split_of(options.data)
    train, scored = options.output / "train", options.output / "scored"
    for folder, ids in (
        (train, training_patients(parts["pool"], options.k, options.seed)),
        (scored, parts["dev"][: options.cases]),
    ):
        shutil.rmtree(folder, ignore_errors=True)
        link_cases(options.data.resolve(), ids, folder)
    print("| bundle | backbone | DSC | by class | training, processor s | prediction, processor s |", flush=True)
    print("|---|---|---:|---|---:|---:|", flush=True)
    for bundle in options.bundles:
        for backbone in options.backbones:
            given = ["--bundle", bundle, "--backbone", backbone, "--minutes", str(options.minutes)]
            dsc, (training, prediction) = trial(options.output / f"{bundle}-{backbone}", train, scored, given)
            classes = ", ".join(f"{name} {value:.3f}" for name, value in dsc.items())
            mean = float(np.mean(list(dsc.values())))
            print(f"| {bundle} | {backbone} | {mean:.3f} | {classes} | {training:.0f} | {prediction:.0f} |", flush=True)


if __name__ == "__main__":
    main()
