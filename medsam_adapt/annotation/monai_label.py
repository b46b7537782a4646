"""The endpoints of MONAI Label that viewers call, 3D Slicer's MONAI Label module in the first place.

What is answered follows what MONAI Label 0.8.5 answers and what its 3D Slicer module reads of it; docs/monai_label.md
lists what is supported. Coordinates are voxel indices in the axis order of the scan's file.
"""

from __future__ import annotations

import json
import random
from secrets import token_hex
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, File, Form, HTTPException, Request, UploadFile
from fastapi.responses import JSONResponse, Response

from medsam_adapt.annotation import monai_label_datastore
from medsam_adapt.annotation.monai_label_datastore import (
    BINARY,
    counts,
    file_response,
    form_object,
    image_facts,
    scan_of,
)
from medsam_adapt.annotation.requested import proposals_of, session_of
from medsam_adapt.annotation.round_routes import rounds_of
from medsam_adapt.annotation.rounds import Rounds
from medsam_adapt.annotation.token_path import PREFIX
from medsam_adapt.annotation.viewer_masks import Answer, models_of
from medsam_adapt.annotation.viewer_scans import (
    Uploads,
    label_content,
)
from medsam_adapt.core.versions import installed_version

router = APIRouter(prefix=PREFIX)
router.include_router(monai_label_datastore.router)
_STRATEGIES = {
    "suggest": "the scan from whose label the model can be expected to learn most",
    "random": "any scan without a label",
    "first": "the first scan without a label, in the order of the folder",
}
_TRAINER = "medsam_adapt"


def uploads_of(request: Request) -> Uploads:
    """Volumes that viewers sent."""
    if not hasattr(request.app.state, "uploads"):
        request.app.state.uploads = Uploads()
    return request.app.state.uploads


@router.get("/auth/")
def auth() -> dict[str, bool]:
    """Whether a name and a password are asked for: the token is in the address instead."""
    return {"enabled": False}


@router.get("/info/")
def info(request: Request) -> dict[str, Any]:
    """Models, strategies, trainers, classes, and how many scans are labelled."""
    session, rounds = session_of(request), rounds_of(request)
    progress = rounds.progress
    stats: dict[str, Any] = {}
    if progress.status == "training":
        stats = {"epoch": progress.done, "total_epochs": max(1, progress.total)}
    models = models_of(proposals_of(request), session.classes)
    return {
        "name": "medsam-adapt",
        "description": "Fine-tuned SAM, and its labels",
        "version": installed_version(),
        "labels": list(session.classes.values()),
        "models": {name: model.info() for name, model in models.items()},
        "trainers": {_TRAINER: {"description": "train on all finished labels", "config": {}}},
        "strategies": {name: {"description": text, "config": {}} for name, text in _STRATEGIES.items()},
        "scoring": {},
        "train_stats": {_TRAINER: stats},
        "datastore": counts(session),
    }


# ------------------------------------------------------------------------------------------------------------- segment


@router.post("/infer/{model}")
def infer(
    request: Request,
    model: str,
    image: str = "",
    session_id: str = "",
    params: Annotated[str, Form()] = "{}",
    output: Literal["image", "json", "all"] = "all",
) -> Response:
    """Segment a scan, or a volume that was sent before: with prompts in ``params``, or without any."""
    session, proposals = session_of(request), proposals_of(request)
    models = models_of(proposals, session.classes)
    if model not in models:
        raise HTTPException(404, f"There is no such model. There are {', '.join(models)}.")
    given = form_object(params)
    if session_id:
        drawing = uploads_of(request).get(session_id)
        if drawing is None:
            raise HTTPException(404, "The volume is no longer kept. Send it again.")
    else:
        drawing = session.drawing(scan_of(request, image))
    answer: Answer = models[model](drawing, given)
    found = {"label_names": answer.names, "latencies": {"total": round(answer.seconds, 3)}}
    if output == "json":
        return JSONResponse(found)
    ending = given.get("result_extension") or ".nii.gz"
    if not isinstance(ending, str):
        raise HTTPException(422, "params: result_extension is no text.")
    content = label_content(answer.label, drawing.header, answer.names, ending)
    name = f"{token_hex(8)}{ending}"
    return file_response(content, name) if output == "image" else multipart(found, name, content)


