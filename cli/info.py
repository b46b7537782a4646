"""``medsam-adapt info``: versions and devices, for a bug report."""

from __future__ import annotations

import platform
from typing import Any

from medsam_adapt.core.files import home

from .console import print_json, say
from .options import Json


def info(as_json: Json = False) -> None:
    """Print versions, devices and folders."""
    facts = collect()
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        say(f"{name:>18}  {', '.join(value) if isinstance(value, list) else value}")


def collect() -> dict[str, Any]:
    """The facts, by name."""
    import torch

    from medsam_adapt.core.versions import versions

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        **versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu threads": torch.get_num_threads(),
        "gpus": gpus or ["none"],
        "home": str(home()),
    }
