"""Settings that a user gives, checked against a model of them, all that is wrong reported at once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from medsam_adapt.core.errors import InputError
from medsam_adapt.core.text import did_you_mean

Settings = TypeVar("Settings", bound=BaseModel)


def check_settings(model: type[Settings], values: Mapping[str, Any], where: str) -> Settings:
    """``values`` and the defaults, with their types checked, all errors reported at once.

    Args:
        model: the settings that there are.
        values: the settings wanted.
        where: what the values come from, to begin the message with.

    Raises:
        InputError: unknown names (with the nearest known one), wrong types, values out of bounds.
    """
    unknown = [name for name in values if name not in model.model_fields]
    faults = [f"there is no setting '{name}'" for name in unknown]
    checked = None
    try:
        checked = model.model_validate({name: value for name, value in values.items() if name not in unknown})
    except ValidationError as error:
        faults += [_explain(fault) for fault in error.errors()]
    if faults:
        raise InputError(f"{where}: {'; '.join(faults)}.{_known_settings(unknown, model.model_fields)}")
    assert checked is not None
    return checked


def _explain(fault: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in fault["loc"] if part != "literal") or "value"
    if fault["type"] == "value_error":  # a sentence of this package, which names the value
        return f"{name}: {fault['ctx']['error']}"
    given = "" if fault["type"] == "missing" else f" (given {fault['input']!r})"
    return f"{name}: {fault['msg'][:1].lower()}{fault['msg'][1:]}{given}"


def _known_settings(unknown: Sequence[str], known: Collection[str]) -> str:
    """The nearest setting of each unknown one; all settings where one is near to none."""
    hints = [did_you_mean(name, known) for name in unknown]
    return "".join(dict.fromkeys(hints)) + ("" if all(hints) else f" Choose from {', '.join(known)}.")
