"""Pictures of the worst, the median and the best case: prediction and reference as contours on one slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medsam_adapt.core.files import written_whole
from medsam_adapt.data.slices.geometry import volume_to_slices
from medsam_adapt.evaluation.shown_cases import ROLES, choose_cases
from medsam_adapt.scoring.metrics import Scores, mean_ignoring_undefined


@dataclass(frozen=True)
class CaseView:
    """One axial slice of a case, as a radiologist views it; images are (rows, columns).

    Attributes:
        image: grey levels 0..255, or colours (3, rows, columns).
        prediction: classes, or masks (C, rows, columns) of classes that may overlap.
        reference: the same.
        aspect: height of a pixel over its width.
    """

    image: np.ndarray
    prediction: np.ndarray
    reference: np.ndarray
    aspect: float

    @classmethod
    def of(cls, image: np.ndarray, prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float]) -> CaseView:
        """The axial slice with most of the reference (of the prediction, where the reference is empty).

        Args:
            image: (X, Y, Z), or (3, X, Y, Z) in colour, in RAS order on the 0-255 scale.
            prediction: (X, Y, Z) classes, or (C, X, Y, Z) masks.
            reference: the same.
            spacing: mm, in (X, Y, Z) order.
        """
        labelled = reference if reference.any() else prediction
        inside = (labelled > 0).any(axis=0) if labelled.ndim == 4 else labelled > 0
        index = int(inside.sum(axis=(0, 1)).argmax())
        slices = [_axial_slice(volume, index) for volume in (image, prediction, reference)]
        return cls(slices[0], slices[1], slices[2], float(spacing[1] / spacing[0]))


def _axial_slice(volume: np.ndarray, index: int) -> np.ndarray:
    """Slice (rows, columns) of a volume (X, Y, Z), or (C, rows, columns) of C volumes."""
    if volume.ndim == 4:
        return np.stack([_axial_slice(each, index) for each in volume])
    return volume_to_slices(volume, "axial")[index].copy()


def mean_dsc(cases: Mapping[str, Scores]) -> dict[str, float]:
    """Case -> mean DSC over its classes, NaN where no class has one."""
    return {
        case: mean_ignoring_undefined([score["dsc"] for score in scores.values()]) for case, scores in cases.items()
    }


def save_pictures(
    folder: Path, cases: Mapping[str, Scores], views: Mapping[str, CaseView], class_names: Sequence[str]
) -> list[Path]:
    """Write a picture of each case that :func:`choose_cases` chooses, such as ``worst.png``, and return their paths.

    Pictures that an evaluation of more or fewer cases left in the folder are removed.
    """
    means = mean_dsc(cases)
    chosen = choose_cases(means)
    if not chosen:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    for role in set(ROLES) - set(chosen):
        (folder / f"{role}.png").unlink(missing_ok=True)
    for role, case in chosen.items():
        title = f"{role} case: {case}, mean DSC {means[case]:.3f}"
        _draw(views[case], title, class_names, folder / f"{role}.png")
    return [folder / f"{role}.png" for role in chosen]


def _draw(view: CaseView, title: str, class_names: Sequence[str], path: Path) -> None:
    from matplotlib import colormaps, rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    colours = [colormaps["tab20"](index % 20) for index in range(len(class_names))]
    figure = Figure(figsize=(11, 5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    for axes, name, labels in zip(panels, ("prediction", "reference"), (view.prediction, view.reference), strict=True):
        shown = view.image if view.image.ndim == 2 else np.moveaxis(view.image, 0, -1) / 255
        axes.imshow(shown, cmap="gray", vmin=0, vmax=255, aspect=view.aspect)
        for index, colour in enumerate(colours, start=1):
            mask = labels[index - 1] > 0 if labels.ndim == 3 else labels == index
            if mask.any():
                axes.contour(mask, levels=[0.5], colors=[colour], linewidths=1.5)
        axes.set_title(name)
        axes.axis("off")
    handles = [Line2D([], [], color=colour, label=name) for colour, name in zip(colours, class_names, strict=True)]
    with rc_context({"text.parse_math": False}):  # a "$" in a name is no formula
        figure.legend(handles=handles, loc="outside right center", fontsize="small")
        figure.suptitle(title)
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=110)
