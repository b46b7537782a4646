"""From a volume to the slices that a network sees: geometry, intensity, cache, sampling, transforms."""

from medsam_adapt.core.lazy import lazy_exports

_MODULES = (
    "cache",
    "device_transfer",
    "geometry",
    "intensity",
    "sampling",
    "slice_store",
    "stored_array",
    "training_data",
    "transforms",
    "views",
)
__getattr__ = lazy_exports(__name__, {}, _MODULES)
