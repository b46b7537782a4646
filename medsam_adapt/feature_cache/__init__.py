"""Features of frozen layers, computed once and kept."""

from medsam_adapt.core.lazy import lazy_exports

_MODULES = ("frozen_work", "store")
__getattr__ = lazy_exports(__name__, {}, _MODULES)
