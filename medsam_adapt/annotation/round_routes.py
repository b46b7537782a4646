"""Endpoints of the page's panel on what to label next and on training."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field

from medsam_adapt.annotation.rounds import Rounds

router = APIRouter(prefix="/api")


class Training(BaseModel):
    """A training is wanted.

    Attributes:
        minutes: time budget; the bundle's own number of epochs when None.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    minutes: Annotated[float, Field(ge=0.1, le=10_000)] | None = None


def rounds_of(request: Request) -> Rounds:
    """The rounds of the application; answers 409 where there is no model."""
    rounds = getattr(request.app.state, "rounds", None)
    if rounds is None:
        raise HTTPException(409, "The server was started without a model.")
    return rounds


@router.get("/round")
def describe(request: Request) -> dict[str, Any]:
    """What the round is doing, and the scans to label next."""
    rounds = rounds_of(request)
    scans = [
        {"id": each.name, "score": each.score, "uncertainty": each.uncertainty, "distance": each.distance}
        for each in rounds.order
        if rounds.session.status(each.name) != "labelled"
    ]
    labelled = sum(rounds.session.status(scan) == "labelled" for scan in rounds.session.scans)
    return {**rounds.progress.as_json(), "suggested": scans, "labelled_now": labelled}


@router.post("/round/training", status_code=202)
def train(request: Request, wanted: Training) -> dict[str, Any]:
    """Train on all labelled scans, then rank the others and propose labels for them."""
    return rounds_of(request).train(wanted.minutes).as_json()


@router.post("/round/ranking", status_code=202)
def rank(request: Request) -> dict[str, Any]:
    """Rank the scans without labels."""
    return rounds_of(request).rank().as_json()


@router.delete("/round")
def stop(request: Request) -> dict[str, Any]:
    """Stop what is in progress."""
    return rounds_of(request).stop().as_json()
