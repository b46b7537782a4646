"""All that makes networks faster or smaller; the package works, slower, without it."""

from medsam_adapt.core.lazy import lazy_exports

_MODULES = (
    "attention",
    "attention_fused",
    "attention_tiles",
    "attention_triton",
    "attention_windows",
    "blocks",
    "feed_forward",
    "gelu_gradients",
    "linear_onednn",
    "low_rank",
    "norm_triton",
    "patches",
    "self_test",
    "step_graph",
    "token_norm",
)
__getattr__ = lazy_exports(__name__, {}, _MODULES)
