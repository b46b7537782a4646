"""The whole application: the annotation page, rounds of training, and the endpoints for other viewers."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import FastAPI

from medsam_adapt.annotation import monai_label, round_routes
from medsam_adapt.annotation.proposals import Proposals
from medsam_adapt.annotation.rounds import Rounds
from medsam_adapt.annotation.server import create_app
from medsam_adapt.annotation.session import Session
from medsam_adapt.annotation.token_path import TokenPath


def create_full_app(
    session: Session,
    token: str,
    proposals: Proposals,
    rounds: Rounds,
    hosts: Iterable[str] = ("testserver",),
    origins: Iterable[str] = ("http://testserver",),
) -> FastAPI:
    """The application of `create_app` with all further endpoints; the other arguments are its.

    Args:
        session, token, proposals: as for `create_app`.
        rounds: trains, ranks and proposes in the background.
        hosts, origins: as for `create_app`.
    """
    app = create_app(session, token, proposals, hosts, origins, (round_routes.router, monai_label.router))
    app.state.rounds = rounds
    app.add_middleware(TokenPath)  # the last one added sees a request first
    return app
