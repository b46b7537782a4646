"""Download of one file over HTTP, which continues where it broke off; the only code here that uses the network."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

ATTEMPTS = 5  # in a row that bring no new byte
PAUSE = 1.0  # seconds before the second attempt, doubled before each one after it
TIMEOUT = 30.0  # seconds without an answer or a byte
_BLOCK = 1 << 18  # bytes
_TRANSIENT = (408, 429, 500, 502, 503, 504)  # answers of servers that are busy, not of servers that lack the file
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")

Progress = Callable[[int, "int | None"], None]  # bytes so far, bytes in all if the server reports it


class TransferError(Exception):
    """The download failed for good; the message is a clause, for the caller's sentence."""


class _Dropped(Exception):
    """The download broke off and may go on."""


class _Unreachable(_Dropped):
    """Nobody answered."""


def fetch(url: str, part: Path, size: int | None = None, progress: Progress | None = None) -> None:
    """Download ``url`` to ``part``, from the byte where ``part`` ends; whatever has arrived stays there.

    Args:
        url: https, or http on this machine.
        part: the file, begun by an earlier call or not there yet.
        size: of the whole file in bytes, where it is known.
        progress: called as bytes arrive.

    Raises:
        TransferError: nobody answers, the server lacks the file or has one of another size, or the connection breaks
            off time and again.
        OSError: ``part`` cannot be written.
    """
    _require_safe(url)
    begun = furthest = _length(part)
    failures = 0
    while True:
        try:
            _go_on(url, part, size, progress)
            return
        except _Dropped as dropped:
            reached = _length(part)
            failures = 1 if reached > furthest else failures + 1
            furthest = max(furthest, reached)
            offline = isinstance(dropped, _Unreachable) and furthest == begun
            if offline or failures >= ATTEMPTS:
                raise TransferError(str(dropped)) from dropped
            time.sleep(PAUSE * 2 ** (failures - 1))


def _go_on(url: str, part: Path, size: int | None, progress: Progress | None) -> None:
    have = _length(part)
    if size is not None and have == size:
        return  # complete already: the process ended before it was checked
    if size is not None and have > size:
        part.unlink()
        have = 0
    with _open(url, have, part) as response:
        start, total = _extent(response)
        if start not in (0, have):
            raise TransferError(f"the server sent the file from byte {start} instead of {have}")
        if None not in (size, total) and size != total:
            raise TransferError(f"the server has a file of {total} bytes, not the published one of {size}")
        with part.open("ab" if start else "wb") as file:  # a server that knows no ranges starts over
            for block in _blocks(response):
                file.write(block)
                start += len(block)
                if progress:
                    progress(start, total)
            file.flush()
            os.fsync(file.fileno())  # a full network disk reports it only here
    if total is not None and start < total:
        raise _Dropped(f"the connection broke off after {start} of {total} bytes")


def _open(url: str, have: int, part: Path) -> HTTPResponse:
    headers = {"User-Agent": "medsam-adapt", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        response: HTTPResponse = build_opener(_SafeRedirects).open(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        error.close()
        if error.code == 416:  # the file has become shorter than what is here
            part.unlink(missing_ok=True)
        if error.code in (416, *_TRANSIENT):
            raise _Dropped(f"the server answers {error.code} ({error.reason})") from error
        raise TransferError(f"the server answers {error.code} ({error.reason})") from error
    except URLError as error:
        reason = getattr(error.reason, "strerror", None) or error.reason
        raise _Unreachable(f"no connection to {urlsplit(url).hostname} ({reason})") from error
    except (OSError, HTTPException) as error:
        raise _Dropped(f"the connection broke off ({error})") from error
    return response


def _extent(response: HTTPResponse) -> tuple[int, int | None]:
    """First byte that the response holds, and bytes of the whole file if the server reports it."""
    if response.status == 206:
        content_range = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if content_range is None:
            raise TransferError("the server sent a part of the file without saying which")
        return int(content_range[1]), None if content_range[2] == "*" else int(content_range[2])
    return 0, response.length


def _blocks(response: HTTPResponse) -> Iterator[bytes]:
    """The bytes as they arrive; errors of the network are not mixed with those of the disk, where the caller writes."""
    try:
        while block := response.read(_BLOCK):
            yield block
    except (OSError, HTTPException) as error:
        raise _Dropped(f"the connection broke off ({error})") from error


class _SafeRedirects(HTTPRedirectHandler):
    """Follows redirects, but to safe addresses only."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        _require_safe(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _require_safe(url: str) -> None:
    address = urlsplit(url)
    on_this_machine = address.scheme == "http" and address.hostname in ("127.0.0.1", "::1", "localhost")
    if address.scheme != "https" and not on_this_machine:
        raise TransferError(f"{address.scheme}://{address.hostname} is not a safe address (https)")


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
