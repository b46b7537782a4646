"""Whether a run's folder can be gone on with, and by what: what must be as it was, and what may be there by a kill."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import remove_leftovers
from medsam_adapt.core.folder_lock import LOCK_FILE
from medsam_adapt.runs.record import (
    ADAPTER_FOLDER,
    COST_FILE,
    LOG_FOLDER,
    MODEL_FILE,
    PREVIOUS_STATE_FILE,
    RUN_FILE,
    SPLIT_FILE,
    STATE_FILE,
    RunRecord,
    read_run,
)
from medsam_adapt.runs.statistics import STATISTICS_FILE

_CHECKPOINT = (STATE_FILE, PREVIOUS_STATE_FILE, COST_FILE)
_REST = (
    *(RUN_FILE, SPLIT_FILE, STATISTICS_FILE, MODEL_FILE),
    *(f"{ADAPTER_FOLDER}/{name}" for name in ("adapter_model.safetensors", "adapter_config.json")),
)

# Settings of how a training is done, not of what comes out (but for rounding).
_HOW = ("num_workers", "cache_dir", "save_minutes", "low_memory", "slices_at_once", "compile", "kernels")
_RESOLVED = ("image_size", "input_scaling", "tune_encoder")
_SAME_DATA = {  # what decides a training besides its settings, in words
    "train": "training cases",
    "held_out": "held-out cases",
    "unlabelled": "scans without labels",
    "class_names": "classes",
    "label_ids": "label ids",
    "absent": "absent classes",
    "image_size": "image size",
    "overlapping": "overlap of classes",
    "policy": "intensities",
    "input_scaling": "input scaling",
    "adapter": "adapter",
    "trainable": "number of trained values",
}


def changed_setting(record: RunRecord, given: Mapping[str, Any]) -> str | None:
    """The first of the settings given that differs from the run's own, and that would change what comes out."""
    own = {**record.knobs, **{name: given[name] for name in _HOW if name in given}}
    if given.get("layout") == record.layout:
        own["layout"] = record.layout
    for name in _RESOLVED:  # None leaves it to data and weights; the configs of a run contain the resolved values
        if own.get(name) is None and name in given:
            own[name] = given[name] if given[name] in (None, getattr(record, name)) else None
    return next((name for name, value in given.items() if name in own and own[name] != value), None)


def refuse_other_record(folder: str | Path, record: RunRecord) -> None:
    """Refuse to resume a run on other data or with other settings than before.

    Raises:
        InputError: what differs.
    """
    if not (Path(folder) / RUN_FILE).is_file():
        return
    before = read_run(folder)
    if name := changed_setting(before, record.knobs):
        raise InputError(f"{folder}: it was begun with another {name}. Resume it with its own.")
    if record.processes != before.processes:
        raise InputError(f"{folder}: it was begun with --gpus {before.processes}. Resume it with as many processes.")
    for name, label in _SAME_DATA.items():
        ours, theirs = getattr(record, name), getattr(before, name)
        if ours != theirs:
            raise InputError(
                f"{folder}: it cannot be continued, since its {label} changed. Give the data that it was begun with, "
                "or train again with --overwrite."
            )
    if record.statistics is not None and (path := Path(folder) / STATISTICS_FILE).is_file():
        content = json.loads(path.read_text(encoding="utf-8"))
        if content != json.loads(json.dumps(record.statistics.model_dump())):
            raise InputError(
                f"{folder}: it cannot be continued, since images or labels of its training cases changed. Put them "
                "back, or train again with --overwrite."
            )


def has_checkpoint(folder: str | Path) -> bool:
    """Whether a training can continue from a state in this folder."""
    return any((Path(folder) / name).is_file() for name in (STATE_FILE, PREVIOUS_STATE_FILE))


def is_finished(folder: str | Path) -> bool:
    """Whether a training came to its end."""
    cost, model = Path(folder) / COST_FILE, Path(folder) / MODEL_FILE
    if not (cost.is_file() and model.is_file()):
        return False
    try:
        return bool(json.loads(cost.read_text(encoding="utf-8"))["finished"])
    except (ValueError, KeyError, TypeError):  # damaged: to go on makes it anew
        return False


def clear_run(folder: str | Path, begun: bool) -> None:
    """Remove what killed processes left half-written; where nothing is ``begun``, what an earlier training left too."""
    for name in (*_CHECKPOINT, *_REST):
        remove_leftovers(Path(folder) / name)
    if not begun:
        for name in _CHECKPOINT:
            (Path(folder) / name).unlink(missing_ok=True)


def is_false_start(folder: str | Path) -> bool:
    """Whether a folder holds nothing but what a training writes before its record, and was killed."""
    names = {path.name for path in Path(folder).iterdir()} if Path(folder).is_dir() else set()
    own = {LOG_FOLDER, "configs", "docs", "LICENSE", SPLIT_FILE, STATISTICS_FILE, LOCK_FILE}
    return LOG_FOLDER in names and all(name in own or name.startswith(".") for name in names)
