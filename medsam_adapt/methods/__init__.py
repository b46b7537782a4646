"""The four methods: their objectives and update rules, one file each."""

from medsam_adapt.lazy import lazy_exports

_EXPORTS = {
    "BiLevelUpdate": "blosam",
    "SegmentationLoss": "losses",
    "hypergradient": "blosam",
}
__all__ = sorted(_EXPORTS)
__getattr__ = lazy_exports(__name__, _EXPORTS)
