"""Adapters as repositories that can be published, and such repositories as runs again."""

from medsam_adapt.core.lazy import lazy_exports

_MODULES = ("model_card", "places", "repository")
__getattr__ = lazy_exports(__name__, {}, _MODULES)
