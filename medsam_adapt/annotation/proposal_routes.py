"""Endpoints of the page on what a model, or the shapes of other slices, draw for the person."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import StreamingResponse

from medsam_adapt.annotation.interpolation import fill_between
from medsam_adapt.annotation.messages import Look, ProposalRequest, Structure, WholeScan
from medsam_adapt.annotation.requested import (
    class_of,
    drawing_of,
    image_of,
    prompt_of,
    proposals_of,
    session_of,
    slice_shape,
)
from medsam_adapt.annotation.run_lengths import to_run_lengths
from medsam_adapt.data.slices.geometry import volume_to_slices

router = APIRouter(prefix="/api")
_LINES = "application/x-ndjson"


@router.post("/scans/{scan}/look", status_code=204)
def look(request: Request, scan: str, place: Look) -> None:
    """The page shows a slice: its embedding and those of the slices beside it are computed."""
    drawing = drawing_of(request, scan)
    slice_shape(drawing, place)
    if request.app.state.proposals is not None:
        request.app.state.proposals.prepare(drawing, place.axis, place.index, image_of(drawing, place.image))


@router.post("/scans/{scan}/proposal")
def propose(request: Request, scan: str, wanted: ProposalRequest) -> dict[str, Any]:
    """The mask of a box or points on a slice, as run lengths of 0 and 1, and the seconds that it took."""
    started = time.perf_counter()
    drawing = drawing_of(request, scan)
    prompt = prompt_of(wanted, slice_shape(drawing, wanted))
    shown = image_of(drawing, wanted.image)
    mask = proposals_of(request).propose(drawing, wanted.axis, wanted.index, prompt, shown)
    return {"mask": to_run_lengths(mask), "seconds": round(time.perf_counter() - started, 3)}


@router.post("/scans/{scan}/propagation")
def propagate(request: Request, scan: str, wanted: Structure) -> StreamingResponse:
    """Masks of a class on the slices around those that a person worked on: a line of JSON for each, as it is drawn."""
    drawing, reach = drawing_of(request, scan), _reach(request, scan, wanted)
    keys = drawing.key_boxes(wanted.label, wanted.axis)
    empty = drawing.emptied(wanted.label, wanted.axis)
    shown = image_of(drawing, wanted.image)
    found = proposals_of(request).propagate(drawing, wanted.axis, keys, reach, empty, shown)
    return StreamingResponse(_lines(found), media_type=_LINES)


@router.post("/scans/{scan}/fill")
def fill(request: Request, scan: str, wanted: Structure) -> StreamingResponse:
    """Masks of the empty slices between two drawn ones, from their shapes alone."""
    drawing, reach = drawing_of(request, scan), _reach(request, scan, wanted)
    with drawing.lock:
        masks = drawing.slices(wanted.axis) == wanted.label
    found = ((index, mask) for index, mask in fill_between(masks) if index in reach)
    return StreamingResponse(_lines(found), media_type=_LINES)


def _reach(request: Request, scan: str, wanted: Structure) -> range:
    """The slices that a request may draw on."""
    class_of(session_of(request), wanted.label)
    count = len(volume_to_slices(drawing_of(request, scan).label, wanted.axis))
    return range(wanted.first or 0, count if wanted.last is None else min(count, wanted.last + 1))


def _lines(found: Iterable[tuple[int, np.ndarray]]) -> Iterator[str]:
    for index, mask in found:
        yield json.dumps({"index": index, "mask": to_run_lengths(mask)}) + "\n"


@router.post("/scans/{scan}/segmentation")
def segment(request: Request, scan: str, wanted: WholeScan | None = None) -> dict[str, Any]:
    """Have the run that needs no prompts label the whole scan; answers 409 before it replaces a person's work."""
    session, proposals, drawing = session_of(request), proposals_of(request), drawing_of(request, scan)
    if session.status(scan) == "labelled":
        raise HTTPException(422, "The label is finished. Press Ctrl+Enter first to have it labelled again.")
    theirs = [session.classes.get(each, str(each)) for each in sorted(drawing.worked_on())]
    worked_on = wanted.worked_on if wanted else None
    if theirs and worked_on is None:
        raise HTTPException(409, f"You have worked on this scan: {', '.join(theirs)}.")
    if worked_on == "keep" and drawing.worked_on() >= {*session.classes}:
        raise HTTPException(422, "You have worked on all structures of this scan, so none is left to label.")
    label = proposals.segment(drawing, session.classes)
    assert proposals.automatic is not None, "segment refuses it"
    if not session.propose(scan, label, proposals.automatic.author, worked_on or "leave"):
        raise HTTPException(409, "You have worked on this scan in the meantime.")
    return {"status": session.status(scan)}
