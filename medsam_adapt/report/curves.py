"""Training curves: read from the run's TensorBoard events, drawn as SVG."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from medsam_adapt.core.text import counted
from medsam_adapt.report.markup import Markup, element, join

_WIDTH, _HEIGHT = 640, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 34  # margins around the plot
_MOST_POINTS = 240
_FEW_POINTS = 40  # which are shown as dots on the line
_NAMES = {"loss": "training loss", "val_mean_dsc": "mean DSC of the held-out cases"}


@dataclass(frozen=True)
class Curve:
    """One quantity by training step.

    Attributes:
        name: as it was logged.
        steps: (N,) ascending.
        values: (N,), finite.
    """

    name: str
    steps: np.ndarray
    values: np.ndarray

    def binned(self, most: int = _MOST_POINTS) -> Curve:
        """At most ``most`` points, each the mean of as many neighbours."""
        if len(self.steps) <= most:
            return self
        edges = np.linspace(0, len(self.steps), most + 1).astype(int)
        parts = [slice(*pair) for pair in pairwise(edges)]
        steps, values = ([float(array[part].mean()) for part in parts] for array in (self.steps, self.values))
        return Curve(self.name, np.array(steps), np.array(values))


def read_curves(folder: str | Path) -> list[Curve]:
    """All scalars in a folder of TensorBoard events, by name; empty if there are none.

    If a resumed training has logged a step twice, the later value is used.
    """
    folder = Path(folder)
    if not folder.is_dir() or not any(folder.glob("*tfevents*")):
        return []
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    curves = []
    for name in sorted(events.Tags()["scalars"]):
        latest = {event.step: event.value for event in events.Scalars(name) if np.isfinite(event.value)}
        if latest:
            steps = np.array(sorted(latest), dtype=np.float64)
            curves.append(Curve(name, steps, np.array([latest[step] for step in sorted(latest)])))
    return curves


def draw_curve(curve: Curve) -> Markup:
    """A figure: the curve over the steps, with a caption of its first, lowest, highest and last value."""
    shown = curve.binned()
    low, high = float(shown.values.min()), float(shown.values.max())
    ticks_y = nice_ticks(low, high)
    bottom, top = min(low, ticks_y[0]), max(high, ticks_y[-1])
    right = max(float(shown.steps[-1]), 1.0)

    def x(step: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / right

    def y(value: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (top - value) / (top - bottom)

    points = [(x(step), y(value)) for step, value in zip(shown.steps.tolist(), shown.values.tolist(), strict=True)]
    line = " ".join(f"{across:.1f},{down:.1f}" for across, down in points)
    dots = [
        element("circle", cx=f"{across:.1f}", cy=f"{down:.1f}", r=3, class_="measured")
        for across, down in (points if len(points) <= _FEW_POINTS else [])
    ]
    grid = [_tick_y(y(value), f"{value:g}") for value in ticks_y]
    below = [_tick_x(x(step), f"{step:,.0f}") for step in nice_ticks(0, right) if step <= right]
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    steps = counted(len(curve.steps), "logged step")
    summary = (
        f"{_NAMES.get(curve.name, curve.name)} over {steps}: first {curve.values[0]:.3g}, lowest "
        f"{curve.values.min():.3g}, highest {curve.values.max():.3g}, last {curve.values[-1]:.3g}."
    )
    drawing = element(
        "svg",
        element("title", summary),
        *grid,
        *below,
        element("text", "training step", class_="axis", x=middle, y=_HEIGHT - 2, text_anchor="middle"),
        element("polyline", points=line, class_="curve"),
        *dots,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
    )
    each = counted(round(len(curve.steps) / len(shown.steps)), "step")
    averaged = f" Each point is the mean of {each}." * (shown is not curve)
    return element("figure", drawing, element("figcaption", join(summary, averaged)), class_="chart")


def _tick_y(y: float, label: str) -> Markup:
    line = element("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=f"{y:.1f}", y2=f"{y:.1f}", class_="grid")
    return join(line, element("text", label, class_="axis", x=_LEFT - 8, y=f"{y + 4:.1f}", text_anchor="end"))


def _tick_x(x: float, label: str) -> Markup:
    return element("text", label, class_="axis", x=f"{x:.1f}", y=_HEIGHT - _BOTTOM + 16, text_anchor="middle")


def nice_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round values that span low..high: steps of 1, 2 or 5 times a power of ten."""
    width = (high - low) or abs(high) or 1.0
    power = 10.0 ** np.floor(np.log10(width / about))
    step = next(factor * power for factor in (1, 2, 5, 10) if width / (factor * power) <= about)
    first, last = np.floor(low / step), np.ceil(high / step)
    return [round(float(index * step), 10) for index in np.arange(first, last + (1 if last > first else 2))]
