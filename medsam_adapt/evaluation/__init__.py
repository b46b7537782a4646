"""Evaluation through MONAI's engine, and pictures of its cases."""

from medsam_adapt.core.lazy import lazy_exports

_MODULES = ("evaluator", "packing", "pictures", "shown_cases", "write_scores")
__getattr__ = lazy_exports(__name__, {}, _MODULES)
