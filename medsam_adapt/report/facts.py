"""Method, network, data and training of a run as rows of name and value, without paths by default."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from rich.filesize import decimal

from medsam_adapt.bundle.catalogue import read_config
from medsam_adapt.comparison.tables import duration
from medsam_adapt.config import PATH_SETTINGS
from medsam_adapt.networks.adapter_config import saved_base
from medsam_adapt.runs.record import ADAPTER_FOLDER, RunRecord, read_cost
from medsam_adapt.weights.registry import WEIGHTS
from medsam_adapt.weights.store import RANDOM

Rows = list[tuple[str, str]]
NOT_RECORDED = "not recorded"


@dataclass(frozen=True)
class Facts:
    """What the page shows about a run besides its scores.

    Attributes:
        method: its name.
        summary: one sentence about what it trains.
        references: citations of its papers.
        model: rows about the network.
        data: rows about the data set.
        training: rows about time and memory.
        settings: every setting and its value.
        versions: of the packages that affect the results.
    """

    method: str
    summary: str
    references: list[str]
    model: Rows
    data: Rows
    training: Rows
    settings: Rows
    versions: Rows


def facts_of(run: Path, record: RunRecord, keep_identifiers: bool = False) -> Facts:
    """The facts of a run's folder; with ``keep_identifiers`` also the folders of run and data set, and whole paths.

    Raises:
        InputError: the run's bundle does not exist in this version.
    """
    metadata = read_config(record.bundle, "metadata")
    otherwise = " In this run, the whole image encoder was trained as well." if record.tune_encoder else ""
    folders = [("data set folder", record.dataset_dir), ("run folder", str(run.resolve()))]
    return Facts(
        method=metadata["name"],
        summary=metadata["summary"] + otherwise,
        references=list(metadata["references"]),
        model=_model(run, record),
        data=[*_data(record), *(folders if keep_identifiers else [])],
        training=_training(run),
        settings=[(name, _setting(name, value, keep_identifiers)) for name, value in record.knobs.items()],
        versions=list(record.versions.items()),
    )


def _model(run: Path, record: RunRecord) -> Rows:
    total = record.trainable.get("total")
    parts = ", ".join(f"{part} {count:,}" for part, count in record.trainable.items() if part != "total" and count)
    adapter = record.adapter.name.rpartition(".")[2]
    settings = ", ".join(f"{name} {value}" for name, value in record.adapter.settings.items())
    prompts = {"none": "none: no click, no box", "box": "a box", "points": "points"}
    scaling = {
        "sam": "sam: 0 to 255, minus SAM's mean, divided by its standard deviation",
        "unit": "unit: each slice from 0 to 1",
    }
    return [
        ("backbone", record.backbone),
        ("started from", _start(run, record)),
        ("adapter", adapter + f" ({settings})" * bool(settings)),
        ("trained values", NOT_RECORDED if total is None else f"{total:,}" + f" ({parts})" * bool(parts)),
        ("image encoder", "trained whole" if record.tune_encoder else "frozen but for the adapter"),
        ("prompt", prompts[record.prompt] + ", and one that is learnt" * record.learn_prompt),
        (
            "slices",
            f"{'axial, coronal and sagittal' if record.three_planes else record.axis}, {record.image_size} pixels",
        ),
        *([("images of a case", record.describe_images())] if record.images else []),
        ("grey levels", record.policy.describe().replace("-", "−")),
        ("input scaling", scaling[record.input_scaling]),
    ]


def _start(run: Path, record: RunRecord) -> str:
    """The initial weights of the training."""
    if record.knobs.get("from_run"):
        return f"the run {_last_part(str(record.knobs['from_run']))}"
    chosen, sha256 = record.knobs.get("checkpoint"), saved_base(run / ADAPTER_FOLDER)
    shipped = [
        weights.name for weights in WEIGHTS.values() if weights.comes_with_pip and weights.backbone == record.backbone
    ]
    if chosen and chosen != RANDOM:
        name = _last_part(str(chosen))
    elif chosen == RANDOM or not shipped:
        name = "random weights"
    else:
        name = f"{shipped[0]}, if included in the package, otherwise random weights"
    return name + f" (SHA-256 of the tensors: {sha256[:12]}…)" * bool(sha256)


def _data(record: RunRecord) -> Rows:
    held_out = ", ".join(record.held_out) or "none: scores on training cases are optimistic"
    return [
        ("layout", record.layout),
        ("classes", ", ".join(record.class_names) + (" (may overlap)" if record.overlapping else "")),
        *([("never seen in training", ", ".join(record.absent))] if record.absent else []),
        (f"trained on ({len(record.train)})", ", ".join(record.train)),
        (f"held out ({len(record.held_out)})", held_out),
    ]


def _training(run: Path) -> Rows:
    cost = read_cost(run)
    if cost is None:
        return [("time and memory", NOT_RECORDED)]
    peak = cost.peak_memory_bytes
    memory = "tensors on the GPU" if cost.memory == "gpu" else "the whole process"
    finished = "" if cost.finished else " (training was not finished)"
    return [
        ("epochs", f"{NOT_RECORDED if cost.epochs is None else cost.epochs}{finished}"),
        ("time", NOT_RECORDED if cost.seconds is None else f"{duration(cost.seconds)}, validation included"),
        ("device", cost.device),
        ("peak memory", NOT_RECORDED if peak is None else f"{decimal(peak)} ({memory})"),
    ]


def _setting(name: str, value: Any, keep_identifiers: bool) -> str:
    """A setting as text; of a path, only the last part."""
    if value is None:
        return "–"
    if name in PATH_SETTINGS and isinstance(value, str) and not keep_identifiers:
        return _last_part(value)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _last_part(path: str) -> str:
    return PureWindowsPath(PurePosixPath(path).name).name
