"""Fine-tune the Segment Anything Model (SAM) on 3D medical volumes; importing this package loads no torch."""

from typing import TYPE_CHECKING

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
    "workflows",
)
_FUNCTIONS = {
    "compare": "workflows.compare",
    "evaluate": "workflows.evaluate",
    "load_run": "inference.predictor",
    "load_weights": "inference.zero_shot",
    "plan_training": "workflows.train",
    "predict": "workflows.predict",
    "suggest": "suggestion.suggest",
    "train": "workflows.train",
    "write_report": "workflows.report",
}
__getattr__ = lazy_exports(__name__, _FUNCTIONS, _MODULES)
print_errors_as_sentences()

if TYPE_CHECKING:
    from medsam_adapt.inference.predictor import load_run as load_run
    from medsam_adapt.inference.zero_shot import load_weights as load_weights
    from medsam_adapt.suggestion.suggest import suggest as suggest
    from medsam_adapt.workflows.compare import compare as compare
    from medsam_adapt.workflows.evaluate import evaluate as evaluate
    from medsam_adapt.workflows.predict import predict as predict
    from medsam_adapt.workflows.report import write_report as write_report
    from medsam_adapt.workflows.train import plan_training as plan_training
    from medsam_adapt.workflows.train import train as train
