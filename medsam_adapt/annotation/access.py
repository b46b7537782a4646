"""Who may talk to the server: the token, the address that is asked for, the page that asks, and the size of a request.

A token keeps other users and programs of the machine out. The checks of Host and Origin keep out web pages that the
user visits: one whose name is rebound to 127.0.0.1 sends its own name as Host, and any page sends its Origin.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qs

from starlette.responses import JSONResponse

LARGEST_BODY = 64 * 2**20  # bytes: a whole label of 512 × 512 × 1,000 voxels as run lengths takes less
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),  # the address holds the token
    (b"cache-control", b"no-store"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
)


def addresses_of(host: str, port: int, public: str | None = None) -> tuple[set[str], set[str]]:
    """The Host headers and the Origins that belong to a server.

    Args:
        host: where it listens.
        port: the same.
        public: the address of a reverse proxy in front of it, such as ``https://annotate.example.org``.
    """
    names = {"127.0.0.1", "localhost", "[::1]"} | ({f"[{host}]" if ":" in host else host} - {"0.0.0.0", "::"})
    hosts = {f"{name}:{port}" for name in names}
    origins = {f"http://{name}" for name in hosts}
    if public is not None:
        hosts.add(public.partition("://")[2].rstrip("/").lower())
        origins.add(public.rstrip("/").lower())
    return hosts, origins


class Access:
    """ASGI middleware that answers a request only when it has the token and comes from the server's own page.

    A program that sends no Origin, such as a viewer, needs the token alone, as ``Authorization: Bearer TOKEN`` or as
    ``?token=TOKEN``.

    Args:
        app: the application.
        token: the secret.
        hosts: Host headers that are answered.
        origins: Origin headers that are answered.
    """

    def __init__(self, app: Any, token: str, hosts: Iterable[str], origins: Iterable[str]) -> None:
        self.app, self.token = app, token.encode()
        self.hosts, self.origins = frozenset(hosts), frozenset(origins)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            status, sentence = refusal
            await JSONResponse({"detail": sentence}, status)(scope, receive, _with_headers(send))
            return
        await self.app(scope, _limited(receive), _with_headers(send))

    def _refusal(self, scope: Any) -> tuple[int, str] | None:
        """Status and sentence for a request that is not answered."""
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.lower(), []).append(value)
        hosts = [value.decode("latin-1").lower() for value in headers.get(b"host", ())]
        if len(hosts) != 1 or hosts[0] not in self.hosts:
            return 403, "This server does not answer under this name."
        if any(value.decode("latin-1").lower() not in self.origins for value in headers.get(b"origin", ())):
            return 403, "This server answers its own page only."
        if not self._has_token(headers, scope.get("query_string", b"")):
            return 401, "The token is missing or wrong. Open the address that the server printed."
        lengths = headers.get(b"content-length", [])
        if any(not value.isdigit() or int(value[:20]) > LARGEST_BODY for value in lengths):
            return 413, "The request is too large."
        return None

    def _has_token(self, headers: dict[bytes, list[bytes]], query: bytes) -> bool:
        given = [value.removeprefix(b"Bearer ") for value in headers.get(b"authorization", ())]
        try:
            given += [value.encode() for value in parse_qs(query.decode("latin-1"), max_num_fields=50).get("token", ())]
        except ValueError:  # too many fields
            return False
        return len(given) > 0 and all(secrets.compare_digest(each, self.token) for each in given)


def _limited(receive: Any) -> Any:
    """``receive`` that ends the connection after `LARGEST_BODY` bytes."""
    total = 0

    async def limited() -> Any:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        return {"type": "http.disconnect"} if total > LARGEST_BODY else message

    return limited


def _with_headers(send: Any) -> Any:
    """``send`` that adds headers which keep the page and its data to themselves."""

    async def sending(message: Any) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
        await send(message)

    return sending
