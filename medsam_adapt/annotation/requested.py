"""What requests to the local server are about: session, scan, slice, class; an HTTP error where there is none."""

from __future__ import annotations

from typing import Any

from fastapi import HTTPException, Request

from medsam_adapt.annotation.drawing import Drawing
from medsam_adapt.annotation.messages import Place
from medsam_adapt.annotation.proposals import Proposals
from medsam_adapt.annotation.session import Session
from medsam_adapt.core.text import counted
from medsam_adapt.data.slices.geometry import volume_to_slices


def session_of(request: Request) -> Session:
    """The session that the application serves."""
    return request.app.state.session


def proposals_of(request: Request) -> Proposals:
    """What proposes masks; answers 409 where there is no model."""
    if request.app.state.proposals is None:
        raise HTTPException(409, "The server was started without a model.")
    return request.app.state.proposals


def drawing_of(request: Request, scan: str) -> Drawing:
    """The scan with its label; answers 404 where there is none of this id."""
    if scan not in session_of(request).scans:
        raise HTTPException(404, "There is no such scan.")
    return session_of(request).drawing(scan)


def slice_shape(drawing: Drawing, place: Place) -> tuple[int, ...]:
    """Rows and columns of a slice; answers 422 where the volume has no such slice."""
    shape = volume_to_slices(drawing.label, place.axis).shape
    if place.index >= shape[0]:
        raise HTTPException(422, f"The scan has {counted(shape[0], f'{place.axis} slice')}.")
    return shape[1:]


def image_of(drawing: Drawing, number: int) -> int:
    """The number of an image of a scan; answers 422 where it has no such image."""
    count = max(1, len(drawing.images))
    if number >= count:
        raise HTTPException(422, f"image: there is none of the number {number}. The scan has {count}.")
    return number


def class_of(session: Session, label: int) -> int:
    """The class of a request; answers 422 where the session has none of this id."""
    if label not in session.classes:
        raise HTTPException(422, "There is no such class.")
    return label


def prompt_of(given: Any, shape: tuple[int, ...]) -> Any:
    """The prompt of a request on a slice (rows, columns); answers 422 where it does not fit."""
    try:
        return given.prompt(shape)
    except ValueError as error:
        raise HTTPException(422, f"The prompt is not used: {error}.") from error
