"""The endpoints of MONAI Label for scans and labels as files; see `monai_label`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, File, Form, HTTPException, Request, UploadFile
from fastapi.responses import JSONResponse, Response

from medsam_adapt.annotation.requested import session_of
from medsam_adapt.annotation.session import Session
from medsam_adapt.annotation.viewer_scans import (
    FINAL,
    drawn_classes,
    label_path,
    label_tags,
    save_final,
    scan_content,
    scan_file,
    scan_file_name,
)
from medsam_adapt.core.errors import InputError
from medsam_adapt.core.files import file_sha256
from medsam_adapt.data.volumes.io import FORMATS

router = APIRouter(prefix="/datastore")
BINARY = "application/octet-stream"
_NO_UPLOADS = "Scans are those of the folder that 'medsam-adapt annotate' serves. Copy the file there, and restart it."


def scan_of(request: Request, image: str) -> str:
    """The id of a scan; answers 404 where there is none."""
    if image not in session_of(request).scans:
        raise HTTPException(404, "There is no such image.")
    return image


def counts(session: Session) -> dict[str, Any]:
    """How many scans there are, how many are finished, and how many have a label of each tag."""
    tags: dict[str, int] = {}
    for scan in session.scans:
        for tag in label_tags(session, scan):
            tags[tag] = tags.get(tag, 0) + 1
    completed = sum(session.status(scan) == "labelled" for scan in session.scans)
    return {"total": len(session.scans), "completed": completed, "label_tags": tags}


@router.get("/")
def datastore(request: Request, output: Literal["train", "stats", "all"] = "stats") -> Any:
    """All scans with their labels by tag, or how many there are."""
    session = session_of(request)
    if output == "stats":
        return counts(session)
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


@router.api_route("/image", methods=["GET", "HEAD"])
def image_file(request: Request, image: str) -> Response:
    """The scan as a file."""
    session, scan = session_of(request), scan_of(request, image)
    return file_response(scan_content(session, scan), scan_file_name(session, scan))


@router.get("/image/info")
def image_info(request: Request, image: str) -> dict[str, Any]:
    """Name and checksum of a scan's file."""
    return image_facts(session_of(request), scan_of(request, image))


def image_facts(session: Session, scan: str) -> dict[str, Any]:
    """Name of a scan's file, and its checksum where it is one file."""
    path = scan_file(session, scan)
    found: dict[str, Any] = {"name": scan_file_name(session, scan)}
    # 3D Slicer keeps downloads by name; without the checksum it would show an older scan of this name again.
    return found if path is None else {**found, "checksum": f"SHA256:{file_sha256(path)}"}


@router.api_route("/label", methods=["GET", "HEAD"])
def label_file(request: Request, label: str, tag: str = FINAL) -> Response:
    """A label as a file: ``final`` by a person, ``original`` by a model."""
    session, scan = session_of(request), scan_of(request, label)
    session.save()
    path = label_path(session, scan, tag)
    if path is None or not path.is_file():
        raise HTTPException(404, "There is no such label.")
    return file_response(path.read_bytes(), path.name)


@router.put("/label")
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
    given = form_object(params)
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


@router.put("/")
@router.put("/image")
def add_image() -> Response:
    """Refused: the server writes nothing into the folder of the scans."""
    return JSONResponse({"detail": _NO_UPLOADS}, 403)


def form_object(text: str) -> dict[str, Any]:
    """``params`` of a form."""
    try:
        content = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise HTTPException(422, "params: it is no JSON.") from error
    if not isinstance(content, dict):
        raise HTTPException(422, "params: it is no JSON object.")
    return content


def file_response(content: bytes, name: str) -> Response:
    """An answer that a viewer saves under ``name``."""
    safe = "".join(letter if letter.isascii() and letter not in '"\\\r\n' else "_" for letter in name)
    return Response(content, media_type=BINARY, headers={"content-disposition": f'attachment; filename="{safe}"'})
