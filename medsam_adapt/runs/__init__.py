"""A run's folder: its record, statistics, checkpoints, cost, and whether it can be resumed."""

from medsam_adapt.core.lazy import lazy_exports

_MODULES = ("checkpoint", "cost", "record", "resume")
__getattr__ = lazy_exports(__name__, {}, _MODULES)
