"""Annotation in the browser: a session of scans, proposals of a model, and the local server with its page."""

from medsam_adapt.core.lazy import lazy_exports

_MODULES = (
    "access",
    "clicks",
    "drawing",
    "interpolation",
    "journal",
    "label_files",
    "opening",
    "proposals",
    "server",
    "session",
)
__getattr__ = lazy_exports(__name__, {}, _MODULES)
