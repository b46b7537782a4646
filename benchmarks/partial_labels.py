"""What partial labels cost: one class erased from half of the training patients, with and without saying so.

    python benchmarks/partial_labels.py headneck_ct --class "left parotid" --output WORK --seeds 3

Trained on (1) all labels, (2) half of the patients with all labels, (3) all patients, the class erased from the other
half, declared in labels.json, and (4) the same, not declared, so that background is trained where the class is. The
command prints the DSC of the class, and the mean of the others, on the development patients of `real_patients.py`,
whose data folder is that which MEDSAM_ADAPT_REAL_DATA names. An arm that is finished leaves its scores in WORK, and the
same command continues where it was interrupted. `--option` names settings of all trainings.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from real_patients import split_of

ARMS = ("all labels", "half of the patients", "declared", "not declared")


def main() -> None:
    """Train and score all arms with each seed, and print the DSC."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set")
    parser.add_argument("--class", dest="erased", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--option", nargs="+", default=[], metavar="NAME=VALUE", help="settings of each training")
    arguments = parser.parse_args()
    source = Path(os.environ["MEDSAM_ADAPT_REAL_DATA"]) / arguments.set
    for seed in range(arguments.seeds):
        for arm in arguments.arms:
            result = folder_of(arm, seed, arguments) / "dsc.json"
            if not result.is_file():
                result.write_text(json.dumps(run_arm(source, arm, seed, arguments)))
            dsc = json.loads(result.read_text())
            others = np.mean([value for name, value in dsc.items() if name != arguments.erased])
            print(
                f"seed {seed}, {arm}: {arguments.erased} {dsc[arguments.erased]:.3f}, others {others:.3f}", flush=True
            )


def folder_of(arm: str, seed: int, arguments: argparse.Namespace) -> Path:
    """Where an arm is trained; another one for another class, other epochs or settings."""
    how = "_".join([arguments.erased, str(arguments.epochs), *arguments.option])
    folder: Path = arguments.output / re.sub(r"[^\w=.]+", "_", how) / f"seed_{seed}" / arm.replace(" ", "_")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run_arm(source: Path, arm: str, seed: int, arguments: argparse.Namespace) -> dict[str, float]:
    """The DSC of each class on the development patients."""
    root = folder_of(arm, seed, arguments)
    data, test, run = root / "train", root / "dev", root / "run"
    parts = split_of(source)
    pool, dev = parts["pool"], parts["dev"]
    order = [str(case) for case in np.random.default_rng(seed).permutation(pool)]
    erased = set(order[: len(order) // 2])
    kept = [case for case in order if case not in erased] if arm == "half of the patients" else order
    names = json.loads((source / "labels.json").read_text())
    number = next(int(key) for key, name in names.items() if name == arguments.erased)
    copy(source, data, kept, number if arm in ("declared", "not declared") else None, erased)
    copy(source, test, dev, None, set())
    others = [name for name in names.values() if name != arguments.erased]
    declared = {"annotated": dict.fromkeys(sorted(erased), others)} if arm == "declared" else {}
    (data / "labels.json").write_text(json.dumps({**names, **declared}))
    settings = ["--epochs", arguments.epochs, "--seed", seed, "--device", "cpu", "--overwrite"]
    settings += ["--set", "held_out=0", "--set", f"cache_dir={arguments.output / 'cache'}"]
    settings += [word for option in arguments.option for word in ("--set", option)]
    for command in (
        ["train", "--data", data, "--output", run, *settings],
        ["evaluate", run, "--data", test, "--output", root / "scores", "--device", "cpu", "--overwrite"],
    ):
        subprocess.run([sys.executable, "-m", "medsam_adapt.cli", *map(str, command), "--quiet"], check=True)
    classes = json.loads((root / "scores/metrics.json").read_text())["classes"]
    return {name: row["dsc"] for name, row in classes.items()}


def copy(source: Path, target: Path, cases: list[str], number: int | None, erased: set[str]) -> None:
    """The cases in layout `folder`, a class number erased from some of them."""
    shutil.rmtree(target, ignore_errors=True)
    for part in ("images", "labels"):
        (target / part).mkdir(parents=True)
    shutil.copy(source / "labels.json", target / "labels.json")
    for case in cases:
        (target / f"images/{case}.nii.gz").symlink_to((source / f"images/{case}.nii.gz").resolve())
        label = nib.load(source / f"labels/{case}.nii.gz")
        voxels = np.asarray(label.dataobj)
        if number is not None and case in erased:
            voxels = np.where(voxels == number, 0, voxels).astype(voxels.dtype)
        nib.save(nib.Nifti1Image(voxels, label.affine, label.header), target / f"labels/{case}.nii.gz")


if __name__ == "__main__":
    main()
