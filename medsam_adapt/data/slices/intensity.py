"""From the scanner's numbers to the 0-255 scale: one policy, chosen at training, saved with the run, reapplied."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.intensity_rules import CT_WINDOWS as CT_WINDOWS  # found here too
from medsam_adapt.core.intensity_rules import PERCENTILES, IntensityRule, parse_rule
from medsam_adapt.core.text import counted

if TYPE_CHECKING:  # slow to import, and only tensors' own methods are used
    from torch import Tensor

_AIR_BELOW = -150.0  # Hounsfield units: only CT stores air as numbers this low
_FAT_BELOW = -30.0  # Hounsfield units: what a CT without air has
_HOUNSFIELD = 5000.0  # beyond are metal and padding of a CT at most, or another modality's numbers
_CLEARLY = 0.01  # of the voxels
_NO_SUV = 1000.0  # no tissue takes up a thousand times the mean of the body; activities in Bq/ml are larger
_AUTOMATIC = {"CT": "ct-abdomen", "ADC": "adc", "PT": "pet"}  # modality -> the rule of auto; percentiles for the rest


class IntensityPolicy(BaseModel):
    """How voxels become grey levels.

    ``window``: ``low``..``high`` (in the volume's own units, Hounsfield for CT) become 0..255, clipped.
    ``percentile``: these percentiles (0.5 and 99.5 where none are given) of each volume's non-zero voxels do.
    ``windows``: each of three ``windows`` gives one of the three colours.
    ``channels``: the images of a case, each by its own policy; what is missing (NaN) becomes black.
    ``auto``: what :func:`choose_policy` chooses for each volume by itself, for weights that were trained on all kinds.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["window", "percentile", "windows", "channels", "auto"]
    low: float | None = None
    high: float | None = None
    modality: Literal["CT", "other"] = "other"
    unit: Literal["stored", "SUV"] = "stored"
    windows: tuple[tuple[float, float], ...] = ()
    channels: tuple[IntensityPolicy, ...] = ()

    @model_validator(mode="after")
    def _is_complete(self) -> IntensityPolicy:
        if self.kind == "window" and (self.low is None or self.high is None or self.low >= self.high):
            raise ValueError("an intensity window needs low < high")
        if (self.low is None) != (self.high is None):
            raise ValueError("an intensity policy needs both of low and high, or neither")
        if self.kind == "percentile" and self.low is not None and not 0 <= self.low < (self.high or 0) <= 100:
            raise ValueError("percentiles go from 0 to 100")
        if (self.kind == "windows") != (len(self.windows) == 3) or any(low >= high for low, high in self.windows):
            raise ValueError("three windows, each with low < high, make the colours")
        if (self.kind == "channels") != bool(self.channels):
            raise ValueError("a policy of channels has one policy for each image")
        return self

    @property
    def each(self) -> tuple[IntensityPolicy, ...]:
        """The policy of each image of a case."""
        return self.channels or (self,)

    @property
    def suv(self) -> tuple[bool, ...]:
        """Of each image, whether a PET series is wanted as SUV, for `read_volume`."""
        return tuple(each.unit == "SUV" for each in self.each)

    def window_of(self, volume: np.ndarray) -> IntensityPolicy:
        """The window that this policy is for ``volume``: it gives any part of it the grey levels that the whole has.

        Raises:
            InputError: a volume of another number of images than the policy has.
        """
        if self.kind in ("window", "windows"):
            return self
        if self.kind == "channels":
            self._check_images(volume.shape)
            found = (each.window_of(volume[..., index]) for index, each in enumerate(self.channels))
            return self.model_copy(update={"channels": tuple(found)})
        if self.kind == "auto":
            return choose_policy("picture" if volume.ndim == 4 else "auto", [volume]).window_of(volume)
        low, high = _percentile_range(volume, *self._percentiles)
        return self.model_copy(update={"kind": "window", "low": low, "high": high})

    def apply(self, volume: np.ndarray) -> np.ndarray:
        """Grey levels, float32 in 0..255: of the same shape, or with the network's channels as a last axis.

        Those are the colours of ``windows``, or the images of ``channels``; two images and their mean, since a
        pretrained SAM knows grey pictures, all three colours alike, and so sees one wherever the two agree.
        """
        window = self.window_of(volume)
        if window.kind == "windows":
            return np.stack([_scaled(volume, *line) for line in window._lines], axis=-1)
        if window.kind == "channels":
            levels = [_scaled(volume[..., i], *each._lines[0]) for i, each in enumerate(window.channels)]
            levels = [np.nan_to_num(level, copy=False) for level in levels]
            return np.stack(levels if len(levels) != 2 else [*levels, (levels[0] + levels[1]) / 2], axis=-1)
        return _scaled(volume, *window._lines[0])

    def levels(self, voxels: Tensor) -> Tensor:
        """What :meth:`apply` gives for float32 voxels on any device; of a window alone (see :meth:`window_of`)."""
        if self.kind == "window":
            ((low, scale),) = self._lines
            return (voxels - low).mul_(scale).clamp_(0.0, 255.0)
        lines = [line for each in self.each for line in each._lines]
        images = [voxels] * len(lines) if self.kind == "windows" else list(voxels.unbind(-1))
        levels = voxels.new_empty(*images[0].shape, 3 if len(lines) == 2 else len(lines))
        for index, (image, (low, scale)) in enumerate(zip(images, lines, strict=True)):
            levels[..., index] = (image - low).mul_(scale).clamp_(0.0, 255.0).nan_to_num_(0.0)
        if len(lines) == 2:
            levels[..., 2] = levels[..., :2].mean(dim=-1)
        return levels

    @property
    def _lines(self) -> list[tuple[float, float]]:
        """What each window takes from a voxel, and by what it multiplies the rest."""
        windows = self.windows or ((self.low, self.high),)
        return [(low, 255.0 / (high - low)) for low, high in windows if low is not None and high is not None]

    @property
    def _percentiles(self) -> tuple[float, float]:
        return PERCENTILES if self.low is None or self.high is None else (self.low, self.high)

    def _check_images(self, shape: Sequence[int]) -> None:
        count = shape[-1] if len(shape) in (2, 4) else 1  # (voxels, images) of a structure, or of a volume
        if count != len(self.channels):
            raise InputError(
                f"images: the volume has {counted(count, 'image')} per voxel and the run takes "
                f"{len(self.channels)} together. Give all images of a case."
            )

    def warning_for(self, volume: np.ndarray, modality: str | Sequence[str | None] | None = None) -> str | None:
        """A sentence when a volume is of another modality than the training data; None when it is not.

        Args:
            volume: of any shape; its last axis holds the images where the policy has several.
            modality: what the volume's header states ("CT", "MR", …), if it states one; otherwise the voxels decide.
                Of each image where there are several.
        """
        if self.kind == "channels":
            stated = modality if isinstance(modality, Sequence) and not isinstance(modality, str) else [None] * 99
            texts = [
                (number, each.warning_for(volume[..., number - 1], one))
                for number, (each, one) in enumerate(zip(self.channels, stated, strict=False), start=1)
                if not np.isnan(volume[..., number - 1]).all()
            ]
            return next((f"image {number} of the case: {text}" for number, text in texts if text), None)
        stated_one = modality if isinstance(modality, str) else None
        if self.unit == "SUV" and (largest := float(volume.max())) > _NO_SUV:
            return f"its largest value, {largest:.3g}, is no SUV; give the DICOM series, or SUV by body weight"
        found = kind_of(stated_one) if stated_one else looks_like(volume)
        if self.kind == "auto" or found == self.modality:
            return None
        if self.modality == "CT" and not stated_one and may_be_ct(volume):
            return None
        if stated_one:
            trained = "CT" if self.modality == "CT" else "no CT"
            return f"its header states {stated_one}, while the training volumes are {trained}"
        kinds = {"CT": "a CT in Hounsfield units", "other": "no CT in Hounsfield units (an MR, or rescaled)"}
        return f"it looks like {kinds[found]}, while the training volumes look like {kinds[self.modality]}"

    def describe(self) -> str:
        """What becomes black and white, as the beginning of a sentence."""
        unit = " SUV" if self.unit == "SUV" else " HU" if self.modality == "CT" else ""
        if self.kind == "window":
            return f"{self.low:g} to {self.high:g}{unit} become black to white"
        if self.kind == "windows":
            listed = [f"{low:g} to {high:g}" for low, high in self.windows]
            return f"{', '.join(listed[:-1])} and {listed[-1]}{unit} become the three colours"
        if self.kind == "channels":
            return "; ".join(f"image {number}: {each.describe()}" for number, each in enumerate(self.channels, start=1))
        low, high = self._percentiles
        return f"percentiles {low:g} to {high:g} of each volume become black to white"


def looks_like(volume: np.ndarray) -> Literal["CT", "other"]:
    """Whether the numbers are Hounsfield units: at least 1 % of the voxels lie where only air in a CT does.

    Less than 1 % is brighter than all but metal: an MR of large numbers, some of them negative, is no CT.
    """
    is_air = (volume < _AIR_BELOW) & (volume > -_HOUNSFIELD)
    return "CT" if _share(is_air) >= _CLEARLY and _share(volume > _HOUNSFIELD) < _CLEARLY else "other"


def may_be_ct(volume: np.ndarray) -> bool:
    """Whether the numbers may be Hounsfield units of a volume that was cut out of a body, without any air."""
    return _share(volume < _FAT_BELOW) >= _CLEARLY and _share(volume > _HOUNSFIELD) < _CLEARLY


def _share(voxels: np.ndarray) -> float:
    return float(np.count_nonzero(voxels) / voxels.size)


def kind_of(modality: str) -> Literal["CT", "other"]:
    """What a modality of DICOM is to a policy: only CT has Hounsfield units."""
    return "CT" if modality == "CT" else "other"


def choose_policy(name: str, volumes: Iterable[np.ndarray], stated: Iterable[str | None] = ()) -> IntensityPolicy:
    """The policy of the rule called ``name``.

    ``auto`` takes the abdomen window for CT, the rules ``adc`` and ``pet`` where all headers state these, and
    percentiles for anything else.

    Args:
        name: a rule of `medsam_adapt.core.intensity_rules`.
        volumes: a few training volumes whose headers state no modality, to guess it from the voxels.
        stated: the modalities that the headers of training volumes state, such as "CT" and "MR".

    Raises:
        InputError: training volumes of mixed modality under ``auto``.
    """
    headers = sorted({modality for modality in stated if modality})
    found = [(looks_like(volume), may_be_ct(volume)) for volume in volumes]
    looks = {kind for kind, _ in found}
    if "CT" in looks | {kind_of(modality) for modality in headers}:
        looks = {"CT" if may_be else kind for kind, may_be in found}
    modalities = {kind_of(modality) for modality in headers} | looks
    if len(modalities) > 1 and name == "auto":
        listed = f" (the headers state {', '.join(headers)})" if headers else ""
        raise InputError(
            f"--data: some training volumes are CT in Hounsfield units and others are not{listed}. Train on one "
            "modality at a time, or name a policy with --set intensity=percentile."
        )
    modality: Literal["CT", "other"] = "CT" if "CT" in modalities else "other"
    if name == "auto":
        only = headers[0] if len(headers) == 1 and not looks else "CT" if modality == "CT" else ""
        name = _AUTOMATIC.get(only, "percentile")
    return _policy_of(parse_rule(name), modality)


def _policy_of(rule: IntensityRule, modality: Literal["CT", "other"]) -> IntensityPolicy:
    if rule.kind == "windows":
        return IntensityPolicy(kind="windows", windows=rule.windows, modality=modality)
    if rule.kind == "percentile" and (rule.low, rule.high) == PERCENTILES:
        return IntensityPolicy(kind="percentile", modality=modality)
    kind: Literal["window", "percentile"] = "window" if rule.kind == "window" else "percentile"
    unit: Literal["stored", "SUV"] = "SUV" if rule.modality == "PT" else "stored"
    return IntensityPolicy(kind=kind, low=rule.low, high=rule.high, modality=modality, unit=unit)


def describe_choice(
    policy: IntensityPolicy, name: str, stated: Iterable[str | None], named_by: str = "intensity"
) -> str:
    """The policy in a sentence, and why it is that one.

    Args:
        policy: what `choose_policy` gave.
        name: what it was asked for.
        stated: the modalities that the headers of the training volumes state.
        named_by: who named it, where it is not "auto".
    """
    headers = sorted({modality for modality in stated if modality})
    if name != "auto":
        why = f"{named_by} is '{name}'"
    elif headers:
        why = f"the headers state {', '.join(headers)}"
    elif policy.modality == "CT":
        why = "the voxels look like a CT in Hounsfield units, air included"
    else:
        why = "the voxels do not look like a CT in Hounsfield units"
    return f"{policy.describe()}, since {why} (--set intensity=NAME chooses another policy)."


def _scaled(volume: np.ndarray, low: float, scale: float) -> np.ndarray:
    scaled = (volume.astype(np.float32) - np.float32(low)) * np.float32(scale)
    return np.clip(scaled, 0.0, 255.0, out=scaled)


def _percentile_range(volume: np.ndarray, lowest: float, highest: float) -> tuple[float, float]:
    voxels = volume[volume != 0]
    if voxels.size == 0 or np.isnan(voxels[0]):  # an image that is missing is NaN everywhere
        return 0.0, 1.0
    low, high = np.percentile(voxels, (lowest, highest), overwrite_input=True)
    return float(low), float(high) if high > low else float(low) + 1.0
