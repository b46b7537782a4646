"""One of the processes that train together, started by `train_together`; it reports nothing."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medsam_adapt.core.errors import InputError, user_error
from medsam_adapt.workflows.processes import is_main_process
from medsam_adapt.workflows.reporter import SILENT, Reporter
from medsam_adapt.workflows.training_run import TrainingOrder, run_training, training_logs


def work(order: Mapping[str, Any], reporter: Reporter = SILENT) -> None:
    """One of the processes of `train_together`: train, or leave to the launcher what went wrong and exit."""
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    from medsam_adapt.bundle.settings import run_knobs
    from medsam_adapt.bundle.untrusted import base_bundle

    threading.Thread(target=_end_with, args=[os.getppid()], daemon=True).start()
    folders = {name: Path(order[name]) for name in ("data", "output")}
    try:
        knobs = run_knobs(base_bundle(order["bundle"]), **order["knobs"])
        reporter = reporter if is_main_process() else SILENT
        with training_logs(reporter):
            run_training(TrainingOrder(**{**order, **folders, "knobs": knobs}), reporter)
    except Exception as error:
        explained = user_error(error)
        if explained is None:  # possibly caused by the failure of another process, which the launcher reports first
            time.sleep(5)
        get_error_handler().record_exception(explained or error)
        sys.exit(2 if isinstance(explained, InputError) else 1)


def _end_with(launcher: int) -> None:
    """End this process, as a scheduler would, when the launcher is no more."""
    while os.getppid() == launcher:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    work(json.loads(sys.argv[1]))
