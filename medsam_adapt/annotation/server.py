"""The local server of the annotation page: the application, and the page itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.resources import files

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse

from medsam_adapt.annotation import label_routes, proposal_routes
from medsam_adapt.annotation.access import Access
from medsam_adapt.annotation.proposals import Proposals
from medsam_adapt.annotation.session import Session
from medsam_adapt.core.errors import InputError
from medsam_adapt.report.markup import content_hash

_SCRIPTS = (
    "geometry.js", "server.js", "scan.js", "view.js", "tools.js", "display.js", "structures.js", "proposals.js",
    "keys.js", "app.js", "training.js",
)  # fmt: skip


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
    for router in (_page, label_routes.router, proposal_routes.router, *routers):
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


_page = APIRouter()


@_page.get("/")
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
