"""The settings of the shipped bundles, checked."""

from __future__ import annotations

from functools import cache
from typing import Any, get_args

from medsam_adapt.bundle.contents import bundle_folder, complete_configs
from medsam_adapt.config import Knobs, extended_knobs
from medsam_adapt.core.setting_checks import check_settings


@cache
def knobs_model(name: str) -> type[Knobs]:
    """The settings of a shipped bundle."""
    metadata = complete_configs(bundle_folder(name))["metadata"]
    return extended_knobs(name, metadata["knobs"], metadata.get("shared_knobs", ()))


def run_knobs(bundle: str, **values: Any) -> Knobs:
    """The settings of a run as an object; ``train.json`` calls it with those that are particular to the bundle.

    Raises:
        InputError: unknown names, wrong types or values out of bounds, all at once.
    """
    model = knobs_model(bundle)
    switches = {
        name
        for name, field in model.model_fields.items()
        if field.annotation is bool or {bool, True} & {*get_args(field.annotation)}
    }
    words = {"true": True, "false": False, "True": True, "False": False}  # text, as MONAI's command hands them on
    values = {
        name: words.get(value, value) if name in switches and isinstance(value, str) else value
        for name, value in values.items()
    }
    return check_settings(model, values, f"bundle {bundle}")
