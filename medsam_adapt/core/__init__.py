"""What everything else uses: errors, files, lazy imports, devices, several processes."""

from medsam_adapt.core.lazy import lazy_exports

__getattr__ = lazy_exports(__name__, {}, ("devices", "distributed", "literals"))
