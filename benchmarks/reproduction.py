"""Try the papers' claims in miniature, from ``sam_nano``, and print what comes out, with its spread and its tests.

    MEDSAM_ADAPT_REAL_DATA=FOLDER python benchmarks/reproduction.py --output FOLDER [--seeds 5]
        [--checkpoint FILE] [--page docs/reproduction.md]

a  SAM-COBOT against plain LoRA and plain AdaptFormer
b  SAM-PARSER's 512 parameters against LoRA's
c  BLO-SAM against the same model trained on one level, with 4, 8 and 16 labelled slices
d  InfoSAM against the same adapter without distillation, in and out of domain
e  a control, which no paper claims: what LoRA, AdaptFormer and InfoSAM add to a trained decoder with a frozen encoder

Each seed draws its own phantoms (six to train on, four held out, and those four from another scanner) and its own
random numbers. With the folder of real volumes, the CT is cut into blocks of slices of which every other one is held
out (one patient: seeds differ in random numbers alone), and its MR is the other domain. As in the papers, a box prompts
every structure but in (c), where nothing does; the image encoder is frozen but for the methods' own layers, and nothing
is chosen on the held-out cases. Each training writes its rows to
``scores.csv``; the same command continues where it was interrupted, and prints the table. Folders of several processes
(``--data phantoms`` in one and ``--data real`` in another) are put together by ``--table-of FOLDER FOLDER``.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pages import into_page
from reproduction_data import DataSet, few_slices, phantom_set, real_set
from reproduction_table import table

from medsam_adapt.runs.record import read_run
from medsam_adapt.scoring.metrics import MetricRules
from medsam_adapt.workflows.evaluate import evaluate_run
from medsam_adapt.workflows.train import train

COLUMNS = ("data", "arm", "slices", "seed", "scored_on", "dsc", "trained_in_encoder", "trained")
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "LoRA": ("lora", {}),
    "COBOT on LoRA": ("samcobot", {"form": "lora"}),
    "AdaptFormer": ("adaptformer", {}),
    "COBOT on AdaptFormer": ("samcobot", {"form": "adaptformer"}),
    "PARSER": ("samparser", {}),
    "InfoSAM": ("infosam", {}),
    "InfoSAM's adapter alone": ("infosam", {"compression_weight": 0.0, "distillation_weight": 0.0}),
    "decoder alone": ("decoder", {}),
}
ARMS_OF = {  # claim -> arms
    "a": ("LoRA", "COBOT on LoRA", "AdaptFormer", "COBOT on AdaptFormer"),
    "b": ("PARSER", "LoRA"),
    "d": ("InfoSAM", "InfoSAM's adapter alone"),
    "e": ("decoder alone", "LoRA", "AdaptFormer", "InfoSAM"),
}
FEW: dict[str, tuple[str, dict[str, Any]]] = {
    "BLO-SAM": ("blosam", {"order": "second"}),
    "one level": ("blosam", {"order": "joint"}),
}
SLICES = (4, 8, 16)
STEPS = 50  # the least of an epoch
RULES = MetricRules(metrics=("dsc",))


def trainings(claims: str) -> Iterator[tuple[str, int]]:
    """Every arm, with the number of labelled slices (0: all of them)."""
    wanted = {arm for claim in claims if claim in ARMS_OF for arm in ARMS_OF[claim]}
    yield from ((arm, 0) for arm in ARMS if arm in wanted)
    if "c" in claims:
        yield from ((arm, count) for count in SLICES for arm in FEW)


def fine_tune(
    data: DataSet, run: Path, arm: str, seed: int, checkpoint: str
) -> tuple[dict[str, float], dict[str, int]]:
    """Train once; mean DSC by what it was scored on, and the counts of trained values."""
    bundle, settings = {**ARMS, **FEW}[arm]
    length = data.unprompted if arm in FEW else data.prompted
    sets = {
        "seed": seed,
        "checkpoint": checkpoint,
        "min_steps": STEPS,
        "held_out": 0.0,
        "val_interval": length["epochs"] + 1,
        "tune_encoder": False,
        # Augmentation is drawn anew in every arm; few slices have eight views in both arms, which takes less time.
        "cache_frozen": "auto" if arm in FEW else "off",
        **data.settings,
        "prompt": "none" if arm in FEW else "box",
        **length,
        **settings,
    }
    train(data.train, run, bundle=bundle, sets=sets, overwrite=run.exists())
    scores = {"training": mean_dsc(run)} if arm in FEW else {}
    for name, folder in data.tests.items():
        scores[name] = mean_dsc(run, folder)
    return scores, read_run(run).trainable


def mean_dsc(run: Path, data: Path | None = None) -> float:
    """Mean over the classes that can be scored; on the run's own training cases without ``data``."""
    return float(evaluate_run(run, data, rules=RULES)["mean"]["dsc"])


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--output", type=Path, help="folder of data, runs and scores.csv")
    what.add_argument("--table-of", type=Path, nargs="+", metavar="FOLDER", help="print the table of earlier runs")
    parser.add_argument("--seeds", type=int, default=5, help="replications")
    parser.add_argument("--claims", default="abcde", help="which of a, b, c, d, e")
    parser.add_argument("--data", default="phantoms,real", help="phantoms, real, or both")
    parser.add_argument("--checkpoint", default="sam_nano", help="weights to start from: a name or a file")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="processor threads")
    parser.add_argument("--page", type=Path, help="Markdown page between whose comments the table goes")
    options = parser.parse_args()
    if options.table_of:
        rows = [row for folder in options.table_of for row in read(folder / "scores.csv")]
    else:
        torch.set_num_threads(options.threads)
        rows = train_all(options)
    print(table(rows))
    if options.page:
        into_page(options.page, table(rows))


def train_all(options: argparse.Namespace) -> list[dict[str, str]]:
    """Train what is missing; the rows of all trainings."""
    options.output.mkdir(parents=True, exist_ok=True)
    scores = options.output / "scores.csv"
    rows = read(scores)
    done = {(row["data"], row["arm"], row["slices"], row["seed"]) for row in rows}
    for seed in range(options.seeds):
        for source in sources(options.output, options.data, seed):
            for arm, slices in trainings(options.claims):
                key = (source.name, arm, str(slices), str(seed))
                if key in done:
                    continue
                data = few_slices(source, slices, options.output / "few") if slices else source
                found, trained = fine_tune(data, options.output / "run", arm, seed, options.checkpoint)
                counts = (str(trained["encoder"]), str(trained["total"]))
                for name, dsc in found.items():
                    rows.append(dict(zip(COLUMNS, (*key, name, f"{dsc:.4f}", *counts), strict=True)))
                    print(rows[-1], flush=True)
                write(scores, rows)
    return rows


def sources(output: Path, which: str, seed: int) -> Iterator[DataSet]:
    """The data sets of one seed; phantoms of earlier seeds are removed."""
    if "phantoms" in which:
        folder = output / f"phantoms_{seed}"
        yield phantom_set(folder, seed)
        shutil.rmtree(folder)
    real = os.environ.get("MEDSAM_ADAPT_REAL_DATA")
    if "real" in which and real:
        yield real_set(output / "real", Path(real))


def read(path: Path) -> list[dict[str, str]]:
    """The rows of earlier trainings."""
    return list(csv.DictReader(path.open(encoding="utf-8"))) if path.is_file() else []


def write(path: Path, rows: list[dict[str, str]]) -> None:
    """All rows so far."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
