"""``adapter_config.json``: what an adapter is and which weights it belongs to; reading it loads no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from medsam_adapt.config import InputScaling
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import read_record

CONFIG_FILE = "adapter_config.json"


class AdapterConfig(BaseModel):
    """What ``adapter_config.json`` holds, as far as it is read; the class that it names is compared, never imported."""

    adapter: str
    settings: dict[str, Any]
    base_sha256: str
    input_scaling: InputScaling = "sam"


def read_adapter_config(folder: Path) -> AdapterConfig:
    """The checked ``adapter_config.json`` of ``folder``.

    Raises:
        InputError: it is missing or damaged.
    """
    return read_record(folder / CONFIG_FILE, AdapterConfig, "Copy the whole folder of the adapter again.")


def saved_base(folder: str | Path) -> str:
    """SHA-256 of the SAM weights that the adapter in ``folder`` was trained on; empty when that cannot be read."""
    try:
        return read_adapter_config(Path(folder)).base_sha256
    except InputError:
        return ""
