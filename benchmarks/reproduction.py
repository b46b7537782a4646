"""Test the papers' claims on real patients from few labelled slices, from ``lite_medsam``, over draws of patients.

    MEDSAM_ADAPT_REAL_DATA=FOLDER python benchmarks/reproduction.py --output FOLDER [--seeds 5]
        [--backbone lite_medsam] [--sets headneck_ct abdomen_mr] [--page docs/reproduction.md]

a  SAM-COBOT against plain LoRA and plain AdaptFormer
b  SAM-PARSER against LoRA
c  BLO-SAM against the same model trained on one level, with 4, 8 and 16 labelled slices
d  InfoSAM against the same adapter without distillation, in and out of domain
e  a control, which no paper claims: all of them against only the mask decoder, with a frozen encoder

Each seed draws training patients from the pool of ``real_patients.py`` (`reproduction_data.SOURCES`) and its own random
numbers; the scored ones are always the same test patients, and for the abdomen a CT of another patient. As in the
papers, a box prompts every structure but in (c), where nothing does; the image encoder is frozen but for the methods'
own layers, and the last weights are scored, so that none are chosen on the scored patients. Each training writes its
rows to ``scores.csv``; the same command continues where it was interrupted, and prints the table, which is complete
after every seed. Folders of several processes (``--sets headneck_ct`` in one and ``--sets abdomen_mr`` in another) are
put together by ``--table-of FOLDER FOLDER``.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from pages import into_page
from reproduction_data import SOURCES, DataSet, few_slices, filled_boxes, mean_over_classes, put_together, real_set
from reproduction_table import FILLED, UNTRAINED, table

import medsam_adapt
from medsam_adapt.core.files import written_whole
from medsam_adapt.runs.record import read_run
from medsam_adapt.weights import WEIGHTS

COLUMNS = ("data", "arm", "slices", "seed", "scored_on", "dsc", "trained_in_encoder", "trained", "seconds")
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    FILLED: ("", {}),  # the boxes themselves
    # One step too small to change a weight: the same code scores the weights as they are.
    UNTRAINED: ("decoder", {"learning_rate": 1e-12, "min_steps": 1, "max_steps": 1}),
    "decoder alone": ("decoder", {}),
    "LoRA": ("lora", {}),
    "COBOT on LoRA": ("samcobot", {"form": "lora"}),
    "AdaptFormer": ("adaptformer", {}),
    "COBOT on AdaptFormer": ("samcobot", {"form": "adaptformer"}),
    "PARSER": ("samparser", {}),
    "InfoSAM": ("infosam", {}),
    "InfoSAM's adapter alone": ("infosam", {"compression_weight": 0.0, "distillation_weight": 0.0}),
}
ARMS_OF = {  # claim -> arms
    "a": ("LoRA", "COBOT on LoRA", "AdaptFormer", "COBOT on AdaptFormer"),
    "b": ("PARSER", "LoRA"),
    "d": ("InfoSAM", "InfoSAM's adapter alone"),
    "e": tuple(arm for arm in ARMS if arm != "InfoSAM's adapter alone"),
}
FEW: dict[str, tuple[str, dict[str, Any]]] = {
    "BLO-SAM": ("blosam", {"order": "second"}),
    "one level": ("blosam", {"order": "joint"}),
}
SLICES = (4, 8, 16)


def trainings(claims: str, name: str, seed: int) -> Iterator[tuple[str, int]]:
    """Every arm of a data set, with the number of labelled slices (0: all of them)."""
    wanted = {arm for claim in claims if claim in ARMS_OF for arm in ARMS_OF[claim]}
    yield from ((arm, 0) for arm in ARMS if arm in wanted and (arm not in (FILLED, UNTRAINED) or seed == 0))
    if "c" in claims and SOURCES[name].few:
        yield from ((arm, count) for count in SLICES for arm in FEW)


def fine_tune(
    data: DataSet, run: Path, arm: str, seed: int, options: argparse.Namespace
) -> tuple[dict[str, float], dict[str, int]]:
    """Train once; mean DSC by what it was scored on, and the counts of trained values."""
    if arm == FILLED:
        return {name: filled_boxes(folder) for name, folder in data.tests.items()}, {"encoder": 0, "total": 0}
    bundle, settings = {**ARMS, **FEW}[arm]
    steps = options.few_steps if arm in FEW else options.steps
    # The papers do not augment, except for BLO-SAM; moved features then save most of the encoder's work.
    how = {"prompt": "none", "cached_views": 0} if arm in FEW else {"prompt": "box", "augment": "none"}
    sets = {
        "seed": seed,
        "backbone": options.backbone,
        "checkpoint": options.checkpoint,
        "image_size": options.image_size,
        "epochs": 1,
        "min_steps": steps,
        "max_steps": steps,
        "batch_size": options.batch_size,
        "held_out": 0.0,
        "val_interval": 2,
        "tune_encoder": False,
        **data.settings,
        **how,
        **settings,
    }
    medsam_adapt.train(data.train, run, bundle=bundle, sets=sets, device="cpu", overwrite=run.exists())
    scored = {"training": data.train, **data.tests} if arm in FEW else data.tests
    return mean_dsc(run, scored), read_run(run).trainable


def mean_dsc(run: Path, folders: Mapping[str, Path]) -> dict[str, float]:
    """Mean over the classes, of each the mean over cases, by folder; all are scored together, which is faster."""
    together = run.with_name("scored")
    cases = put_together(folders.values(), together)
    found = medsam_adapt.evaluate(run, data=together, metrics=["dsc"], device="cpu", overwrite=True).cases
    return {
        name: mean_over_classes(
            {structure: scores["dsc"] for structure, scores in found[case]["classes"].items()} for case in cases[folder]
        )
        for name, folder in folders.items()
    }


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--output", type=Path, help="folder of data, runs and scores.csv")
    what.add_argument("--table-of", type=Path, nargs="+", metavar="FOLDER", help="print the table of earlier runs")
    parser.add_argument("--seeds", type=int, default=5, help="draws of the training patients")
    parser.add_argument("--claims", default="abcde", help="which of a, b, c, d, e")
    parser.add_argument("--sets", nargs="+", default=list(SOURCES), choices=list(SOURCES))
    parser.add_argument("--backbone", default="lite_medsam", help="the SAM")
    parser.add_argument("--checkpoint", help="weights to start from; without it, those of the backbone's name")
    parser.add_argument("--image-size", type=int, default=96, help="side of a slice in pixels")
    parser.add_argument("--steps", type=int, default=16, help="of a training with boxes")
    parser.add_argument("--few-steps", type=int, default=80, help="of a training in (c)")
    parser.add_argument("--batch-size", type=int, default=2, help="structures, in (c) slices, a step")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="processor threads")
    parser.add_argument("--page", type=Path, help="Markdown page between whose comments the table goes")
    options = parser.parse_args()
    if options.table_of:
        rows = [row for folder in options.table_of for row in read(folder / "scores.csv")]
    else:
        rows = train_all(options)
    print(table(rows))
    if options.page:
        into_page(options.page, table(rows))


def train_all(options: argparse.Namespace) -> list[dict[str, str]]:
    """Train what is missing; the rows of all trainings."""
    if "MEDSAM_ADAPT_REAL_DATA" not in os.environ:
        raise SystemExit("MEDSAM_ADAPT_REAL_DATA: it names no folder. Set it to the folder of the data sets.")
    if options.checkpoint is None:
        options.checkpoint = next((name for name, each in WEIGHTS.items() if each.backbone == options.backbone), None)
    torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    scores = options.output / "scores.csv"
    rows = read(scores)
    done = {(row["data"], row["arm"], row["slices"], row["seed"]) for row in rows}
    for seed in range(options.seeds):
        for name in options.sets:
            planned = trainings(options.claims, name, seed)
            missing = [(arm, slices) for arm, slices in planned if (name, arm, str(slices), str(seed)) not in done]
            if not missing:
                continue
            source = real_set(options.output / name, Path(os.environ["MEDSAM_ADAPT_REAL_DATA"]), name, seed)
            for arm, slices in missing:
                begun = time.monotonic()
                data = few_slices(source, slices, options.output / "few") if slices else source
                found, trained = fine_tune(data, options.output / "run", arm, seed, options)
                counts = (str(trained["encoder"]), str(trained["total"]), f"{time.monotonic() - begun:.0f}")
                for scored_on, dsc in found.items():
                    key = (name, arm, str(slices), str(seed), scored_on)
                    rows.append(dict(zip(COLUMNS, (*key, f"{dsc:.4f}", *counts), strict=True)))
                    print(rows[-1], flush=True)
                write(scores, rows)
    return rows


def read(path: Path) -> list[dict[str, str]]:
    """The rows of earlier trainings."""
    return list(csv.DictReader(path.open(encoding="utf-8"))) if path.is_file() else []


def write(path: Path, rows: list[dict[str, str]]) -> None:
    """All rows so far, whole or not at all."""
    with written_whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
