"""The methods, one file each: what they add to SAM, their update rules and objectives; and the training losses."""

from medsam_adapt.core.lazy import defer_package, lazy_exports

_EXPORTS = {
    "AdaptFormer": "adaptformer",
    "AdaptFormerMLP": "adaptformer",
    "DecoderLoRA": "lora",
    "LoRA": "lora",
    "SeriesAdapter": "series_adapter",
    "SeriesAdapters": "series_adapter",
    "BiLevelUpdate": "blosam",
    "CobotAdaptFormer": "samcobot",
    "CobotLoRA": "samcobot",
    "DistillationUpdate": "infosam",
    "InformationDistillation": "infosam",
    "Parser": "samparser",
    "SegmentationLoss": "losses",
    "StructureLoss": "losses",
    "cobot_adapter": "samcobot",
    "hypergradient": "blosam",
    "infosam_loss": "infosam",
    "parameter_groups": "samcobot",
}
__all__ = sorted(_EXPORTS)
__getattr__ = lazy_exports(__name__, _EXPORTS)
defer_package("segment_anything")
