"""Compare our training commands with nnU-Net on real patients, from few labels and in the same time.

    MEDSAM_ADAPT_REAL_DATA=FOLDER python benchmarks/real_patients.py --output FOLDER [--k 1 3 5 10] [--seeds 3]
        [--arms default lora nnunet-2d nnunet-3d_fullres] [--minutes N] [--times 1 10] [--nnunet PYTHON]
        [--sets hippocampus_mr headneck_ct abdomen_mr] [--part test] [--page docs/real_patients.md]

Each data set is split once into test, development and pool patients (`split_of`). A seed draws k training patients from
the pool. ``default`` is ``medsam-adapt train --data --output`` and nothing else; another name is a bundle. Settings may
follow either, as in ``default+planes=three``; ``+unlabelled`` gives a training the images of the pool's other patients,
without their labels. With ``--minutes`` all of ours get that option. An ``nnunet-`` arm gets as many seconds as the
``default`` arm's training took on the same patients, times each of ``--times``, and plans and preprocesses before that,
which is not counted. ``--nnunet`` names a Python with nnunetv2 2.8.1. Every finished run leaves a JSON file, and the
same command goes on where it was interrupted. After every run ``results.json`` and ``results.md`` hold what there is.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pages import into_page

from medsam_adapt.comparison.run import wilcoxon

SETS = {"hippocampus_mr": (25, 15), "headneck_ct": (16, 10), "abdomen_mr": (4, 3)}  # test, development; rest: pool
METRICS = ("dsc", "nsd", "hd95")
SPLIT_SEED = 26


def split_of(data: Path) -> dict[str, list[str]]:
    """Case ids of the ``test``, ``dev`` and ``pool`` patients of a data set of `SETS`; always the same."""
    ids = sorted(path.name.removesuffix(".nii.gz") for path in (data / "images").glob("*.nii.gz"))
    shuffled = [ids[i] for i in np.random.default_rng(SPLIT_SEED).permutation(len(ids))]
    test, dev = SETS[data.name]
    return {"test": shuffled[:test], "dev": shuffled[test : test + dev], "pool": shuffled[test + dev :]}


def training_patients(pool: Sequence[str], k: int, seed: int) -> list[str]:
    """k of the pool, drawn by a seed."""
    return [pool[i] for i in np.random.default_rng([seed, k]).permutation(len(pool))[:k]]


@dataclass(frozen=True)
class Trial:
    """One training of one arm, and its scores."""

    name: str
    k: int
    seed: int
    arm: str
    times: float
    data: Path
    output: Path

    @property
    def folder(self) -> Path:
        label = self.arm if self.times == 1 else f"{self.arm}-x{self.times:g}"
        return self.output / self.name / f"k{self.k}-s{self.seed}" / label

    @property
    def result(self) -> Path:
        return self.folder / "result.json"


def main() -> None:
    arguments = parse()
    trials = list(planned(arguments))
    for number, trial in enumerate(trials, 1):
        if not trial.result.is_file():
            print(f"{number}/{len(trials)} {trial.folder.relative_to(trial.output)}", flush=True)
            run_trial(trial, arguments)
            write_results(trials, arguments.output)
    table = write_results(trials, arguments.output)
    print(table)
    if arguments.page:
        into_page(arguments.page, table)


def write_results(trials: Sequence[Trial], folder: Path) -> str:
    """Write those that there are, and return their table."""
    results = [json.loads(trial.result.read_text(encoding="utf-8")) for trial in trials if trial.result.is_file()]
    write_json(folder / "results.json", results)
    table = as_markdown(results)
    (folder / "results.md").write_text(table, encoding="utf-8")
    return table


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of runs and results")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--k", nargs="+", type=int, default=[1, 3, 5, 10], help="numbers of training patients")
    parser.add_argument("--seeds", type=int, default=3, help="draws of the training patients")
    parser.add_argument("--arms", nargs="+", default=["default", "nnunet-2d", "nnunet-3d_fullres"])
    parser.add_argument("--minutes", type=float, help="passed to our commands; else each trains as it does by default")
    parser.add_argument("--times", nargs="+", type=float, default=[1], help="multiples of our time that nnU-Net gets")
    parser.add_argument("--nnunet", type=Path, help="a Python that has nnunetv2")
    parser.add_argument("--part", default="test", choices=["test", "dev"], help="who is scored")
    parser.add_argument("--cases", type=int, help="score only so many patients")
    parser.add_argument("--page", type=Path, help="page of docs/ that gets the table")
    arguments = parser.parse_args()
    if any(arm.startswith("nnunet") for arm in arguments.arms) and not arguments.nnunet:
        raise SystemExit("--arms: an nnunet arm needs --nnunet, the path of a Python that has nnunetv2.")
    if "MEDSAM_ADAPT_REAL_DATA" not in os.environ:
        raise SystemExit("MEDSAM_ADAPT_REAL_DATA: it names no folder. Set it to the folder of the data sets.")
    return arguments


def planned(arguments: argparse.Namespace) -> Iterator[Trial]:
    """All trials in the order in which they run: of each draw the default first, whose time nnU-Net gets."""
    root = Path(os.environ["MEDSAM_ADAPT_REAL_DATA"])
    arms = sorted(arguments.arms, key=lambda arm: (arm != "default", arm.startswith("nnunet")))
    for seed in range(arguments.seeds):
        for name in arguments.sets:
            pool = split_of(root / name)["pool"]
            for k in dict.fromkeys(min(k, len(pool)) for k in arguments.k):
                for arm in arms:
                    for times in arguments.times if arm.startswith("nnunet") else [1]:
                        yield Trial(name, k, seed, arm, times, root / name, arguments.output.resolve())


def run_trial(trial: Trial, arguments: argparse.Namespace) -> None:
    """Train, segment the patients to be scored, score them, and write the result."""
    parts = split_of(trial.data)
    train, scored = training_patients(parts["pool"], trial.k, trial.seed), parts[arguments.part][: arguments.cases]
    if trial.folder.exists():
        shutil.rmtree(trial.folder)
    folders = {part: trial.folder / part for part in ("train", "scored")}
    for part, ids in (("train", train), ("scored", scored)):
        link_cases(trial.data, ids, folders[part])
    masks = trial.folder / "masks"
    cost = (train_nnunet if trial.arm.startswith("nnunet") else train_ours)(trial, folders, masks, arguments)
    scores = trial.folder / "scores"
    # A patient whose mask is missing would not be scored: none may be.
    missing = [case for case in scored if not (masks / f"{case}.nii.gz").is_file()]
    if missing:
        raise SystemExit(f"{masks} has no mask of {missing[0]}.")
    reference = folders["scored"]
    names = ["--labels", reference / "labels.json"]
    call("evaluate", "--pred", masks, "--ref", reference / "labels", *names, "--output", scores)
    metrics = json.loads((scores / "metrics.json").read_text(encoding="utf-8"))
    result = {
        "set": trial.name,
        "k": trial.k,
        "seed": trial.seed,
        "arm": trial.folder.name,
        "patients": train,
        "part": arguments.part,
        **cost,
        "cases": metrics["cases"],
    }
    for folder in (*folders.values(), trial.folder / "others", trial.folder / "nnunet"):
        shutil.rmtree(folder, ignore_errors=True)
    write_json(trial.result, result)


def train_ours(trial: Trial, folders: Mapping[str, Path], masks: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    bundle, *settings = trial.arm.split("+")
    run, options = trial.folder / "run", [] if bundle == "default" else ["--bundle", bundle]
    options += [part for setting in settings if "=" in setting for part in ("--set", setting)]
    if "unlabelled" in settings:
        options += ["--unlabelled", str(link_unlabelled(trial))]
    if arguments.minutes:
        options += ["--minutes", str(arguments.minutes)]
    started = time.monotonic()
    call("train", "--data", folders["train"], "--output", run, *options)
    seconds = time.monotonic() - started
    call("predict", run, "-i", folders["scored"] / "images", "-o", masks)
    for mask in masks.glob("*_seg.nii.gz"):
        mask.rename(mask.with_name(mask.name.replace("_seg.nii.gz", ".nii.gz")))
    cost = json.loads((run / "training.json").read_text(encoding="utf-8"))
    (run / "state.pt").unlink(missing_ok=True)
    (run / "state.previous.pt").unlink(missing_ok=True)
    return {"seconds": seconds, "memory": cost["peak_memory_bytes"]}


def train_nnunet(
    trial: Trial, folders: Mapping[str, Path], masks: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    """nnU-Net with as many seconds as our default took on the same patients, times ``trial.times``."""
    default = trial.folder.with_name("default") / "result.json"
    if not default.is_file():
        raise SystemExit(f"{trial.arm} gets the time that 'default' took: put default among --arms.")
    seconds = trial.times * json.loads(default.read_text(encoding="utf-8"))["seconds"]
    root = trial.folder / "nnunet"
    environment = {name: str(root / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    raw = root / "nnUNet_raw" / "Dataset001_real"
    names = json.loads((trial.data / "labels.json").read_text(encoding="utf-8"))
    for folder in (raw / "imagesTr", root / "images", masks):
        folder.mkdir(parents=True)
    shutil.copytree(folders["train"] / "labels", raw / "labelsTr", symlinks=True)
    for part, target in (("train", raw / "imagesTr"), ("scored", root / "images")):
        for image in (folders[part] / "images").iterdir():
            (target / image.name.replace(".nii.gz", "_0000.nii.gz")).symlink_to(image.resolve())
    modality = "CT" if trial.name.endswith("_ct") else "MRI"
    write_json(
        raw / "dataset.json",
        {
            "channel_names": {"0": modality},
            "labels": {"background": 0, **{name: int(number) for number, name in names.items()}},
            "numTraining": trial.k,
            "file_ending": ".nii.gz",
        },
    )
    configuration = trial.arm.removeprefix("nnunet-")
    threads = str(len(os.sched_getaffinity(0)))  # all cores, unless this command was started on fewer
    environment |= {"nnUNet_n_proc_DA": threads, "OMP_NUM_THREADS": threads, "nnUNet_compile": "f"}
    environment = {**os.environ, **environment}
    prepare = [arguments.nnunet.with_name("nnUNetv2_plan_and_preprocess"), "-d", "1", "-c", configuration, "-np", "1"]
    subprocess.run([str(part) for part in prepare], check=True, env=environment, stdout=subprocess.DEVNULL)
    script = Path(__file__).with_name("nnunet_within.py")
    command = [arguments.nnunet, script, "1", configuration, seconds, root / "images", masks]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    done = subprocess.run(
        [str(part) for part in command], check=True, env=environment, stdout=subprocess.PIPE, text=True
    )
    result = next(json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"seconds"'))
    memory = 1024 * max(before, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    return {"seconds": result["seconds"], "steps": result["steps"], "loss": result["loss"], "memory": memory}


def link_cases(data: Path, ids: Sequence[str], folder: Path) -> None:
    """A data set of some cases of another, in the layout ``folder``."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
        for case in ids:
            (folder / part / f"{case}.nii.gz").symlink_to((data / part / f"{case}.nii.gz").resolve())
    shutil.copyfile(data / "labels.json", folder / "labels.json")


