"""The endpoints of MONAI Label that viewers call, 3D Slicer's MONAI Label module in the first place.

What is answered follows what MONAI Label 0.8.5 answers and what its 3D Slicer module reads of it; docs/monai_label.md
lists what is supported. Coordinates are voxel indices in the axis order of the scan's file.
"""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path
from secrets import token_hex
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, File, Form, HTTPException, Request, UploadFile
from fastapi.responses import JSONResponse, Response

from medsam_adapt.annotation.round_routes import rounds_of
from medsam_adapt.annotation.rounds import Rounds
from medsam_adapt.annotation.server import proposals_of, session_of
from medsam_adapt.annotation.session import Session
from medsam_adapt.annotation.token_path import PREFIX
from medsam_adapt.annotation.viewer_masks import Answer, models_of
from medsam_adapt.annotation.viewer_scans import (
    FINAL,
    Uploads,
    drawn_classes,
    label_content,
    label_path,
    label_tags,
    save_final,
    scan_content,
    scan_file,
    scan_file_name,
)
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import file_sha256
from medsam_adapt.core.versions import installed_version
from medsam_adapt.data.volumes.io import FORMATS

router = APIRouter(prefix=PREFIX)
_BINARY = "application/octet-stream"
_STRATEGIES = {
    "suggest": "the scan from whose label the model can be expected to learn most",
    "random": "any scan without a label",
    "first": "the first scan without a label, in the order of the folder",
}
_TRAINER = "medsam_adapt"
_NO_UPLOADS = "Scans are those of the folder that 'medsam-adapt annotate' serves. Copy the file there, and restart it."


def scan_of(request: Request, image: str) -> str:
    """The id of a scan; answers 404 where there is none."""
    if image not in session_of(request).scans:
        raise HTTPException(404, "There is no such image.")
    return image


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
        "datastore": _counts(session),
    }


def _counts(session: Session) -> dict[str, Any]:
    tags: dict[str, int] = {}
    for scan in session.scans:
        for tag in label_tags(session, scan):
            tags[tag] = tags.get(tag, 0) + 1
    completed = sum(session.status(scan) == "labelled" for scan in session.scans)
    return {"total": len(session.scans), "completed": completed, "label_tags": tags}


# ---------------------------------------------------------------------------------------------------- scans and labels


@router.get("/datastore/")
def datastore(request: Request, output: Literal["train", "stats", "all"] = "stats") -> Any:
    """All scans with their labels by tag, or how many there are."""
    session = session_of(request)
    if output == "stats":
        return _counts(session)
    if output == "train":
        finished = [scan for scan in session.scans if label_path(session, scan, FINAL) is not None]
        return [{"image": scan, "label": scan} for scan in finished]
    objects = {}
    for scan in session.scans:
        path = scan_file(session, scan)
        labels = {
            tag: {
                "ext": _ending(path.name),
                "info": {"name": path.name, "params": {"label_names": drawn_classes(session, scan)}},
            }
            for tag, path in label_tags(session, scan).items()
        }
        ending = ".nii.gz" if path is None else _ending(path.name)
        objects[scan] = {"image": {"ext": ending, "info": {"name": f"{scan}{ending}"}}, "labels": labels}
    return {"name": "medsam-adapt", "description": "", "images_dir": ".", "labels_dir": "labels", "objects": objects}


def _ending(name: str) -> str:
    return next((end for end in sorted(FORMATS, key=len, reverse=True) if name.lower().endswith(end)), "")


@router.api_route("/datastore/image", methods=["GET", "HEAD"])
def image_file(request: Request, image: str) -> Response:
    """The scan as a file."""
    session, scan = session_of(request), scan_of(request, image)
    return _file(scan_content(session, scan), scan_file_name(session, scan))


@router.get("/datastore/image/info")
def image_info(request: Request, image: str) -> dict[str, Any]:
    """Name and checksum of a scan's file."""
    return _image_info(session_of(request), scan_of(request, image))


def _image_info(session: Session, scan: str) -> dict[str, Any]:
    path = scan_file(session, scan)
    found: dict[str, Any] = {"name": scan_file_name(session, scan)}
    # 3D Slicer keeps downloads by name; without the checksum it would show an older scan of this name again.
    return found if path is None else {**found, "checksum": f"SHA256:{file_sha256(path)}"}


@router.api_route("/datastore/label", methods=["GET", "HEAD"])
def label_file(request: Request, label: str, tag: str = FINAL) -> Response:
    """A label as a file: ``final`` by a person, ``original`` by a model."""
    session, scan = session_of(request), scan_of(request, label)
    session.save()
    path = label_path(session, scan, tag)
    if path is None or not path.is_file():
        raise HTTPException(404, "There is no such label.")
    return _file(path.read_bytes(), path.name)


@router.put("/datastore/label")
def save_label(
    request: Request,
    image: str,
    label: Annotated[UploadFile, File()],
    params: Annotated[str, Form()] = "{}",
    tag: str = FINAL,
) -> dict[str, Any]:
    """Take over the label of a person."""
    session, scan = session_of(request), scan_of(request, image)
    if tag not in ("", FINAL):
        raise HTTPException(422, f"Only finished labels are taken, with the tag {FINAL}.")
    given = _object(params)
    names = given.get("label_info")
    if names is not None and not (isinstance(names, list) and all(isinstance(each, dict) for each in names)):
        raise HTTPException(422, "params: label_info is no list of objects with a name.")
    ending = _ending(label.filename or "") or ".nii.gz"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"label{ending}"
        path.write_bytes(label.file.read())
        try:
            save_final(session, scan, path, names)
        except InputError as error:
            raise InputError(str(error).replace(str(path), "label")) from error
    return {"image": scan, "label": scan}


@router.put("/datastore/")
@router.put("/datastore/image")
def add_image() -> Response:
    """Refused: the server writes nothing into the folder of the scans."""
    return JSONResponse({"detail": _NO_UPLOADS}, 403)


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
    given = _object(params)
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
    return _file(content, name) if output == "image" else multipart(found, name, content)


def multipart(params: dict[str, Any], name: str, content: bytes) -> Response:
    """``params`` as JSON and the file ``image``, in one answer of the type multipart/form-data."""
    boundary = token_hex(16)
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="params"\r\nContent-Type: application/json\r\n\r\n'
        f"{json.dumps(params)}\r\n"
        f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
        f"Content-Type: {_BINARY}\r\n\r\n"
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
    return {"id": chosen, **_image_info(session, chosen)}


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


# --------------------------------------------------------------------------------------------------------------- shared


def _object(text: str) -> dict[str, Any]:
    """``params`` of a form."""
    try:
        content = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise HTTPException(422, "params: it is no JSON.") from error
    if not isinstance(content, dict):
        raise HTTPException(422, "params: it is no JSON object.")
    return content


def _file(content: bytes, name: str) -> Response:
    safe = "".join(letter if letter.isascii() and letter not in '"\\\r\n' else "_" for letter in name)
    return Response(content, media_type=_BINARY, headers={"content-disposition": f'attachment; filename="{safe}"'})
