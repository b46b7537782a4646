"""``medsam-adapt export``: a run's network as TorchScript or ONNX, for programs without medsam-adapt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medsam_adapt.export.exporter import export_run

from .console import say
from .options import Overwrite, RunFolder


def export(
    run: RunFolder,
    to: Annotated[str, typer.Option("--to", help="torchscript or onnx.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file; without it, RUN/models/model.ts or .onnx.", show_default=False),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Export a run's network, slices in and logits out, and check it against the run; see docs/export.md."""
    exported = export_run(run, to, output, overwrite)
    agreement = exported.agreement
    on = "random slices and a real one" if agreement.real else "random slices; the run's data are no longer there"
    say(f"Checked on {on}:")
    say(
        f"greatest difference {agreement.difference:.1e} of the largest logit, "
        f"same class in {agreement.agreeing:.4%} of the pixels"
    )
    say(f"Written: {exported.path}, {exported.description}")
