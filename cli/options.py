"""Options that several commands share: a parameter annotated with one of these has its help and its checks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Json = Annotated[bool, typer.Option("--json", help="Print only JSON.")]
RunFolder = Annotated[Path, typer.Argument(help="Folder of a finished run.", show_default=False)]
Part = Annotated[
    str | None,
    typer.Option(help="K/N: only part K of N of the cases.", show_default="that of torchrun or SLURM, else all"),
]
Cluster = Annotated[
    str | None, typer.Option(help="Dask scheduler (tcp://HOST:PORT), or local:N for N workers on this machine.")
]
Series = Annotated[
    str | None,
    typer.Option(
        help="A DICOM series' number, UID or description, where a folder has several; 3:EchoTime=30 selects one volume "
        "of a series.",
        show_default=False,
    ),
]

# Of a training, for commands that train.
Data = Annotated[Path | None, typer.Option(help="Folder of the labelled volumes.", show_default=False)]
Backbone = Annotated[
    str | None, typer.Option(help="auto, vit_nano, vit_b, lite_medsam, sam2_hiera_tiny, …; see docs/backbones.md.")
]
Checkpoint = Annotated[str | None, typer.Option(help="Name from 'weights list', a file, or random.")]
ImageSize = Annotated[
    int | None, typer.Option(help="Side of a slice in pixels, a multiple of 16 (32 for TinyViT and SAM 2).")
]
Epochs = Annotated[int | None, typer.Option(help="Passes over the training slices.")]
Recipe = Annotated[str, typer.Option(help="default (ours) or paper (the paper's settings).")]
Prompt = Annotated[str | None, typer.Option(help="none, box or points.")]
Precision = Annotated[str | None, typer.Option(help="fp32, bf16, or auto: bf16 on a GPU, else fp32.")]
LowMemory = Annotated[bool | None, typer.Option("--low-memory", help="Train in less memory; each step takes longer.")]
Classes = Annotated[str | None, typer.Option(help="Classes to learn, as in liver,spleen.")]
CacheDir = Annotated[Path | None, typer.Option(help="Folder of the slice cache.", show_default=False)]
Protocol = Annotated[str, typer.Option(help="default, segrap or papers; see docs/metrics.md.")]
