"""Pictures of the best, the median and the worst case: prediction and reference as contours on one slice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medsam_adapt.data.geometry import volume_to_slices
from medsam_adapt.files import written_whole
from medsam_adapt.metrics import Scores, mean_ignoring_undefined


@dataclass(frozen=True)
class CaseView:
    """One axial slice of a case, as a radiologist views it; images are (rows, columns).

    Attributes:
        image: grey levels 0..255.
        prediction: classes.
        reference: classes.
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
            image: (X, Y, Z) in RAS order on the 0-255 scale.
            prediction: (X, Y, Z) classes.
            reference: (X, Y, Z) classes.
            spacing: mm, in (X, Y, Z) order.
        """
        labelled = reference if reference.any() else prediction
        index = int((labelled > 0).sum(axis=(0, 1)).argmax())
        slices = [volume_to_slices(volume, "axial")[index].copy() for volume in (image, prediction, reference)]
        return cls(slices[0], slices[1], slices[2], float(spacing[1] / spacing[0]))


def save_pictures(
    folder: Path, cases: Mapping[str, Scores], views: Mapping[str, CaseView], class_names: Sequence[str]
) -> list[Path]:
    """Write ``best.png``, ``median.png`` and ``worst.png`` by mean DSC (fewer when there are fewer cases)."""
    means = {
        case: mean_ignoring_undefined([score["dsc"] for score in scores.values()]) for case, scores in cases.items()
    }
    ranked = sorted((case for case in means if not math.isnan(means[case])), key=lambda case: means[case])
    if not ranked:
        return []
    chosen = {"best": ranked[-1], "worst": ranked[0], "median": ranked[len(ranked) // 2]}
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, Path] = {}
    for name, case in chosen.items():
        if case in written:
            (folder / f"{name}.png").unlink(missing_ok=True)  # of an evaluation of more cases
        else:
            written[case] = folder / f"{name}.png"
            title = f"{name} case: {case}, mean DSC {means[case]:.3f}"
            _draw(views[case], title, class_names, written[case])
    return list(written.values())


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
        axes.imshow(view.image, cmap="gray", vmin=0, vmax=255, aspect=view.aspect)
        for index, colour in enumerate(colours, start=1):
            if (labels == index).any():
                axes.contour(labels == index, levels=[0.5], colors=[colour], linewidths=1.5)
        axes.set_title(name)
        axes.axis("off")
    handles = [Line2D([], [], color=colour, label=name) for colour, name in zip(colours, class_names, strict=True)]
    with rc_context({"text.parse_math": False}):  # a "$" in a name is no formula
        figure.legend(handles=handles, loc="outside right center", fontsize="small")
        figure.suptitle(title)
    with written_whole(path) as temporary:
        figure.savefig(temporary, dpi=110)
