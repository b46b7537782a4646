"""Endpoints of the page on scans and their labels: volumes to the page, its changes back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response

from medsam_adapt.annotation.drawing import Author, Drawing
from medsam_adapt.annotation.messages import Changes, DrawnSlice, Finished, ImageNumber, Place
from medsam_adapt.annotation.records import entries_of
from medsam_adapt.annotation.requested import (
    class_of,
    drawing_of,
    image_of,
    prompt_of,
    proposals_of,
    session_of,
    slice_shape,
)
from medsam_adapt.annotation.run_lengths import from_run_lengths, to_run_lengths
from medsam_adapt.annotation.session import Session
from medsam_adapt.config import Axis
from medsam_adapt.data.slices.intensity import IntensityPolicy
from medsam_adapt.report.colours import class_colour

router = APIRouter(prefix="/api")
FILLED = Author("model", "interpolation between slices")


@router.get("/session")
def describe(request: Request) -> dict[str, Any]:
    """Classes, scans with their status, the model, and notes."""
    session, proposals = session_of(request), request.app.state.proposals
    model = None
    if proposals is not None:
        prompted = proposals.prompted
        model = {
            "name": prompted.author.name,
            "axes": prompted.axes,
            "boxes": prompted.boxes,
            "points": prompted.points,
            "automatic": proposals.automatic and proposals.automatic.author.name,
        }
    return {
        "classes": [
            {"label": each, "name": name, "colour": class_colour(number)}
            for number, (each, name) in enumerate(session.classes.items(), start=1)
        ],
        "scans": session.listing(),
        "model": model,
        "person": session.person.name,
        "output": session.output.name,
        "notes": session.notes,
    }


@router.get("/scans/{scan}")
def describe_scan(request: Request, scan: str) -> dict[str, Any]:
    """Geometry, window and prompts of a scan. Its image and its label are sent as bytes in the order z, y, x (RAS)."""
    drawing = drawing_of(request, scan)
    images = [_described(drawing, number) for number in range(max(1, len(drawing.images)))]
    with drawing.lock:
        prompts = entries_of(drawing)["prompts"]
        return {
            "id": scan,
            "status": session_of(request).status(scan),
            "shape": drawing.shape,
            "spacing": drawing.spacing,
            "images": images,
            "version": drawing.version,
            "prompts": prompts,
        }


def _described(drawing: Drawing, number: int) -> dict[str, Any]:
    """Name, scale and window of an image of a scan; the only one has no name."""
    grey = drawing.grey(number)
    slope, intercept = _scale(grey)
    window = IntensityPolicy(kind="auto").window_of(grey)
    name = drawing.images[number] if drawing.images else ""
    return {"name": name, "slope": slope, "intercept": intercept, "window": [window.low, window.high]}


def _scale(image: np.ndarray) -> tuple[float, float]:
    """Slope and intercept by which 16-bit numbers become grey values."""
    low, high = float(image.min()), float(image.max())
    if low >= -(2**15) and high < 2**15 and np.array_equal(image, np.rint(image)):
        return 1.0, 0.0
    slope = max(high - low, 1e-12) / (2**16 - 1)
    return slope, low + 2**15 * slope


@router.get("/scans/{scan}/image")
def image(request: Request, scan: str, number: ImageNumber = 0) -> Response:
    """Grey values of an image as little-endian int16, to be rescaled by its slope and intercept."""
    drawing = drawing_of(request, scan)
    grey = drawing.grey(image_of(drawing, number))
    slope, intercept = _scale(grey)
    stored = np.clip(np.rint((grey - intercept) / slope), -(2**15), 2**15 - 1).astype("<i2")
    return Response(stored.tobytes(order="F"), media_type="application/octet-stream")


@router.get("/scans/{scan}/label")
def label(request: Request, scan: str) -> Response:
    """Class ids in bytes; the header x-version has the label's version."""
    drawing = drawing_of(request, scan)
    with drawing.lock:
        content, version = drawing.label.tobytes(order="F"), drawing.version
    return Response(content, media_type="application/octet-stream", headers={"x-version": str(version)})


@router.patch("/scans/{scan}/label")
def change(request: Request, scan: str, changes: Changes) -> dict[str, Any]:
    """Replace slices of the label; answers 409 to changes of an older version than the present one."""
    session = session_of(request)
    drawing_of(request, scan)
    author = _author_of(request, changes.author)
    with session.changing(scan) as drawing:
        if changes.version != drawing.version:
            raise HTTPException(409, "The label was changed elsewhere. It is loaded again.")
        slices = {each.index: _values(session, drawing, changes.axis, each) for each in changes.slices}
        prompts = {}
        for prompt in changes.prompts:
            shape = slice_shape(drawing, Place(axis=changes.axis, index=prompt.index))
            prompts[class_of(session, prompt.label), prompt.index] = prompt_of(prompt, shape)
        version = drawing.paint(changes.axis, slices, author, changes.step, prompts)
    return {"version": version, "status": session.status(scan)}


def _author_of(request: Request, kind: str) -> Author:
    if kind == "person":
        return session_of(request).person
    return FILLED if kind == "interpolation" else proposals_of(request).prompted.author


def _values(session: Session, drawing: Drawing, axis: Axis, drawn: DrawnSlice) -> np.ndarray:
    """The class ids (rows, columns) of a slice; answers 422 where they do not fit it."""
    shape = slice_shape(drawing, Place(axis=axis, index=drawn.index))
    allowed = {0, *session.classes, *np.unique(drawing.slices(axis)[drawn.index]).tolist()}
    try:
        return from_run_lengths(drawn.runs, (shape[0], shape[1]), sorted(allowed))
    except ValueError as error:
        raise HTTPException(422, f"Slice {drawn.index}: {error}.") from error


@router.post("/scans/{scan}/undo")
def undo(request: Request, scan: str) -> dict[str, Any]:
    """Take the last change back; the slices that are different now."""
    drawing_of(request, scan)
    with session_of(request).changing(scan) as drawing:
        return _restored(drawing, drawing.undo())


@router.post("/scans/{scan}/redo")
def redo(request: Request, scan: str) -> dict[str, Any]:
    """Make a change again that was taken back."""
    drawing_of(request, scan)
    with session_of(request).changing(scan) as drawing:
        return _restored(drawing, drawing.redo())


def _restored(drawing: Drawing, slices: Mapping[tuple[Axis, int], np.ndarray]) -> dict[str, Any]:
    return {
        "version": drawing.version,
        "slices": [
            {"axis": axis, "index": index, "runs": to_run_lengths(values)} for (axis, index), values in slices.items()
        ],
        "prompts": entries_of(drawing)["prompts"],
    }


@router.put("/scans/{scan}/status")
def finish(request: Request, scan: str, finished: Finished) -> dict[str, Any]:
    """A person finishes a label, or takes that back."""
    drawing_of(request, scan)
    return {"status": session_of(request).set_labelled(scan, finished.labelled), "notes": session_of(request).notes}


@router.post("/save")
def save(request: Request) -> dict[str, Any]:
    """Write all changes now."""
    session_of(request).save()
    return {"notes": session_of(request).notes}
