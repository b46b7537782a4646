"""What a training cost: seconds and peak memory, kept in the run's folder beside its record."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events

from medsam_adapt.core.files import write_json
from medsam_adapt.runs.record import COST_FILE

FORMAT = 1


class TrainingCost:
    """Handler of the trainer that writes ``training.json`` after every epoch.

    {"format", "seconds", "epochs", "finished", "device", "peak_memory_bytes", "memory"}: seconds of training and
    validation, without the preparation of slices, summed over interruptions (what was lost since the last checkpoint
    is not counted); the greatest memory of all parts of the training, of the ``gpu``'s tensors, or on the CPU of the
    whole ``process``.

    Args:
        folder: the run's folder.

    Attributes:
        before: the `totals` of the checkpoint that the training continues from.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / COST_FILE
        self.before: dict[str, Any] = {}

    def attach(self, engine: Any) -> None:
        """Register with the trainer, after the handlers whose work is to be counted."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)
        engine.add_event_handler(Events.COMPLETED, self._write, finished=True)

    def totals(self, engine: Any) -> dict[str, Any]:
        """Seconds and peak memory so far, for a checkpoint."""
        seconds = self.before.get("seconds", 0.0) + time.monotonic() - self.started
        memory = max(self.before.get("peak_memory_bytes", 0), peak_memory(engine.state.device))
        return {"seconds": seconds, "peak_memory_bytes": memory}

    def _start(self, engine: Any) -> None:
        self.started = time.monotonic()
        if engine.state.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(engine.state.device)

    def _write(self, engine: Any, finished: bool = False) -> None:
        device, totals = engine.state.device, self.totals(engine)
        write_json(
            self.path,
            {
                "format": FORMAT,
                "seconds": round(totals["seconds"], 3),
                "epochs": engine.state.epoch,
                "finished": finished,
                "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
                "peak_memory_bytes": totals["peak_memory_bytes"],
                "memory": "gpu" if device.type == "cuda" else "process",
            },
        )


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that tensors took on a GPU, or on the CPU the most that this process ever took."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
