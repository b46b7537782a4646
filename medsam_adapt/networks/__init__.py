"""SAM backbones, the segmenter around them, and the adapters that tune them."""

from medsam_adapt.lazy import lazy_exports

_EXPORTS = {
    "AdaptFormer": "adaptformer",
    "AdaptFormerMLP": "adaptformer",
    "Adapter": "adapter",
    "DecoderLoRA": "lora",
    "DecoderOnly": "adapter",
    "LoRA": "lora",
    "Prediction": "segmenter",
    "Segmenter": "segmenter",
    "SeriesAdapter": "series",
    "SeriesAdapters": "series",
    "VARIANTS": "variants",
    "attach_adapter": "adapter",
    "build_sam": "sam",
    "build_segmenter": "build",
    "build_teacher": "build",
    "count_trainable": "adapter",
    "load_adapter": "adapter",
    "model_weights": "build",
    "prompt_embedding": "build",
    "save_adapter": "adapter",
    "trainable_tensors": "adapter",
}
__all__ = sorted(_EXPORTS)
__getattr__ = lazy_exports(__name__, _EXPORTS)
