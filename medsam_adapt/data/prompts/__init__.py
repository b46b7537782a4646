"""Prompts: simulated from labels, read from files, and placed on slices."""

from medsam_adapt.core.lazy import lazy_exports

_MODULES = ("file", "placement", "simulated")
__getattr__ = lazy_exports(__name__, {}, _MODULES)
