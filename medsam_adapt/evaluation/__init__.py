"""Evaluation through MONAI's engine, and pictures of its cases."""

from medsam_adapt.core.lazy import lazy_exports

_MODULES = ("evaluator", "pictures")
__getattr__ = lazy_exports(__name__, {}, _MODULES)
