"""Compare the four methods and the three baselines on phantoms, through a kill, and put the table into a page.

    python benchmarks/method_comparison.py --output FOLDER [--seeds 3] [--kill] [--page docs/comparison.md]

Makes the phantoms, half of them held out, and runs ``medsam-adapt compare`` in a separate process. With ``--kill``
that process and its trainings are ended by SIGKILL in the middle of the second training, and the same command is given
again. The same command of this script continues where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pages import into_page

from medsam_adapt.comparison.tables import MARKDOWN_FILE
from medsam_adapt.data.phantom.phantom import write_phantoms
from medsam_adapt.runs.record import COST_FILE, MODEL_FILE

METHODS = ("blosam", "infosam", "samcobot", "samparser", "lora", "adaptformer", "decoder")
# Half is held out: with 21 pairs of methods, Holm's correction leaves nothing significant below ten cases.
HELD_OUT = 0.5
SHAPE = (64, 64, 24)
SEED = 700  # of the phantoms


def main() -> None:
    arguments = parse()
    data, comparison = arguments.output / "phantoms", arguments.output / "comparison"
    if not data.is_dir():
        write_phantoms(data, arguments.cases, SEED, shape=SHAPE, orientation="RAS")
    given = compare_arguments(arguments, data, comparison)
    print("$ medsam-adapt", *given, flush=True)
    command = [sys.executable, "-m", "medsam_adapt.cli", *given]
    started = time.monotonic()
    if arguments.kill:
        first, second = runs_in_order(arguments.bundles, arguments.seeds, comparison)[:2]
        kill_in_training(command, second)
        before = modified(first)
    subprocess.run(command, check=True)
    if arguments.kill:
        assert modified(first) == before, f"{first} was trained again"
        assert cost_of(second)["finished"], f"{second} was not finished"
        print(f"gone on: {first} was left as it was, {second} trained to its end")
    print(f"{(time.monotonic() - started) / 60:.1f} min on {os.cpu_count()} cores")
    if arguments.page:
        into_page(arguments.page, lowered((comparison / MARKDOWN_FILE).read_text(encoding="utf-8")))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the phantoms and the comparison")
    parser.add_argument("--bundles", default=",".join(METHODS), help="methods, as in lora,decoder")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each method")
    parser.add_argument("--cases", type=int, default=24, help="phantoms, half of which are held out")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60, help="least steps of an epoch")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--kill", action="store_true", help="end it by SIGKILL in the second training, and go on")
    parser.add_argument("--page", type=Path, help="Markdown page between whose markers the table goes")
    return parser.parse_args()


def compare_arguments(arguments: argparse.Namespace, data: Path, comparison: Path) -> list[str]:
    """What ``medsam-adapt`` gets."""
    settings = {
        "epochs": arguments.epochs,
        "min_steps": arguments.steps,
        "image_size": arguments.image_size,
        "held_out": HELD_OUT,
    }
    return [
        *("compare", "--bundles", arguments.bundles, "--data", str(data), "--output", str(comparison)),
        *("--seeds", str(arguments.seeds), "--device", arguments.device),
        *(part for name, value in settings.items() for part in ("--set", f"{name}={value}")),
    ]


def runs_in_order(bundles: str, seeds: int, comparison: Path) -> list[Path]:
    """The folders of the trainings, in the order in which they are trained."""
    return [comparison / "runs" / bundle / f"seed_{seed}" for seed in range(seeds) for bundle in bundles.split(",")]


def kill_in_training(command: Sequence[str], run: Path) -> None:
    """Run the command until the run has an epoch behind it, and then end it and its trainings, unasked."""
    process = subprocess.Popen(command, start_new_session=True)
    while not cost_of(run).get("epochs"):
        if process.poll() is not None:
            raise SystemExit(f"the command ended before {run} had an epoch: begin in a new folder.")
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    cost = cost_of(run)
    print(f"\nkilled after epoch {cost['epochs']} of {run} (finished: {cost['finished']})", flush=True)


def cost_of(run: Path) -> dict[str, int]:
    """The content of the run's ``training.json``, as far as it is there."""
    path = run / COST_FILE
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def modified(run: Path) -> int:
    """When the run's weights were written, in nanoseconds."""
    return (run / MODEL_FILE).stat().st_mtime_ns


def lowered(table: str) -> str:
    """The comparison's Markdown without its title, a level of headings lower."""
    return table.partition("\n")[2].replace("\n## ", "\n### ")


if __name__ == "__main__":
    main()
