"""Volumes in, segmentations out: the slice loop that training, evaluation and prediction share."""

from medsam_adapt.core.lazy import lazy_exports

_MODULES = (
    "byte_maps",
    "class_scores",
    "ensemble",
    "ensemble_slices",
    "inferer",
    "predictor",
    "prompted_slices",
    "propagation",
    "run_network",
    "slice_images",
    "slice_logits",
)
__getattr__ = lazy_exports(__name__, {}, _MODULES)
