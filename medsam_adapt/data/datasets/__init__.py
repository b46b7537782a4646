"""Data sets: cases, layouts, checks, splits and conversion."""

from medsam_adapt.core.lazy import lazy_exports

_MODULES = (
    "case_checks",
    "cases",
    "continuation",
    "convert",
    "dicom_conversion",
    "relabel",
    "scans",
    "splits",
    "survey",
    "unlabelled",
)
__getattr__ = lazy_exports(__name__, {}, _MODULES)
