"""Publishing adapters as repositories, and making runs from such repositories."""

from medsam_adapt.core.lazy import lazy_exports

_MODULES = ("model_card", "places", "repository")
__getattr__ = lazy_exports(__name__, {}, _MODULES)
