"""From files on disk to the slices that a network trains on; modules that need no torch load none."""

from medsam_adapt.core.lazy import lazy_exports

_EXPORTS = {
    "EndlessLoader": "slices.sampling",
    "IntensityPolicy": "slices.intensity",
    "SliceDataset": "slices.sampling",
    "TrainingData": "slices.training_data",
    "find_cases": "datasets.cases",
    "mask_transforms": "slices.volume_transforms",
    "slice_loader": "slices.sampling",
    "volume_transforms": "slices.volume_transforms",
    "volumes_in": "slices.volume_transforms",
    "write_phantoms": "phantom.phantom",
}
__all__ = sorted(_EXPORTS)
_MODULES = ("datasets", "phantom", "prompts", "slices", "volumes")
__getattr__ = lazy_exports(__name__, _EXPORTS, _MODULES)
