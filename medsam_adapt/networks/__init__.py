"""SAM backbones, the segmenter around them, and the protocol of the adapters that tune them."""

from medsam_adapt.core.lazy import defer_package, lazy_exports

_EXPORTS = {
    "Adapter": "adapter",
    "DecoderOnly": "adapter",
    "Prediction": "segmenter",
    "Segmenter": "segmenter",
    "attach_adapter": "parameters",
    "branch_and_sam": "build",
    "build_sam": "sam",
    "build_segmenter": "build",
    "build_teacher": "build",
    "count_trainable": "parameters",
    "load_adapter": "parameters",
    "model_weights": "build",
    "prompt_embedding": "build",
    "save_adapter": "parameters",
    "trainable_tensors": "parameters",
}
__all__ = sorted(_EXPORTS)
__getattr__ = lazy_exports(__name__, _EXPORTS)
defer_package("segment_anything")
