"""Faster layers for SAM; `install` puts them in, and the package works, slower, without this folder."""

from medsam_adapt.core.lazy import defer_package, lazy_exports

_EXPORTS = {"install": "blocks"}
_MODULES = (
    "attention",
    "attention_fused",
    "attention_tiles",
    "attention_triton",
    "attention_windows",
    "blocks",
    "conv_bands",
    "feed_forward",
    "gelu_gradients",
    "mask_decoder",
    "onednn",
    "patches",
    "self_test",
)
__all__ = sorted(_EXPORTS)
__getattr__ = lazy_exports(__name__, _EXPORTS, _MODULES)
defer_package("segment_anything")
