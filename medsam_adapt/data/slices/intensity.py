"""From the scanner's numbers to the 0-255 scale: one policy, chosen at training, saved with the run, reapplied."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator

from medsam_adapt.config import Intensity
from medsam_adapt.core.errors import InputError

if TYPE_CHECKING:  # slow to import, and only tensors' own methods are used
    from torch import Tensor

# (lowest, highest) Hounsfield unit shown
CT_WINDOWS: dict[str, tuple[float, float]] = {
    "ct-abdomen": (-160.0, 240.0),
    "ct-head-neck": (-160.0, 350.0),
    "ct-brain": (0.0, 80.0),
    "ct-lung": (-1350.0, 150.0),
    "ct-mediastinum": (-125.0, 275.0),
    "ct-bone": (-450.0, 1050.0),
}
_WINDOWS = {**CT_WINDOWS, "picture": (0.0, 255.0)}  # a picture is on SAM's scale as it is
_AIR_BELOW = -150.0  # Hounsfield units: only CT stores air as numbers this low
_PERCENTILES = (0.5, 99.5)


class IntensityPolicy(BaseModel):
    """How voxels become grey levels.

    ``window``: ``low``..``high`` (in the volume's own units, Hounsfield for CT) become 0..255, clipped.
    ``percentile``: the 0.5th and 99.5th percentiles of each volume's non-zero voxels become 0 and 255.
    ``auto``: what :func:`choose_policy` chooses for each volume by itself, for weights that were trained on all kinds.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["window", "percentile", "auto"]
    low: float | None = None
    high: float | None = None
    modality: Literal["CT", "other"] = "other"

    @model_validator(mode="after")
    def _window_is_a_range(self) -> IntensityPolicy:
        if self.kind == "window" and (self.low is None or self.high is None or self.low >= self.high):
            raise ValueError("an intensity window needs low < high")
        return self

    def window_of(self, volume: np.ndarray) -> IntensityPolicy:
        """The window that this policy is for ``volume``: it gives any part of it the grey levels that the whole has."""
        if self.kind == "window":
            return self
        if self.kind == "auto":
            return choose_policy("picture" if volume.ndim == 4 else "auto", [volume]).window_of(volume)
        low, high = _percentile_range(volume)
        return self.model_copy(update={"kind": "window", "low": low, "high": high})

    def apply(self, volume: np.ndarray) -> np.ndarray:
        """Grey levels, float32 in 0..255 of the same shape."""
        low, scale = self.window_of(volume)._line
        scaled = (volume.astype(np.float32) - np.float32(low)) * np.float32(scale)
        return np.clip(scaled, 0.0, 255.0, out=scaled)

    def levels(self, voxels: Tensor) -> Tensor:
        """What :meth:`apply` gives for float32 voxels on any device; of a window alone (see :meth:`window_of`)."""
        low, scale = self._line
        return (voxels - low).mul_(scale).clamp_(0.0, 255.0)

    @property
    def _line(self) -> tuple[float, float]:
        """What a window takes from a voxel, and by what it multiplies the rest."""
        assert self.kind == "window", "window_of gives one"
        assert self.low is not None
        assert self.high is not None
        return self.low, 255.0 / (self.high - self.low)

    def warning_for(self, volume: np.ndarray, modality: str | None = None) -> str | None:
        """A sentence when a volume is of another modality than the training data; None when it is not.

        Args:
            volume: of any shape.
            modality: what the volume's header states ("CT", "MR", …), if it states one; otherwise the voxels decide.
        """
        found = kind_of(modality) if modality else looks_like(volume)
        if self.kind == "auto" or found == self.modality:
            return None
        if modality:
            trained = "CT" if self.modality == "CT" else "no CT"
            return f"its header states {modality}, while the training volumes are {trained}"
        kinds = {"CT": "a CT in Hounsfield units", "other": "no CT in Hounsfield units (an MR, or rescaled)"}
        return f"it looks like {kinds[found]}, while the training volumes look like {kinds[self.modality]}"


def looks_like(volume: np.ndarray) -> Literal["CT", "other"]:
    """Whether the numbers are Hounsfield units: at least 1 % of the voxels lie where only air in a CT does."""
    return "CT" if np.mean(volume < _AIR_BELOW) >= 0.01 else "other"


def kind_of(modality: str) -> Literal["CT", "other"]:
    """What a modality of DICOM is to a policy: only CT has Hounsfield units."""
    return "CT" if modality == "CT" else "other"


def choose_policy(name: Intensity, volumes: Iterable[np.ndarray], stated: Iterable[str | None] = ()) -> IntensityPolicy:
    """The policy called ``name``; ``auto`` takes the abdomen window for CT and percentiles for anything else.

    Args:
        name: one of :data:`medsam_adapt.config.Intensity`.
        volumes: a few training volumes whose headers state no modality, to guess it from the voxels.
        stated: the modalities that the headers of training volumes state, such as "CT" and "MR".

    Raises:
        InputError: training volumes of mixed modality under ``auto``.
    """
    headers = sorted({modality for modality in stated if modality})
    modalities = {kind_of(modality) for modality in headers} | {looks_like(volume) for volume in volumes}
    if len(modalities) > 1 and name == "auto":
        listed = f" (the headers state {', '.join(headers)})" if headers else ""
        raise InputError(
            f"--data: some training volumes are CT in Hounsfield units and others are not{listed}. Train on one "
            "modality at a time, or name a policy with --set intensity=percentile."
        )
    modality: Literal["CT", "other"] = "CT" if "CT" in modalities else "other"
    if name == "auto":
        name = "ct-abdomen" if modality == "CT" else "percentile"
    if name == "percentile":
        return IntensityPolicy(kind="percentile", modality=modality)
    low, high = _WINDOWS[name]
    return IntensityPolicy(kind="window", low=low, high=high, modality=modality)


def describe_choice(
    policy: IntensityPolicy, name: Intensity, stated: Iterable[str | None], named_by: str = "intensity"
) -> str:
    """The policy in a sentence, and why it is that one.

    Args:
        policy: what `choose_policy` gave.
        name: what it was asked for.
        stated: the modalities that the headers of the training volumes state.
        named_by: who named it, where it is not "auto".
    """
    if policy.kind == "window":
        unit = " HU" if policy.modality == "CT" else ""
        what = f"{policy.low:g} to {policy.high:g}{unit} become black to white"
    else:
        what = f"percentiles {_PERCENTILES[0]:g} to {_PERCENTILES[1]:g} of each volume become black to white"
    headers = sorted({modality for modality in stated if modality})
    if name != "auto":
        why = f"{named_by} is '{name}'"
    elif headers:
        why = f"the headers state {', '.join(headers)}"
    elif policy.modality == "CT":
        why = "the voxels look like a CT in Hounsfield units, air included"
    else:
        why = "the voxels do not look like a CT in Hounsfield units"
    return f"{what}, since {why} (--set intensity=NAME chooses another policy)."


def _percentile_range(volume: np.ndarray) -> tuple[float, float]:
    voxels = volume[volume != 0]
    if voxels.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(voxels, _PERCENTILES, overwrite_input=True)
    return float(low), float(high) if high > low else float(low) + 1.0
