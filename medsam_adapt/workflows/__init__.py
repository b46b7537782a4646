"""What the commands do, as functions that the command line and Python programs both call; progress is passed in."""

from medsam_adapt.core.lazy import lazy_exports

_MODULES = ("compare", "demo", "evaluate", "predict", "report", "train")
__getattr__ = lazy_exports(__name__, {}, _MODULES)
