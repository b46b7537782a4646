"""Train, predict and segment without training, as one who has installed the extra "medsam" and is offline.

    unshare --map-root-user --net PYTHON .ci/without_network.py WORK

WORK is an empty folder. Two patients of hippocampus_mr below MEDSAM_ADAPT_REAL_DATA are trained on, so briefly that the
masks are empty; a third is segmented. Prints each command with its time, and the DSC of each mask.
"""

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np

SMALL = ["--backbone", "lite_medsam", "--image-size", "64", "--epochs", "1", "--set", "max_steps=20"]
DSC_OF_BOXES = 0.7  # measured with tight boxes: 0.752


def assert_offline() -> None:
    """Stop if an address outside this machine can be reached."""
    try:
        socket.create_connection(("1.1.1.1", 443), timeout=2).close()
    except OSError:
        return
    sys.exit("There is a network. Start this script with 'unshare --map-root-user --net'.")


def make_data(work: Path) -> tuple[Path, str]:
    """Two labelled patients to train on in ``train``, one in ``new``, and its name."""
    if "MEDSAM_ADAPT_REAL_DATA" not in os.environ:
        sys.exit("MEDSAM_ADAPT_REAL_DATA: it names no folder. Set it to that of the data sets.")
    source = Path(os.environ["MEDSAM_ADAPT_REAL_DATA"]) / "hippocampus_mr"
    names = sorted(path.name for path in (source / "images").glob("*.nii.gz"))[:3]
    for target, chosen in (("train", names[:2]), ("new", names[2:])):
        for part in ("images", "labels"):
            (work / target / part).mkdir(parents=True)
            for name in chosen:
                shutil.copyfile(source / part / name, work / target / part / name)
        shutil.copyfile(source / "labels.json", work / target / "labels.json")
    return work, names[2].removesuffix(".nii.gz")


def write_boxes(label: Path, names: Path, output: Path) -> None:
    """The tight box around each structure on each axial slice."""
    voxels = np.asarray(nib.load(label).dataobj)
    prompts = []
    for number, name in json.loads(names.read_text(encoding="utf-8")).items():
        for index in np.flatnonzero((voxels == int(number)).any((0, 1))):
            inside = np.argwhere(voxels[..., index] == int(number))
            corners = [[*map(int, edge(0)), int(index)] for edge in (inside.min, inside.max)]
            prompts.append({"label": name, "box": corners})
    output.write_text(json.dumps({"units": "voxel", "prompts": prompts}), encoding="utf-8")


def dsc(mask: Path, label: Path) -> float:
    """Of all structures together."""
    drawn, reference = (np.asarray(nib.load(path).dataobj) > 0 for path in (mask, label))
    return float(2 * (drawn & reference).sum() / (drawn.sum() + reference.sum()))


def command(*words: object) -> None:
    """``medsam-adapt`` with these arguments; stop if it fails."""
    arguments = [str(word) for word in words]
    begun = time.monotonic()
    subprocess.run([sys.executable, "-m", "medsam_adapt.cli", *arguments, "--quiet"], check=True)
    print(f"{time.monotonic() - begun:6.0f} s  medsam-adapt {shlex.join(arguments)}", flush=True)


def main() -> None:
    """All commands, each in a new process."""
    assert_offline()
    data, name = make_data(Path(sys.argv[1]).resolve())
    os.chdir(data)
    image, label = (Path("new") / part / f"{name}.nii.gz" for part in ("images", "labels"))
    boxes = Path("boxes.json")
    write_boxes(label, Path("new/labels.json"), boxes)
    for run, options in (
        ("default", ["--minutes", "0.3"]),
        ("lite_lora", ["--bundle", "lora", *SMALL]),
        ("lite_detail", SMALL),
    ):
        command("train", "--data", "train", "--output", run, *options)
        command("predict", run, "-i", image, "-o", f"masks_{run}")
    command("predict", "lite_medsam", "-i", image, "--prompts", boxes, "-o", "masks_boxes")
    found = {each.name: dsc(each / f"{name}_seg.nii.gz", label) for each in sorted(Path().glob("masks_*"))}
    print("DSC", {each: round(value, 3) for each, value in found.items()})
    if found["masks_boxes"] < DSC_OF_BOXES:
        sys.exit(f"lite_medsam with tight boxes has DSC {found['masks_boxes']:.3f}, less than {DSC_OF_BOXES}.")


if __name__ == "__main__":
    main()
