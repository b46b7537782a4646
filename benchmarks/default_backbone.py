"""Compare backbones at equal steps and at equal processor time of training, on development patients.

    MEDSAM_ADAPT_REAL_DATA=FOLDER python benchmarks/default_backbone.py --output FOLDER [--sets hippocampus_mr …]
        [--bundles decoder lora] [--steps 100] [--k 3] [--cases 3] [--seeds 1] [--image-sizes 128 128] [--page FILE]

Training patients come from the pool of benchmarks/real_patients.py, scored ones from its development patients. The
second backbone trains for ``--steps`` steps; the first for as many, and again for as many as take the processor time
that the second's training took. Where the second's encoder is frozen, each slice goes through it once, and the
augmentation moves the features (``cached_views=0``). All in this process, without the imports. Prints the mean DSC over
classes and patients. Each training leaves a JSON file, and the same command goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pages import into_page
from real_patients import SETS, link_cases, patient_means, split_of, training_patients, write_json

import medsam_adapt

FIRST, SECOND = "vit_nano", "lite_medsam"


def trial(folder: Path, bundle: str, backbone: str, steps: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train, segment and score; what there is already is read."""
    result = folder / f"{bundle}-{backbone}-{steps}.json"
    if result.is_file():
        return json.loads(result.read_text(encoding="utf-8"))
    work = result.with_suffix("")
    shutil.rmtree(work, ignore_errors=True)
    sets = {"min_steps": steps, "max_steps": steps, "num_workers": 0, "held_out": 0.0}
    if backbone == SECOND:
        sets["cached_views"] = 0
    image_size = options.image_sizes[backbone == SECOND]
    how = {"bundle": bundle, "backbone": backbone, "image_size": image_size, "device": "cpu"}
    clock = [time.process_time()]
    medsam_adapt.train(folder / "train", work / "run", epochs=1, sets=sets, **how)
    clock.append(time.process_time())
    medsam_adapt.predict(work / "run", folder / "scored" / "images", work / "masks", device="cpu")
    clock.append(time.process_time())
    for mask in (work / "masks").glob("*_seg.nii.gz"):
        mask.rename(mask.with_name(mask.name.replace("_seg.nii.gz", ".nii.gz")))
    reference = {"ref": folder / "scored" / "labels", "labels": folder / "scored" / "labels.json"}
    medsam_adapt.evaluate(pred=work / "masks", output=work / "scores", **reference)
    cases = json.loads((work / "scores" / "metrics.json").read_text(encoding="utf-8"))["cases"]
    training, prediction = (float(each) for each in np.diff(clock))
    content = {"steps": steps, "training": training, "prediction": prediction, "cases": cases}
    shutil.rmtree(work)
    write_json(result, content)
    return content


def cells(
    name: str, bundle: str, seed: int, options: argparse.Namespace
) -> list[tuple[str, str, str, int, dict[str, Any]]]:
    """The three trainings of one set, bundle and seed."""
    data = Path(os.environ["MEDSAM_ADAPT_REAL_DATA"]).resolve() / name
    folder = options.output / name / f"k{options.k}-s{seed}"
    parts = split_of(data)
    ids = {"train": training_patients(parts["pool"], options.k, seed), "scored": parts["dev"][: options.cases]}
    for part in ids:
        if not (folder / part).is_dir():
            link_cases(data, ids[part], folder / part)
    steps = options.steps
    second = trial(folder, bundle, SECOND, steps, options)
    first = trial(folder, bundle, FIRST, steps, options)
    longer = max(1, round(steps * second["training"] / first["training"]))
    as_long = trial(folder, bundle, FIRST, longer, options)
    rows = [(SECOND, "", second), (FIRST, "equal steps", first), (FIRST, "equal processor time", as_long)]
    return [(name, bundle, f"`{backbone}`" + f", {what}" * bool(what), seed, found) for backbone, what, found in rows]


def table(found: list[tuple[str, str, str, int, dict[str, Any]]]) -> str:
    """Means over seeds, a row for each set, bundle and training."""
    lines = ["| set | bundle | training | DSC | by seed | steps | training, processor s | prediction, processor s |"]
    lines.append("|---|---|---|---:|---|---:|---:|---:|")
    for key in dict.fromkeys((name, bundle, what) for name, bundle, what, _, _ in found):
        runs = [run for name, bundle, what, _, run in found if (name, bundle, what) == key]
        of_seeds = [float(np.nanmean(list(patient_means(run, "dsc").values()))) for run in runs]
        steps, training, prediction = (
            np.mean([run[each] for run in runs]) for each in ("steps", "training", "prediction")
        )
        seeds = ", ".join(f"{each:.3f}" for each in of_seeds)
        numbers = f"{np.mean(of_seeds):.3f} | {seeds} | {steps:.0f} | {training:.0f} | {prediction:.0f}"
        lines.append(f"| {key[0]} | `{key[1]}` | {key[2]} | {numbers} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is missing, and print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--bundles", nargs="+", default=["decoder", "lora"])
    parser.add_argument("--steps", type=int, default=100, help="of lite_medsam")
    parser.add_argument("--k", type=int, default=3, help="training patients")
    parser.add_argument("--cases", type=int, default=3, help="development patients that are scored")
    parser.add_argument("--seeds", type=int, default=1, help="draws of the training patients")
    parser.add_argument(
        "--image-sizes", type=int, nargs=2, default=[128, 128], help=f"side of a slice for {FIRST} and for {SECOND}"
    )
    parser.add_argument("--threads", type=int, default=1, help="processor threads")
    parser.add_argument("--page", type=Path, help="page of docs/ that gets the table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = []
    for seed in range(options.seeds):
        for bundle in options.bundles:
            for name in options.sets:
                found += cells(name, bundle, seed, options)
                print(table(found[-3:]), flush=True)
    print(f"\n{table(found)}")
    if options.page:
        into_page(options.page, table(found), "default-backbone")


if __name__ == "__main__":
    main()
