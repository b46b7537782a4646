"""What can propose masks: a run, or pretrained weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medsam_adapt.annotation.drawing import Author
from medsam_adapt.config import Axis
from medsam_adapt.core.errors import InputError
from medsam_adapt.inference.predictor import Predictor, load_run
from medsam_adapt.inference.zero_shot import load_weights, names_weights
from medsam_adapt.runs.record import read_run
from medsam_adapt.weights.registry import get_weights
from medsam_adapt.weights.store import local_path

DEFAULT_WEIGHTS = ("lite_medsam", "sam_nano")  # the first one that is on this machine
_AXES: tuple[Axis, ...] = ("axial", "coronal", "sagittal")


@dataclass(frozen=True)
class Model:
    """A network that proposes masks.

    Attributes:
        predictor: with its weights.
        author: under which its masks are noted.
        axes: planes in which prompts may be drawn.
        boxes: whether it takes boxes.
        points: whether it takes points.
    """

    predictor: Predictor
    author: Author
    axes: tuple[Axis, ...]
    boxes: bool
    points: bool


def run_model(folder: Path, device: str = "auto") -> Model:
    """A run that proposes.

    Raises:
        InputError: no such run.
    """
    predictor = load_run(folder, device)
    record = predictor.record
    author = Author("model", folder.absolute().name, record.started_from or record.bundle)
    return Model(predictor, author, (record.axis,), record.prompt == "box", record.prompt == "points")


def pretrained_model(name: str, classes: Sequence[str], device: str = "auto") -> Model:
    """Pretrained weights that propose ``classes``, or one structure where there are none.

    Raises:
        InputError: no such weights, or weights that are not on this machine.
    """
    predictor = load_weights(name, list(classes) or ["structure"], device=device)
    weights = get_weights(name)
    return Model(predictor, Author("model", name, (weights.sha256 or "")[:16]), _AXES, True, not weights.boxes_only)


def default_weights() -> str:
    """The weights that draw when no model is named."""
    return next(name for name in DEFAULT_WEIGHTS if local_path(name) is not None)


def known_classes(model: str | None) -> dict[int, str]:
    """Label id -> name of what a run segments; empty for weights. Loads no network.

    Raises:
        InputError: no such run.
    """
    if model is None or names_weights(model):
        return {}
    record = read_run(Path(model))
    return dict(zip(record.label_ids, record.class_names, strict=True))


def known_images(model: str | None) -> list[str]:
    """Names of the images of a case that a run takes together; none for weights, or for a run that takes one.

    Raises:
        InputError: no such run.
    """
    return [] if model is None or names_weights(model) else list(read_run(Path(model)).images)


def check_images(model: Model, images: Sequence[str]) -> None:
    """Refuse a model that labels whole scans from one image where a case has several; raises InputError."""
    if images and not model.predictor.record.images:
        raise InputError(
            f"{model.author.name}: this run takes one image of a case, and these cases have {', '.join(images)}. Give "
            "a run that takes them, or a folder with one image of each case."
        )
