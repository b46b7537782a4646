"""From files on disk to the slices that a network trains on; modules that need no torch load none."""

from medsam_adapt.lazy import lazy_exports

_EXPORTS = {
    "EndlessLoader": "sampling",
    "IntensityPolicy": "intensity",
    "SliceDataset": "sampling",
    "TrainingData": "training",
    "find_cases": "cases",
    "mask_transforms": "transforms",
    "slice_loader": "sampling",
    "volume_transforms": "transforms",
    "volumes_in": "transforms",
    "write_phantoms": "phantom",
}
__all__ = sorted(_EXPORTS)
__getattr__ = lazy_exports(__name__, _EXPORTS)
