"""Fine-tune the Segment Anything Model (SAM) to 3D medical volumes; importing this package loads no torch."""

from medsam_adapt.lazy import lazy_exports

__version__ = "0.1.0"

# The bundles' configs import this package alone and reach the rest from here.
_MODULES = (
    *("bundle", "data", "distributed", "engine", "evaluation", "frozen_work"),
    *("inference", "methods", "networks", "runs"),
)
__getattr__ = lazy_exports(__name__, {"load_run": "prediction.predictor"}, _MODULES)
