"""SAM backbones, the segmenter around them, and the adapters that tune them."""

from medsam_adapt.lazy import lazy_exports

_EXPORTS = {
    "Adapter": "adapter",
    "DecoderLoRA": "lora",
    "DecoderOnly": "adapter",
    "LoRA": "lora",
    "Prediction": "segmenter",
    "Segmenter": "segmenter",
    "VARIANTS": "variants",
    "attach_adapter": "adapter",
    "build_sam": "sam",
    "count_trainable": "adapter",
    "load_adapter": "adapter",
    "save_adapter": "adapter",
    "trainable_tensors": "adapter",
}
__all__ = sorted(_EXPORTS)
__getattr__ = lazy_exports(__name__, _EXPORTS)
