"""The settings of the shipped bundles, checked."""

from __future__ import annotations

from functools import cache
from typing import Any

from medsam_adapt.bundle.contents import bundle_folder, complete_configs
from medsam_adapt.config import Knobs, check_knobs, extended_knobs


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
    return check_knobs(knobs_model(bundle), values, f"bundle {bundle}")
