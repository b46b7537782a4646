"""Which scan to label next: unlabelled scans in the order of what a run can be expected to learn from them."""

from medsam_adapt.core.lazy import lazy_exports

_MODULES = ("candidates", "features", "measures", "ranking", "suggest")
__getattr__ = lazy_exports(__name__, {}, _MODULES)
