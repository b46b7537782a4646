"""The one switch of medsam_adapt.kernels: whether networks get faster layers, or segment-anything's own.

The rest of the package imports nothing from medsam_adapt.kernels: networks ask :func:`accelerated`, and run with plain
modules, slower, where the switch is off or the folder is not there.
"""

from __future__ import annotations

import importlib
import os
from typing import TypeVar

VARIABLE = "MEDSAM_ADAPT_KERNELS"
Network = TypeVar("Network")


def accelerated(network: Network, wanted: bool = True) -> Network:
    """``network`` with the faster layers of medsam_adapt.kernels instead of its layers; names and weights stay.

    Args:
        network: SAM's image encoder or mask decoder, changed in place.
        wanted: the setting ``kernels``. The environment variable MEDSAM_ADAPT_KERNELS=0 switches them off as well.
    """
    if not wanted or os.environ.get(VARIABLE) == "0":
        return network
    try:
        kernels = importlib.import_module("medsam_adapt.kernels")
    except ModuleNotFoundError as error:
        if error.name != "medsam_adapt.kernels":
            raise
        return network
    kernels.install(network)
    return network
