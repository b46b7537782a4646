"""The local server of the annotation page: volumes and labels to the page, its changes back, and proposals."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

from medsam_adapt.annotation.access import Access
from medsam_adapt.annotation.drawing import Author, Drawing
from medsam_adapt.annotation.interpolation import fill_between
from medsam_adapt.annotation.messages import (
    Changes,
    DrawnSlice,
    Finished,
    ImageNumber,
    Look,
    Place,
    ProposalRequest,
    Structure,
    WholeScan,
)
from medsam_adapt.annotation.proposals import Proposals
from medsam_adapt.annotation.run_lengths import from_run_lengths, to_run_lengths
from medsam_adapt.annotation.session import Session
from medsam_adapt.config import Axis
from medsam_adapt.core.errors import InputError
from medsam_adapt.data.slices.geometry import volume_to_slices
from medsam_adapt.data.slices.intensity import IntensityPolicy
from medsam_adapt.report.colours import class_colour
from medsam_adapt.report.markup import content_hash

_SCRIPTS = (
    "geometry.js", "server.js", "scan.js", "view.js", "tools.js", "display.js", "structures.js", "proposals.js",
    "keys.js", "app.js", "training.js",
)  # fmt: skip
FILLED = Author("model", "interpolation between slices")
_LINES = "application/x-ndjson"


def create_app(
    session: Session,
    token: str,
    proposals: Proposals | None = None,
    hosts: Iterable[str] = ("testserver",),
    origins: Iterable[str] = ("http://testserver",),
    routers: Sequence[APIRouter] = (),
) -> FastAPI:
    """The application that serves one session.

    Args:
        session: the scans.
        token: the secret that every request needs.
        proposals: what draws for the person; without it, only tools that need no model work.
        hosts: Host headers that are answered, see `access.addresses_of`.
        origins: Origin headers that are answered.
        routers: further endpoints; they are behind the same checks. ``request.app.state`` has ``session`` and
            ``proposals``.
    """
    app = FastAPI(title="medsam-adapt annotate", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.session, app.state.proposals = session, proposals
    app.add_middleware(Access, token=token, hosts=hosts, origins=origins)
    app.add_exception_handler(InputError, _explained)
    app.add_exception_handler(RequestValidationError, _invalid)
    for router in (_routes, *routers):
        app.include_router(router)
    if proposals is not None:
        session.on_close.append(proposals.forget)
    return app


async def _explained(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 422)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """What is wrong with a request, without repeating what it holds."""
    assert isinstance(error, RequestValidationError), "registered for these"
    fault = error.errors()[0]
    where = ".".join(str(part)[:60] for part in fault["loc"] if part != "body")
    return JSONResponse({"detail": f"{where}: {fault['msg'][:200]}."}, 422)


_routes = APIRouter()


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
        raise HTTPException(422, f"The scan has {shape[0]} {place.axis} slices.")
    return shape[1:]


@_routes.get("/")
def page() -> HTMLResponse:
    """The page, in one file."""
    folder = files(__package__).joinpath("page")
    style = folder.joinpath("page.css").read_text(encoding="utf-8")
    script = "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in _SCRIPTS)
    content = folder.joinpath("page.html").read_text(encoding="utf-8")
    content = content.replace("/* style */", style).replace("/* script */", script)
    policy = (
        f"default-src 'none'; script-src {content_hash(script)}; style-src {content_hash(style)}; connect-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return HTMLResponse(content, headers={"content-security-policy": policy})


@_routes.get("/api/session")
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


@_routes.get("/api/scans/{scan}")
def describe_scan(request: Request, scan: str) -> dict[str, Any]:
    """Geometry, window and prompts of a scan. Its image and its label are sent as bytes in the order z, y, x (RAS)."""
    drawing = drawing_of(request, scan)
    images = [_described(drawing, number) for number in range(max(1, len(drawing.images)))]
    with drawing.lock:
        prompts = drawing.provenance({}, "")["prompts"]
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


def image_of(drawing: Drawing, number: int) -> int:
    """The number of an image of a scan; answers 422 where it has no such image."""
    count = max(1, len(drawing.images))
    if number >= count:
        raise HTTPException(422, f"image: there is none of the number {number}. The scan has {count}.")
    return number


def _scale(image: np.ndarray) -> tuple[float, float]:
    """Slope and intercept by which 16-bit numbers become grey values."""
    low, high = float(image.min()), float(image.max())
    if low >= -(2**15) and high < 2**15 and np.array_equal(image, np.rint(image)):
        return 1.0, 0.0
    slope = max(high - low, 1e-12) / (2**16 - 1)
    return slope, low + 2**15 * slope


@_routes.get("/api/scans/{scan}/image")
def image(request: Request, scan: str, number: ImageNumber = 0) -> Response:
    """Grey values of an image as little-endian int16, to be rescaled by its slope and intercept."""
    drawing = drawing_of(request, scan)
    grey = drawing.grey(image_of(drawing, number))
    slope, intercept = _scale(grey)
    stored = np.clip(np.rint((grey - intercept) / slope), -(2**15), 2**15 - 1).astype("<i2")
    return Response(stored.tobytes(order="F"), media_type="application/octet-stream")


@_routes.get("/api/scans/{scan}/label")
def label(request: Request, scan: str) -> Response:
    """Class ids in bytes; the header x-version has the label's version."""
    drawing = drawing_of(request, scan)
    with drawing.lock:
        content, version = drawing.label.tobytes(order="F"), drawing.version
    return Response(content, media_type="application/octet-stream", headers={"x-version": str(version)})


