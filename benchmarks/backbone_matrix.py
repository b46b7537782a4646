"""Train every method from one backbone on each data set for a few steps, by our command and by MONAI's.

    MEDSAM_ADAPT_REAL_DATA=FOLDER python benchmarks/backbone_matrix.py --output FOLDER [--backbone lite_medsam]
        [--image-size 64] [--steps 8] [--patients 2] [--sets …] [--bundles …] [--ways cli monai]

*cli* is the entry of ``medsam-adapt train``, *monai* that of ``python -m monai.bundle run``, both in this process. The
patients are from the pool of benchmarks/real_patients.py. Prints the mean loss of the first and of the last quarter of
the steps. Each training leaves a JSON file, and the same command goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from monai.bundle import run as bundle_run
from real_patients import SETS, link_cases, split_of, training_patients, write_json
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from medsam_adapt.bundle.contents import bundle_folder
from medsam_adapt.cli.main import main as command
from medsam_adapt.runs.record import LOG_FOLDER, MODEL_FILE

BUNDLES = ("blosam", "infosam", "samcobot", "samparser", "lora", "adaptformer", "decoder", "detail")


def trained(way: str, bundle: str, data: Path, run: Path, options: argparse.Namespace) -> None:
    """One training of ``options.steps`` steps of two slices, in one epoch."""
    steps = options.steps
    settings = {"epochs": 1, "min_steps": steps, "max_steps": steps, "batch_size": 2, "image_size": options.image_size}
    settings |= {"backbone": options.backbone, "num_workers": 0, "cached_views": 1, "held_out": 0.0}
    if way == "cli":
        words = [f"--set={name}={value}" for name, value in settings.items()]
        with suppress(SystemExit):
            command(["train", "--data", str(data), "--output", str(run), "--bundle", bundle, "--device", "cpu", *words])
    else:
        folder = bundle_folder(bundle)
        bundle_run(
            config_file=str(folder / "configs" / "train.json"),
            bundle_root=str(folder),
            logging_file=False,
            dataset_dir=str(data),
            output_dir=str(run),
            **{f"knobs#{name}": value for name, value in settings.items()},
        )
    assert (run / MODEL_FILE).is_file(), f"{run} has no weights"


def losses(run: Path) -> list[float]:
    """Of each step."""
    events = EventAccumulator(str(run / LOG_FOLDER)).Reload()
    (name,) = (tag for tag in events.Tags()["scalars"] if tag == "loss" or tag.endswith("/loss"))
    return [event.value for event in events.Scalars(name)]


def main() -> None:
    """Train what is missing, and print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of runs and results")
    parser.add_argument("--backbone", default="lite_medsam")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--patients", type=int, default=2, help="to train on")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--bundles", nargs="+", default=list(BUNDLES))
    parser.add_argument("--ways", nargs="+", default=["cli", "monai"])
    options = parser.parse_args()
    root = Path(os.environ["MEDSAM_ADAPT_REAL_DATA"]).resolve()
    print("| set | bundle | way | first losses | last losses | s |", flush=True)
    print("|---|---|---|---:|---:|---:|", flush=True)
    for name in options.sets:
        data = options.output / name / "data"
        if not data.is_dir():
            link_cases(root / name, training_patients(split_of(root / name)["pool"], options.patients, 0), data)
        for bundle in options.bundles:
            for way in options.ways:
                result = options.output / name / f"{bundle}-{way}.json"
                if not result.is_file():
                    begun = time.process_time()
                    run = options.output / name / f"{bundle}-{way}"
                    trained(way, bundle, data, run, options)
                    write_json(result, {"losses": losses(run), "seconds": time.process_time() - begun})
                found = json.loads(result.read_text(encoding="utf-8"))
                part = max(1, len(found["losses"]) // 4)
                first, last = (float(np.mean(each)) for each in (found["losses"][:part], found["losses"][-part:]))
                line = f"{first:.3f} | {last:.3f} | {found['seconds']:.0f}"
                print(f"| {name} | `{bundle}` | {way} | {line} |", flush=True)


if __name__ == "__main__":
    main()
