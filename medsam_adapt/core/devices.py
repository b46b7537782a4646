"""Which device computes: chosen by name, or for each of several processes."""

from __future__ import annotations

import os

import torch

from medsam_adapt.core.errors import InputError


def select_device(name: str = "auto") -> torch.device:
    """``auto`` is the first GPU, or the CPU without one; otherwise ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises:
        InputError: for a device that this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"--device {name}: there is no such device. Use auto, cpu, cuda, cuda:N or mps.") from error
    has = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not has.get(device.type, False) or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise InputError(f"--device {name}: this machine does not have it. Use --device auto.")
    return device


def process_device(name: str = "auto") -> torch.device:
    """The device of this process, of several that ``torchrun`` started: a GPU each, or ``cpu`` for all.

    Raises:
        InputError: there are more processes than GPUs, or another device is named.
    """
    if name not in ("auto", "cuda", "cpu"):
        raise InputError(
            f"--device {name}: each of several processes takes a GPU. Leave out --device {name}, or give --device cpu."
        )
    device, number = select_device(name), int(os.environ.get("LOCAL_RANK", "0"))
    if device.type == "cpu":
        return device
    if number >= torch.cuda.device_count():
        raise InputError(
            f"--device: this machine has {torch.cuda.device_count()} GPUs, too few for its processes. Start one for "
            "each GPU."
        )
    return torch.device("cuda", number)
