"""Points that correct a mask of a network that was trained with boxes alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MARGIN = 2.0  # the logit that a point gives its pixel: 0.88 inside, or outside
REACH = 0.1  # of the box's longer side: how far a point acts
LIKENESS = 25.0  # grey levels of 255 by which tissue may differ from that under the point


def apply_points(
    logits: np.ndarray, grey: np.ndarray, points: Sequence[tuple[float, float, bool]], box: Sequence[float]
) -> np.ndarray:
    """Logits (rows, columns) that agree with points: each moves those around it, within tissue like its own.

    A point that is on the right side of the mask already changes nothing. The weight falls with the distance and with
    the difference in grey level, as in a bilateral filter.

    Args:
        logits: (rows, columns) of the box; above 0 is inside.
        grey: (rows, columns) of the slice, from 0 to 255.
        points: x, y, inside.
        box: x0, y0, x1, y1, which sets how far a point acts.
    """
    corrected = np.asarray(logits, np.float32).copy()
    rows, columns = np.ogrid[: corrected.shape[0], : corrected.shape[1]]
    reach = max(1.0, REACH * max(box[2] - box[0], box[3] - box[1]))
    for x, y, inside in points:
        row, column = (int(np.clip(round(at), 0, size - 1)) for at, size in zip((y, x), corrected.shape, strict=True))
        if (corrected[row, column] > 0) == inside:
            continue
        distance = ((rows - row) ** 2 + (columns - column) ** 2) / reach**2
        difference = ((grey - grey[row, column]) / LIKENESS) ** 2
        wanted = MARGIN if inside else -MARGIN
        corrected += (wanted - corrected[row, column]) * np.exp(-(distance + difference) / 2)
    return corrected
