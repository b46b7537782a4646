"""Abdomen-like CT volumes made from a seed, for the demo, the tests and teaching."""

from medsam_adapt.core.lazy import lazy_exports

_MODULES = ("anatomy", "phantom")
__getattr__ = lazy_exports(__name__, {}, _MODULES)
