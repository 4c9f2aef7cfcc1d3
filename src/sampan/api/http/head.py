"""A request's head: from bytes to a ``Request`` and how its body ends.

The grammar is llhttp's (by httptools), in its strict mode; what it leaves to its user is decided
here as RFC 9112 says: the Host field, versions, transfer codings, expectations. The caller has cut
the head out of the stream, so that the parser never sees what comes behind.
"""

from __future__ import annotations

import re
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from sampan.api.http.framing import Chunked, Framing, Sized
from sampan.api.http.messages import HttpError, Query, Request, unquote

__all__ = ["read_head"]

_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://[^/?]*")
_VERSIONS = {"1.1": (1, 1), "1.0": (1, 0)}


class _Collector:
    """What the parser reports."""

    __slots__ = ("headers", "keep_alive", "method", "parser", "target", "version")

    def __init__(self) -> None:
        self.target = b""
        self.headers: dict[str, str] = {}
        self.method = ""
        self.version = ""
        self.keep_alive = False
        self.parser: Any = None

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1").strip(" \t")
        held = self.headers.get(key)
        self.headers[key] = text if held is None else f"{held}, {text}"

    def on_headers_complete(self) -> None:
        self.method = self.parser.get_method().decode("ascii")
        self.version = self.parser.get_http_version()
        self.keep_alive = self.parser.should_keep_alive()


def read_head(data: bytes) -> tuple[Request, Framing | None]:
    """``data`` ends with the empty line. The framing is None when there is no body.

    Raises HttpError.
    """
    found = _Collector()
    parser = HttpRequestParser(found)
    found.parser = parser
    try:
        parser.feed_data(data)
    except HttpParserUpgrade:
        pass  # how the connection goes on is the handler's decision
    except HttpParserError as error:
        raise HttpError(400, f"malformed request: {error}") from error
    finally:
        found.parser = None  # they hold each other
    if not found.version:
        raise HttpError(400, "malformed request: it has no head")
    version = _VERSIONS.get(found.version)
    if version is None:
        raise HttpError(505, f"HTTP/{found.version} is not supported: use HTTP/1.1")
    headers = found.headers
    if version == (1, 1) and ("host" not in headers or "," in headers["host"]):
        raise HttpError(400, "malformed request: one Host header is required")
    framing = _framing(headers, version)
    target = found.target
    if not target.startswith(b"/"):
        match = _ABSOLUTE.match(target)
        target = target[match.end() :] if match else target
        if match and not target.startswith(b"/"):
            target = b"/" + target
    path, _, query = target.partition(b"?")
    request = Request(
        method=found.method,
        path=unquote(path),
        query=Query(query),
        version=version,
        headers=headers,
        keep_alive=found.keep_alive,
        # Some clients leave out "Connection: Upgrade", and servers of theirs never minded.
        upgrade=headers.get("upgrade", "").lower() if version == (1, 1) else "",
        expects=framing is not None and version == (1, 1) and _expects(headers),
    )
    return request, framing


def _framing(headers: dict[str, str], version: tuple[int, int]) -> Framing | None:
    coding = headers.get("transfer-encoding")
    if coding is not None:
        if version == (1, 0) or "content-length" in headers:
            raise HttpError(400, "malformed request: the body's length is ambiguous")
        if coding.lower() != "chunked":
            raise HttpError(501, f"Transfer-Encoding {coding} is not supported: use chunked")
        return Chunked()
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdecimal()):
        raise HttpError(400, f"malformed request: Content-Length {length}")
    return Sized(int(length)) if length.strip("0") else None


def _expects(headers: dict[str, str]) -> bool:
    expectation = headers.get("expect")
    if expectation is None:
        return False
    if expectation.lower() != "100-continue":
        raise HttpError(417, f"the expectation {expectation} is not supported")
    return True
