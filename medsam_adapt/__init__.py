"""Fine-tune the Segment Anything Model (SAM) to 3D medical volumes; importing this package loads no torch."""

from medsam_adapt.core.lazy import lazy_exports
from medsam_adapt.core.monai_door import print_errors_as_sentences

__version__ = "0.1.0"

# The bundles' configs import this package alone and reach the rest from here.
_MODULES = (
    "bundle",
    "comparison",
    "core",
    "data",
    "evaluation",
    "export",
    "feature_cache",
    "hub",
    "inference",
    "kernels",
    "methods",
    "networks",
    "outputs",
    "prediction",
    "report",
    "runs",
    "scoring",
    "suggestion",
    "training",
    "weights",
)
_FUNCTIONS = {"load_run": "inference.predictor", "load_weights": "inference.zero_shot", "suggest": "suggestion.suggest"}
__getattr__ = lazy_exports(__name__, _FUNCTIONS, _MODULES)
print_errors_as_sentences()
