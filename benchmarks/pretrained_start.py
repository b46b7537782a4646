"""Print what fine-tuning reaches from ``sam_nano`` and from random weights, everything else being equal.

    MEDSAM_ADAPT_REAL_DATA=FOLDER python benchmarks/pretrained_start.py --output FOLDER [--seeds 3] [--epochs 2 6]
        [--page docs/pretrained_start.md]

Two data sets: phantoms, of which a quarter is held out; and the real CT in FOLDER/adome_one_case, cut into blocks of
slices of which every other one is held out (the same patient, so this shows how well it is learnt, not how well it
carries over). The image encoder is frozen but for the method's own layers, as in the papers; ``--tune-encoder`` trains
it whole. Each training writes a row to ``scores.csv``; the same command continues where it was interrupted.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import os
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from pages import into_page

from medsam_adapt.core.files import write_json
from medsam_adapt.data.datasets.layouts.adome import CLASSES
from medsam_adapt.data.datasets.splits import Split, save_split
from medsam_adapt.data.phantom.phantom import write_phantoms
from medsam_adapt.workflows.evaluate import evaluate_run
from medsam_adapt.workflows.train import train

METHODS = ("blosam", "infosam", "samcobot", "samparser")
STARTS = ("sam_nano", "random")
PHANTOMS, PHANTOM_SHAPE = 8, (64, 64, 24)
BLOCK = 8  # slices
STEPS = 50  # of an epoch, or a few more
COLUMNS = ("data", "epochs", "method", "start", "seed", "dsc")


def phantoms(folder: Path) -> tuple[Path, Path]:
    """Phantoms and their split: the last quarter is held out."""
    if not folder.is_dir():
        write_phantoms(folder, PHANTOMS, seed=100, shape=PHANTOM_SHAPE)
    ids = [f"phantom_{index:03d}" for index in range(PHANTOMS)]
    return folder, _saved(folder, ids[: PHANTOMS * 3 // 4], ids[PHANTOMS * 3 // 4 :])


def real_blocks(folder: Path, source: Path) -> tuple[Path, Path]:
    """The real CT as a datalist of blocks of slices, every other one held out."""
    shutil.rmtree(folder, ignore_errors=True)
    entries: list[dict[str, str]] = []
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
        (path,) = sorted((source / kind).glob("*.nii.gz"))
        volume = nib.load(path)
        for index, first in enumerate(range(0, volume.shape[2], BLOCK)):
            nib.save(volume.slicer[:, :, first : first + BLOCK], folder / kind / f"block_{index:02d}.nii.gz")
    for path in sorted((folder / "images").iterdir()):
        name = path.name
        entries.append({"image": f"images/{name}", "label": f"labels/{name}", "patient": "one"})
    labels = {str(number): name for number, name in CLASSES.items()}
    write_json(folder / "datalist.json", {"labels": labels, "training": entries})
    ids = [Path(entry["image"]).name.removesuffix(".nii.gz") for entry in entries]
    return folder, _saved(folder, ids[::2], ids[1::2])


def _saved(folder: Path, train: list[str], held_out: list[str]) -> Path:
    path = folder.with_name(f"{folder.name}_split.json")
    save_split(path, Split(tuple(train), tuple(held_out)), seed=0)
    return path


def fine_tune(data: Path, split: Path, run: Path, method: str, **values: Any) -> float:
    """Mean held-out DSC of one training with these settings, scored after its last step."""
    sets = {**values, "split_file": str(split), "min_steps": STEPS, "val_interval": values["epochs"] + 1}
    sets["cache_frozen"] = "off"  # every method and start draws its augmentation anew
    if method == "blosam":
        sets["order"] = "first"  # as in the demo: quicker
    train(data, run, bundle=method, sets=sets, overwrite=run.exists())
    return float(evaluate_run(run)["mean"]["dsc"])


def table(rows: list[dict[str, str]]) -> str:
    """Mean ± sd over seeds, and in how many seeds the pretrained start is better, as Markdown."""
    lines = [
        "| data | epochs | method | from `sam_nano` | from random weights | better in |",
        "|---|---:|---|---:|---:|---:|",
    ]
    for place in dict.fromkeys((row["data"], row["epochs"], row["method"]) for row in rows):
        scores: dict[str, dict[str, float]] = {start: {} for start in STARTS}
        for row in rows:
            if (row["data"], row["epochs"], row["method"]) == place and row["start"] in STARTS:
                scores[row["start"]][row["seed"]] = float(row["dsc"])
        pretrained, random = (scores[start] for start in STARTS)
        both = [seed for seed in pretrained if seed in random]
        better = sum(pretrained[seed] > random[seed] for seed in both)
        cells = [*place, *(_spread(list(scores[start].values())) for start in STARTS), f"{better} of {len(both)} seeds"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(scores: list[float]) -> str:
    if not scores:
        return ""
    return f"{np.mean(scores):.3f}" + (f" ± {np.std(scores, ddof=1):.3f}" if len(scores) > 1 else "")


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of data, runs and scores.csv")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each kind")
    parser.add_argument("--epochs", type=int, nargs="+", default=[2], help=f"of about {STEPS} steps; one or more")
    parser.add_argument("--methods", default=",".join(METHODS), help="which methods")
    parser.add_argument("--starts", default=",".join(STARTS), help="names or files of weights to start from")
    parser.add_argument("--data", default="phantoms,real", help="phantoms, real, or both")
    parser.add_argument("--tune-encoder", action="store_true", help="train the whole encoder too, as by default")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="processor threads")
    parser.add_argument("--page", type=Path, help="Markdown page between whose comments the table goes")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    sets = {}
    if "phantoms" in options.data:
        sets["phantoms"] = phantoms(options.output / "phantoms")
    real = os.environ.get("MEDSAM_ADAPT_REAL_DATA")
    if "real" in options.data and real:
        sets["real CT blocks"] = real_blocks(options.output / "blocks", Path(real) / "adome_one_case")
    scores = options.output / "scores.csv"
    rows = list(csv.DictReader(scores.open())) if scores.is_file() else []
    done = {tuple(row[name] for name in COLUMNS[:-1]) for row in rows}
    wanted = itertools.product(
        range(options.seeds), sets, options.epochs, options.methods.split(","), options.starts.split(",")
    )
    for seed, name, epochs, method, start in wanted:
        key = (name, str(epochs), method, start, str(seed))
        if key in done:
            continue
        values = {"checkpoint": start, "seed": seed, "epochs": epochs}
        if not options.tune_encoder:
            values["tune_encoder"] = False
        dsc = fine_tune(*sets[name], options.output / "run", method, **values)
        rows.append(dict(zip(COLUMNS, (*key, f"{dsc:.4f}"), strict=True)))
        print(rows[-1], flush=True)
        with scores.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
    print(table(rows))
    if options.page:
        into_page(options.page, table(rows))


if __name__ == "__main__":
    main()
