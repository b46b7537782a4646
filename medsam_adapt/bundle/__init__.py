"""Bundles: found and listed as plain data, their settings merged and checked, and run through MONAI's workflow."""

from medsam_adapt.core.lazy import lazy_exports

_MODULES = ("catalogue", "contents", "settings", "untrusted", "zoo_rules")
__getattr__ = lazy_exports(__name__, {}, _MODULES)
