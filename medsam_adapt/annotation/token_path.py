"""The token in the path of an address, for programs whose settings take an address and nothing else.

3D Slicer's MONAI Label module asks for one server address and puts every endpoint's name behind it, so that
``http://127.0.0.1:8765/monai/TOKEN`` is all that it needs.
"""

from __future__ import annotations

from typing import Any

PREFIX = "/monai"


class TokenPath:
    """ASGI middleware that moves the token of ``/monai/TOKEN/...`` into the header ``Authorization``.

    It decides nothing: `access.Access`, which sees the request next, compares the token and refuses a wrong one.

    Args:
        app: the application with its access checks.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass the request on without the token in its path."""
        path = scope.get("path", "")
        if scope["type"] == "http" and path.startswith(f"{PREFIX}/"):
            token, slash, rest = path.removeprefix(f"{PREFIX}/").partition("/")
            if slash:
                header = (b"authorization", b"Bearer " + token.encode("utf-8", "replace"))
                changed = f"{PREFIX}/{rest}"
                headers = [*scope["headers"], header]
                scope = {**scope, "path": changed, "raw_path": changed.encode(), "headers": headers}
        await self.app(scope, receive, send)
