"""The rules from a scanner's numbers to grey levels: their names, and how a setting writes them.

Checked when the settings are, before numpy and torch are imported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from medsam_adapt.core.text import counted, did_you_mean

# (lowest, highest) Hounsfield unit shown
CT_WINDOWS: dict[str, tuple[float, float]] = {
    "ct-abdomen": (-160.0, 240.0),
    "ct-head-neck": (-160.0, 350.0),
    "ct-brain": (0.0, 80.0),
    "ct-lung": (-1350.0, 150.0),
    "ct-mediastinum": (-125.0, 275.0),
    "ct-bone": (-450.0, 1050.0),
}
ADC_RANGE = (0.0, 3000.0)  # 1e-6 mm²/s: free water at body temperature is about 3000
PET_RANGE = (0.0, 10.0)  # SUV by body weight
PICTURE_RANGE = (0.0, 255.0)  # a picture is on SAM's scale as it is
PERCENTILES = (0.5, 99.5)
NAMES = ("auto", "percentile", "picture", *CT_WINDOWS, "mr", "adc", "pet")
_COLOURS = "ct-windows:"
_FORMS = (
    f"{', '.join(NAMES)}, LOW:HIGH in the volume's units as in -100:300, percentile:LOW:HIGH as in percentile:1:99, "
    "pet:LOW:HIGH in SUV, or three CT windows as the colours, ct-windows:abdomen,lung,bone"
)


@dataclass(frozen=True)
class IntensityRule:
    """One rule.

    Attributes:
        kind: ``window``: low..high become black to white; ``percentile``: these percentiles of each volume do;
            ``windows``: three windows are the three colours; ``auto``: chosen from the training volumes.
        low, high: of a window in the volume's units, or percentiles from 0 to 100.
        windows: of the three colours.
        modality: what the rule is for, where its name states it: "CT", "MR", "ADC" or "PT".
    """

    kind: Literal["auto", "window", "percentile", "windows"]
    low: float | None = None
    high: float | None = None
    windows: tuple[tuple[float, float], ...] = ()
    modality: str | None = None


def parse_rule(text: str) -> IntensityRule:
    """The rule that a setting names.

    Raises:
        ValueError: there is none of that name, or its numbers are no range.
    """
    if text == "auto":
        return IntensityRule("auto")
    if text in CT_WINDOWS:
        return IntensityRule("window", *CT_WINDOWS[text], modality="CT")
    plain = {
        "percentile": IntensityRule("percentile", *PERCENTILES),
        "mr": IntensityRule("percentile", *PERCENTILES, modality="MR"),
        "adc": IntensityRule("window", *ADC_RANGE, modality="ADC"),
        "pet": IntensityRule("window", *PET_RANGE, modality="PT"),
        "picture": IntensityRule("window", *PICTURE_RANGE),
    }
    if text in plain:
        return plain[text]
    if text.startswith(_COLOURS):
        return _colours(text)
    name, _, numbers = text.partition(":")
    if name in ("percentile", "pet", "mr"):
        low, high = _range(text, numbers)
        if name == "pet":
            return IntensityRule("window", low, high, modality="PT")
        if not 0 <= low < high <= 100:
            raise ValueError(f"'{text}' gives no percentiles; write two from 0 to 100, as in percentile:1:99")
        return IntensityRule("percentile", low, high, modality="MR" if name == "mr" else None)
    if text.count(":") == 1:
        return IntensityRule("window", *_range(text, text))
    raise ValueError(f"there is no rule '{text}'.{did_you_mean(text, NAMES)} Use {_FORMS}")


def rule_names(setting: str | Sequence[str]) -> list[str]:
    """The rules of a setting, one for all images of a case or one for each: "adc,percentile" or a list.

    The windows of ``ct-windows`` are not separate rules.
    """
    if not isinstance(setting, str):
        return [str(name).strip() for name in setting]
    if setting.startswith(_COLOURS):
        return [setting.replace(" ", "")]
    return [name.strip() for name in setting.split(",")]


def checked_setting(setting: Any) -> Any:
    """``setting`` once all its rules are known, for a settings model.

    Raises:
        ValueError: as `parse_rule`; no rule or more than four; colours beside other rules.
    """
    names = rule_names(setting)
    rules = [parse_rule(name) for name in names]
    if not 1 <= len(rules) <= 4:
        raise ValueError(
            f"{counted(len(rules), 'rule')} are given; give one, or one for each image of a case, up to four"
        )
    if len(rules) > 1 and any(rule.kind == "windows" for rule in rules):
        raise ValueError("ct-windows fills all three colours from one image; leave out the other rules")
    return setting


def _range(text: str, numbers: str) -> tuple[float, float]:
    try:
        low, high = (float(number) for number in numbers.split(":"))
    except ValueError:
        low = high = math.nan
    if not (low < high and math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"'{text}' is no range; write LOW:HIGH with LOW below HIGH, as in -100:300")
    return low, high


def _colours(text: str) -> IntensityRule:
    names = [name.strip() for name in text.removeprefix(_COLOURS).split(",")]
    found = [CT_WINDOWS.get(f"ct-{name.removeprefix('ct-')}") for name in names]
    windows = tuple(window for window in found if window is not None)
    if len(names) != 3 or len(windows) != 3:
        known = ", ".join(name.removeprefix("ct-") for name in CT_WINDOWS)
        raise ValueError(f"'{text}' does not name three CT windows; choose three of {known}")
    return IntensityRule("windows", windows=windows, modality="CT")
