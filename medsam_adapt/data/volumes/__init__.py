"""Volumes and labels on disk: formats, geometry, and how numbers in label files become classes."""

from medsam_adapt.core.lazy import lazy_exports

_MODULES = ("archives", "dicom_labels", "image_set", "io", "label_coding", "monai_reader", "same_grid")
__getattr__ = lazy_exports(__name__, {}, _MODULES)
