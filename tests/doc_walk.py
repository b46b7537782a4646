"""A page of README and docs, typed line by line in a temporary folder, on tiny phantoms and with few steps.

What a page takes for granted (``FOLDER``, ``runs/liver``, ``new_scans``, …) is put there before the command that first
names it. What a command writes may be there already: a page shows what can be done, not one session.
"""

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medsam_adapt.cli.main import main
from medsam_adapt.core.errors import RunError
from medsam_adapt.core.files import write_json
from medsam_adapt.data.phantom.phantom import PHANTOM_CLASSES, make_phantom, write_phantoms
from medsam_adapt.data.volumes.io import write_label
from medsam_adapt.workflows import command

from .doc_blocks import REPOSITORY, SHELL, blocks, parse

SHAPE, CASES = (40, 36, 12), 6
TYPED = {"medsam-adapt", "python", "pip", "torchrun", "cp", "mkdir"}
FEW = ["--set", "epochs=1", "--set", "min_steps=1", "--set", "max_steps=1", "--set", "batch_size=16"]
SMALL = [*FEW, "--set", "image_size=32"]
DOWNLOADED = ("sam_vit_b", "sam_vit_l", "sam_vit_h", "medsam_vit_b")


def walk(page, folder, monkeypatch):
    """Run the commands of the page in the folder; the commands that were run.

    Blocks with a reason above them are left out, and so are commands that fetch something or need what was fetched.
    """
    monkeypatch.chdir(folder)
    monkeypatch.setattr(command, "run_command", lambda words, title, quiet=False: run_ours(words))
    for name in ("bundles", "benchmarks"):
        (folder / name).symlink_to(REPOSITORY / name)
    ran, names = [], {}
    for block in blocks(page):
        if block.not_run is not None or (block.page == "docs/add_a_method.md" and block.language == "python"):
            continue
        if block.language == "python":
            names = {**_given_names(block.text), **names}
            script = folder / "block.py"
            script.write_text(block.text, encoding="utf-8")
            names |= runpy.run_path(str(script), names)
        for words in block.commands if block.language in SHELL else ():
            if not _left_out(words):
                print(block.where, *words)
                run(words)
                ran.append(words)
    return ran


def run(words):
    """One command of a page."""
    _provide(words)
    if words[0] == "medsam-adapt":
        run_ours(_made_small(words)[1:])
        return
    if words[:2] == ["python", "-m"] and words[2] == "monai.bundle" and any("train" in word for word in words):
        few = {"epochs": "1", "image_size": "32", "min_steps": "1", "max_steps": "1"}
        words = [*words, *(part for name, value in few.items() for part in (f"--knobs#{name}", value))]
    subprocess.run([sys.executable, *words[1:]] if words[0] == "python" else words, check=True)


def run_ours(arguments):
    """A command of ours, in this process."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    if stopped.value.code:
        raise RunError(f"exit code {stopped.value.code}: medsam-adapt {' '.join(map(str, arguments))}")


def _left_out(words):
    """Whether a command fetches something, needs what was fetched or several GPUs, or is of the tests."""
    return (
        words[0] in ("pip", "torchrun")
        or "--gpus" in words
        or words[:3] == ["medsam-adapt", "weights", "download"]
        or (words[:2] == ["python", "-m"] and words[2].startswith(("pytest", "tests.")))
        or bool({*words} & {*DOWNLOADED})
    )


def _made_small(words):
    """The command with few steps, and leave to replace what an earlier one of the page wrote."""
    given = parse(words)
    more = []
    if given["name"] == "demo":
        more += ["--epochs", "1"]
    if given["name"] == "train" and not given["resume"]:
        more += FEW if given["from_run"] else SMALL
    if given["name"] == "compare" and given["bundles"]:
        more += [*SMALL, *(["--folds", "2"] if given["folds"] > 1 else []), "--seeds", "1"]
    goes_on = given.get("resume") or given.get("dry_run") or given.get("skip_existing") or given["name"] == "compare"
    if "overwrite" in given and not given["overwrite"] and not goes_on:
        more.append("--overwrite")
    return [*words, *more]


# ------------------------------------------------------------------------------------------- what a page has available


def _provide(words):
    """Put the files and folders there that the command names and nothing has written."""
    written = {words[index + 1] for index, word in enumerate(words[:-1]) if word in ("-o", "--output", "--output_dir")}
    resumed = "--resume" in words
    for word in words[1:]:
        if word.startswith("-") or (word in written and not resumed) or Path(word).exists():
            continue
        if match := re.match(r"(RUN$|runs/[\w-]+)", word):
            _run(Path(match[1]))
        elif word.startswith("hospital"):
            _hospital(Path("hospital"))
        elif maker := _MAKERS.get(word):
            maker(Path(word))
    if words[1] == "report" and not (Path(words[2]) / "metrics.json").is_file():
        run_ours(["evaluate", words[2]])


def _phantoms(folder):
    write_phantoms(folder, CASES, shape=SHAPE, orientation="RAS")


def _part_of_phantoms(part):
    def make(folder):
        if not Path("FOLDER").exists():
            _phantoms(Path("FOLDER"))
        shutil.copytree(Path("FOLDER") / part, folder)

    return make


_MAKERS = {
    **dict.fromkeys(("FOLDER", "MORE", "DIR", "DATA", "scans"), _phantoms),
    "new_scans": _part_of_phantoms("images"),
    "masks": _part_of_phantoms("labels"),
    "labels": _part_of_phantoms("labels"),
}


def _run(folder):
    """A trained run; one that is called after boxes or points was trained with them."""
    if not Path("FOLDER").exists():
        _phantoms(Path("FOLDER"))
    prompt = next((name for name in ("box", "points") if name in folder.name), "none")
    options = ["--bundle", "blosam", "--prompt", prompt, "--set", "order=first"]
    run_ours(["train", "--data", "FOLDER", "--output", folder, *options, *SMALL])


def _hospital(folder):
    """DICOM series with labels as NIfTI, a folder for each case."""
    from tests.data.dicom_files import save, series

    for index in range(4):
        phantom = make_phantom(index, shape=SHAPE, orientation="RAS")
        stored = np.clip(phantom.image + 1024, 0, 4095).astype(np.int16).T  # slices, rows, columns
        case = folder / f"case_{index + 1}"
        write_label(case / "label.nii.gz", phantom.label.astype(np.uint8), save(case / "CT", series(stored)))
    write_json(folder / "labels.json", PHANTOM_CLASSES)


def _given_names(code):
    """What a block of Python takes for granted: a scan, and the runs that it loads."""
    for name in re.findall(r'"(runs/[\w-]+)"', code):
        if not Path(name).exists() and "output_dir" not in code:
            _run(Path(name))
    return {"image": np.zeros((256, 256, 70), np.float32), "affine": np.diag([1.0, 1.0, 3.0, 1.0])}
