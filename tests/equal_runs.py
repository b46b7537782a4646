"""Whether two trainings came bit by bit: weights, moments, schedules, random states, scores and logs."""

import json
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

OWN = ("logs", "cost")  # of a checkpoint: names and lengths of the process's own files, and its time


def differences(first, second):
    """What differs between two runs' folders, in words; empty for equal ones."""
    first, second = Path(first), Path(second)
    states = [load(run / "state.pt") for run in (first, second)]
    for state in states:
        for name in OWN:
            state.pop(name)
    found = list(_unequal(*states, "state.pt"))
    found += _unequal(load(first / "models/model.pt"), load(second / "models/model.pt"), "model.pt")
    adapters = [(run / "models/adapter/adapter_model.safetensors").read_bytes() for run in (first, second)]
    found += ["adapter"] * (adapters[0] != adapters[1])
    found += ["logs"] * (scalars(first) != scalars(second))
    for name in ("run.json", "splits.json", "statistics.json"):
        contents = [json.loads((run / name).read_text(encoding="utf-8")) for run in (first, second)]
        for content in contents:
            for setting in ("num_workers", "save_minutes", "cache_dir"):
                content.get("knobs", {}).pop(setting, None)
        found += [name] * (contents[0] != contents[1])
    costs = [json.loads((run / "training.json").read_text(encoding="utf-8")) for run in (first, second)]
    found += [f"training.json: {key}" for key in ("epochs", "finished") if costs[0][key] != costs[1][key]]
    return found


def load(path):
    """A file that torch saved."""
    return torch.load(path, weights_only=True)


def scalars(run):
    """Everything logged, as (name, step, value), each as often as it is in the files."""
    return sorted(
        (value.tag, event.step, value.tensor.float_val[0] if value.HasField("tensor") else value.simple_value)
        for path in (Path(run) / "logs").iterdir()
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
    )


def _unequal(one, other, where):
    """Names of the leaves that differ."""
    if isinstance(one, torch.Tensor):
        same = isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
        return [] if same else [where]
    if isinstance(one, dict):
        if not isinstance(other, dict) or one.keys() != other.keys():
            return [f"{where} (names)"]
        return [name for key in one for name in _unequal(one[key], other[key], f"{where} {key}")]
    if isinstance(one, list | tuple):
        if not isinstance(other, type(one)) or len(one) != len(other):
            return [f"{where} (length)"]
        return [name for pair in enumerate(zip(one, other, strict=True)) for name in _unequal(*pair[1], where)]
    return [] if one == other else [where]
