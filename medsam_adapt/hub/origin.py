"""What a repository states about its adapter: the base weights it belongs to, and the record of its run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from medsam_adapt.runs.record import RunRecord

_SHA256 = r"^[0-9a-f]{64}$"
LICENCE = r"^[A-Za-z0-9][A-Za-z0-9.+-]{0,60}$"


class BaseWeights(BaseModel):
    """The SAM weights that an adapter belongs to: by name where they are published, else by their file."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(None, pattern=r"^\w{1,60}$")
    file_name: str = Field(pattern=r"^[\w.+ ()-]{1,200}$")
    sha256: str = Field(pattern=_SHA256)


class Origin(BaseModel):
    """Content of ``medsam_adapt.json``: what ``run.json`` has no place for.

    Attributes:
        base: the weights to put the adapter on.
        adapter_sha256: of the file with the trained tensors.
        network_sha256: of the names, shapes and bytes of all weights together.
        licence: of the adapter, as its author stated it.
    """

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    base: BaseWeights
    adapter_sha256: str = Field(pattern=_SHA256)
    network_sha256: str = Field(pattern=_SHA256)
    licence: str | None = Field(None, pattern=LICENCE)


@dataclass(frozen=True)
class Repository:
    """A repository's description of itself, checked.

    Attributes:
        origin: which weights it belongs to.
        record: of the run.
        adapter_bytes: size of the trained tensors' file.
    """

    origin: Origin
    record: RunRecord
    adapter_bytes: int
