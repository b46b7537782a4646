"""A run's network for other programs: TorchScript and ONNX."""

from medsam_adapt.core.lazy import lazy_exports

_MODULES = ("check", "exporter", "portable")
__getattr__ = lazy_exports(__name__, {}, _MODULES)