def link_unlabelled(trial: Trial) -> Path:
    """A folder of the images of the pool's patients that are not trained on."""
    pool = split_of(trial.data)["pool"]
    others = sorted({*pool} - {*training_patients(pool, trial.k, trial.seed)})
    link_cases(trial.data, others, trial.folder / "others")
    return trial.folder / "others" / "images"


def call(*arguments: Any) -> None:
    subprocess.run([sys.executable, "-m", "medsam_adapt.cli", *map(str, arguments)], check=True)


def write_json(path: Path, content: Any) -> None:
    """Whole or not at all, since a result that is there is not computed again."""
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    temporary.replace(path)


# ------------------------------------------------------------------------------------------------------------ tables


def patient_means(result: Mapping[str, Any], metric: str) -> dict[str, float]:
    """The mean over classes of every patient; a class that is empty in both masks is left out."""
    means = {}
    for case, content in result["cases"].items():
        values = [scores[metric] for scores in content["classes"].values() if scores.get(metric) is not None]
        means[case] = float(np.mean(values)) if values else float("nan")
    return means


def as_markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """One row for each set, number of patients and arm: means over patients, classes and seeds, and a paired test."""
    lines = [
        "| set | patients | arm | DSC | NSD | HD95, mm | p against default | min | GiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, int], dict[str, list[Mapping[str, Any]]]] = {}
    for result in results:
        groups.setdefault((result["set"], result["k"]), {}).setdefault(result["arm"], []).append(result)
    for (name, k), arms in groups.items():
        for arm, runs in arms.items():
            means = {metric: _over_seeds(runs, metric) for metric in METRICS}
            dsc, nsd, hd95 = (float(np.nanmean(list(means[metric].values()))) for metric in METRICS)
            p = (
                ""
                if arm == "default" or "default" not in arms
                else _p(means["dsc"], _over_seeds(arms["default"], "dsc"))
            )
            minutes = np.mean([run["seconds"] for run in runs]) / 60
            memory = max(run["memory"] for run in runs) / 2**30
            cells = (name, k, arm, f"{dsc:.3f}", f"{nsd:.3f}", f"{hd95:.1f}", p, f"{minutes:.1f}", f"{memory:.1f}")
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join([*lines, "", *class_lines(groups)]) + "\n"


def class_lines(groups: Mapping[tuple[str, int], Mapping[str, Sequence[Mapping[str, Any]]]]) -> list[str]:
    """DSC of every class."""
    lines = ["| set | patients | arm | DSC of each class |", "|---|---|---|---|"]
    for (name, k), arms in groups.items():
        for arm, runs in arms.items():
            values: dict[str, list[float]] = {}
            for case in (case for run in runs for case in run["cases"].values()):
                for structure, scores in case["classes"].items():
                    if scores.get("dsc") is not None:
                        values.setdefault(structure, []).append(scores["dsc"])
            cells = ", ".join(f"{structure} {np.mean(each):.3f}" for structure, each in values.items())
            lines.append(f"| {name} | {k} | {arm} | {cells} |")
    return lines


def _over_seeds(runs: Sequence[Mapping[str, Any]], metric: str) -> dict[str, float]:
    of_seeds = [patient_means(run, metric) for run in runs]
    return {case: float(np.nanmean([means[case] for means in of_seeds])) for case in of_seeds[0]}


def _p(first: Mapping[str, float], second: Mapping[str, float]) -> str:
    return f"{wilcoxon(np.array(list(first.values())), np.array([second[case] for case in first])):.3f}"


if __name__ == "__main__":
    main()
