"""HTML that is escaped by construction: text is escaped whenever it is added to an element."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from typing import Any

_VOID = {"img"}  # elements that have no end tag


class Markup(str):
    """Text that is already HTML and is not escaped again."""

    __slots__ = ()


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """An element. Attributes, and children that are not `Markup`, are escaped.

    Args:
        tag: its name.
        children: in their order; None is left out.
        attributes: with ``_`` for ``-`` in their names, and ``class_`` for ``class``; None or False leaves one out.
    """
    named = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(str("" if value is True else value))}"'
        for name, value in attributes.items()
        if value is not None and value is not False
    )
    content = join(*children)
    return Markup(f"<{tag}{named}>" if tag in _VOID else f"<{tag}{named}>{content}</{tag}>")


def join(*parts: object) -> Markup:
    """Concatenated parts; those that are not `Markup` are escaped."""
    return Markup(
        "".join(part if isinstance(part, Markup) else html.escape(str(part)) for part in parts if part is not None)
    )


def embedded_json(content: Any) -> Markup:
    """JSON for a ``<script type="application/json">``, which no text in it can terminate."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)  # non-ASCII characters become \\u….
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def data_uri(content: bytes, kind: str) -> str:
    """The bytes of a picture as the address of an image; ``kind`` is ``jpeg`` or ``png``."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def content_hash(text: str) -> str:
    """The hash by which a Content-Security-Policy allows a script or a style sheet."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