def multipart(params: dict[str, Any], name: str, content: bytes) -> Response:
    """``params`` as JSON and the file ``image``, in one answer of the type multipart/form-data."""
    boundary = token_hex(16)
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="params"\r\nContent-Type: application/json\r\n\r\n'
        f"{json.dumps(params)}\r\n"
        f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
        f"Content-Type: {BINARY}\r\n\r\n"
    )
    body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    return Response(body, media_type=f"multipart/form-data; boundary={boundary}")


@router.put("/session/")
def add_session(request: Request, files: Annotated[list[UploadFile], File()]) -> dict[str, Any]:
    """Take a volume that is only to be segmented; it is kept in memory."""
    if len(files) != 1:
        raise HTTPException(422, "files: one volume is taken. Send a file such as volume.nii.gz.")
    key = uploads_of(request).add(files[0].filename or "", files[0].file.read())
    return {"session_id": key, "session_info": {"name": key}}


@router.get("/session/{session_id}")
def describe_session(request: Request, session_id: str) -> dict[str, Any]:
    """Whether a volume is still kept; answers 404 where it is not."""
    if uploads_of(request).get(session_id) is None:
        raise HTTPException(404, "The volume is no longer kept. Send it again.")
    return {"name": session_id}


@router.delete("/session/{session_id}")
def remove_session(request: Request, session_id: str) -> dict[str, Any]:
    """Forget a volume."""
    if uploads_of(request).remove(session_id) is None:
        raise HTTPException(404, "There is no such session.")
    return {"name": session_id}


# ------------------------------------------------------------------------------------------- what is next, and training


@router.post("/activelearning/{strategy}")
def next_sample(request: Request, strategy: str, params: Annotated[dict[str, Any] | None, Body()] = None) -> Any:
    """The scan to label next; an empty object where all are labelled."""
    session, rounds = session_of(request), rounds_of(request)
    if strategy not in _STRATEGIES:
        raise HTTPException(404, f"There is no such strategy. There are {', '.join(_STRATEGIES)}.")
    left = [scan for scan in session.scans if session.status(scan) != "labelled"]
    if not left:
        return {}
    chosen = {"suggest": rounds.next_scan, "random": lambda: random.choice(left), "first": lambda: left[0]}[strategy]()
    assert chosen is not None, "a scan is left"
    return {"id": chosen, **image_facts(session, chosen)}


@router.get("/train/")
def training(request: Request, check_if_running: bool = False) -> dict[str, Any]:
    """The last training; answers 404 where there is none, or none in progress and that is asked for."""
    rounds = rounds_of(request)
    if rounds.progress.started is None or (check_if_running and not rounds.progress.running):
        raise HTTPException(404, "No training is in progress." if check_if_running else "There was no training yet.")
    return _task(rounds)


@router.post("/train/")
@router.post("/train/{model}")
def train(request: Request, model: str = "", params: Annotated[dict[str, Any] | None, Body()] = None) -> dict[str, Any]:
    """Train on all finished labels; ``minutes`` in the body is a time budget. Answers 429 during a training."""
    rounds = rounds_of(request)
    minutes = (params or {}).get("minutes")
    if minutes is not None and not (isinstance(minutes, int | float) and 0.1 <= minutes <= 10_000):
        raise HTTPException(422, "minutes: it is no number from 0.1 to 10000.")
    if rounds.progress.running:
        raise HTTPException(429, "A training is in progress.")
    rounds.train(minutes)
    return _task(rounds)


@router.delete("/train/")
def stop_training(request: Request) -> dict[str, Any]:
    """Stop the training."""
    rounds = rounds_of(request)
    rounds.stop()
    return _task(rounds)


def _task(rounds: Rounds) -> dict[str, Any]:
    """A training as MONAI Label describes it."""
    progress = rounds.progress
    status = {"failed": "ERROR", "stopped": "REVOKED"}.get(progress.status, "RUNNING" if progress.running else "DONE")
    return {
        "id": progress.run,
        "status": status,
        "start_ts": int(progress.started or 0),
        "end_ts": int(progress.ended or 0),
        "result": progress.message,
        "details": [progress.message or progress.status],
    }
