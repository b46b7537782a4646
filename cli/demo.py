"""``medsam-adapt demo``: the whole path on synthetic scans, in a few minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medsam_adapt.core.text import counted
from medsam_adapt.workflows.demo import demo as workflow

from .console import say
from .options import Device, Overwrite
from .reporter import TERMINAL


def demo(
    output: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("medsam-adapt-demo"),
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training slices.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the scans and of the training.")] = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Make synthetic CT scans, train on most of them, score the model on the rest, and segment one."""
    done = workflow(output, epochs=epochs, seed=seed, device=device, overwrite=overwrite, reporter=TERMINAL)
    say(
        f"\nMean DSC on {counted(len(done.held_out), 'scan')} that it did not train on: "
        f"{done.mean_dsc:.3f} (seed {seed}); nearest mean intensity scores {done.baseline_dsc:.3f} on them.\n"
        f"{done.seconds:.0f} s. Results in {output}: run/ (the model), run/pictures/ (best, median and "
        f"worst case), run/metrics.csv, {done.mask.relative_to(output)}\n"
        f"Next, with your own scans: medsam-adapt train --data FOLDER --output runs/mine"
    )