@_routes.patch("/api/scans/{scan}/label")
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
            prompts[_class_of(session, prompt.label), prompt.index] = _prompt(prompt, shape)
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


def _class_of(session: Session, label: int) -> int:
    if label not in session.classes:
        raise HTTPException(422, "There is no such class.")
    return label


@_routes.post("/api/scans/{scan}/undo")
def undo(request: Request, scan: str) -> dict[str, Any]:
    """Take the last change back; the slices that are different now."""
    drawing_of(request, scan)
    with session_of(request).changing(scan) as drawing:
        return _restored(drawing, drawing.undo())


@_routes.post("/api/scans/{scan}/redo")
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
        "prompts": drawing.provenance({}, "")["prompts"],
    }


def _prompt(given: Any, shape: tuple[int, ...]) -> Any:
    try:
        return given.prompt(shape)
    except ValueError as error:
        raise HTTPException(422, f"The prompt is not used: {error}.") from error


@_routes.post("/api/scans/{scan}/look", status_code=204)
def look(request: Request, scan: str, place: Look) -> None:
    """The page shows a slice: its embedding and those of the slices beside it are computed."""
    drawing = drawing_of(request, scan)
    slice_shape(drawing, place)
    if request.app.state.proposals is not None:
        request.app.state.proposals.prepare(drawing, place.axis, place.index, image_of(drawing, place.image))


@_routes.post("/api/scans/{scan}/proposal")
def propose(request: Request, scan: str, wanted: ProposalRequest) -> dict[str, Any]:
    """The mask of a box or points on a slice, as run lengths of 0 and 1, and the seconds that it took."""
    started = time.perf_counter()
    drawing = drawing_of(request, scan)
    prompt = _prompt(wanted, slice_shape(drawing, wanted))
    shown = image_of(drawing, wanted.image)
    mask = proposals_of(request).propose(drawing, wanted.axis, wanted.index, prompt, shown)
    return {"mask": to_run_lengths(mask), "seconds": round(time.perf_counter() - started, 3)}


@_routes.post("/api/scans/{scan}/propagation")
def propagate(request: Request, scan: str, wanted: Structure) -> StreamingResponse:
    """Masks of a class on the slices around those that a person worked on: a line of JSON for each, as it is drawn."""
    drawing, reach = drawing_of(request, scan), _reach(request, scan, wanted)
    keys = drawing.key_boxes(wanted.label, wanted.axis)
    empty = drawing.emptied(wanted.label, wanted.axis)
    shown = image_of(drawing, wanted.image)
    found = proposals_of(request).propagate(drawing, wanted.axis, keys, reach, empty, shown)
    return StreamingResponse(_lines(found), media_type=_LINES)


@_routes.post("/api/scans/{scan}/fill")
def fill(request: Request, scan: str, wanted: Structure) -> StreamingResponse:
    """Masks of the empty slices between two drawn ones, from their shapes alone."""
    drawing, reach = drawing_of(request, scan), _reach(request, scan, wanted)
    with drawing.lock:
        masks = drawing.slices(wanted.axis) == wanted.label
    found = ((index, mask) for index, mask in fill_between(masks) if index in reach)
    return StreamingResponse(_lines(found), media_type=_LINES)


def _reach(request: Request, scan: str, wanted: Structure) -> range:
    """The slices that a request may draw on."""
    _class_of(session_of(request), wanted.label)
    count = len(volume_to_slices(drawing_of(request, scan).label, wanted.axis))
    return range(wanted.first or 0, count if wanted.last is None else min(count, wanted.last + 1))


def _lines(found: Iterable[tuple[int, np.ndarray]]) -> Iterator[str]:
    for index, mask in found:
        yield json.dumps({"index": index, "mask": to_run_lengths(mask)}) + "\n"


@_routes.post("/api/scans/{scan}/segmentation")
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


@_routes.put("/api/scans/{scan}/status")
def finish(request: Request, scan: str, finished: Finished) -> dict[str, Any]:
    """A person finishes a label, or takes that back."""
    drawing_of(request, scan)
    return {"status": session_of(request).set_labelled(scan, finished.labelled), "notes": session_of(request).notes}


@_routes.post("/api/save")
def save(request: Request) -> dict[str, Any]:
    """Write all changes now."""
    session_of(request).save()
    return {"notes": session_of(request).notes}
