"""Requests and responses as values.

Percent-encoding follows RFC 3986; a query is read as WHATWG's ``application/x-www-form-urlencoded``
(``+`` is a space), as clients write it. Bytes that are not UTF-8 become U+FFFD.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sampan.api.http.body import Body
    from sampan.api.http.connection import Connection

__all__ = ["REASONS", "HttpError", "Query", "Request", "Response", "Taken", "unquote"]

REASONS = {
    100: "Continue",
    200: "OK",
    201: "Created",
    202: "Accepted",
    204: "No Content",
    206: "Partial Content",
    301: "Moved Permanently",
    302: "Found",
    304: "Not Modified",
    307: "Temporary Redirect",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    408: "Request Timeout",
    409: "Conflict",
    411: "Length Required",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    416: "Range Not Satisfiable",
    417: "Expectation Failed",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}

_ENCODED = re.compile(rb"%([0-9A-Fa-f]{2})")


class HttpError(InvalidArgument):
    """A request this server cannot serve, whatever it asks for; ``status`` says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _decoded(match: re.Match[bytes]) -> bytes:
    return bytes((int(match[1], 16),))


def unquote(data: bytes) -> str:
    """Percent-encoded bytes as text."""
    if b"%" in data:
        data = _ENCODED.sub(_decoded, data)
    return data.decode("utf-8", "replace")


class Query:
    """A target's parameters; a name may stand there more than once."""

    __slots__ = ("_data", "_values")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._values: dict[str, list[str]] = {}
        for pair in data.replace(b"+", b" ").split(b"&") if data else ():
            if pair:
                name, _, value = pair.partition(b"=")
                self._values.setdefault(unquote(name), []).append(unquote(value))

    def get(self, name: str) -> str | None:
        """The first value."""
        values = self._values.get(name)
        return values[0] if values else None

    def path(self, name: str) -> str | None:
        """The first value as a file name: bytes that are not UTF-8 as ``os.fsdecode`` has them."""
        for pair in self._data.replace(b"+", b" ").split(b"&"):
            key, _, value = pair.partition(b"=")
            if key and unquote(key) == name:
                return _ENCODED.sub(_decoded, value).decode("utf-8", "surrogateescape")
        return None

    def all(self, name: str) -> list[str]:
        return list(self._values.get(name, ()))


class Request:
    """``path`` is decoded and without the query; ``headers`` have lower-case names, and values of
    one name joined by commas. ``upgrade`` is the protocol asked for, in lower case, or empty.
    """

    __slots__ = (
        "body",
        "connection",
        "expects",
        "headers",
        "keep_alive",
        "method",
        "path",
        "query",
        "upgrade",
        "version",
    )

    def __init__(
        self,
        *,
        method: str,
        path: str,
        query: Query,
        version: tuple[int, int],
        headers: Mapping[str, str],
        keep_alive: bool,
        upgrade: str = "",
        expects: bool = False,
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.version = version
        self.headers = headers
        self.keep_alive = keep_alive
        self.upgrade = upgrade
        self.expects = expects
        self.body: Body
        self.connection: Connection

    @property
    def media_type(self) -> str:
        """Of the body, without its parameters; RFC 9110's default when it is not said."""
        given = self.headers.get("content-type")
        if given is None:
            return "application/octet-stream"
        return given.partition(";")[0].strip().lower()


class Response:
    """An answer that is known whole; sent in one piece."""

    __slots__ = ("body", "headers", "status")

    def __init__(
        self,
        status: int = 200,
        body: bytes = b"",
        media_type: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status = status
        self.body = body
        self.headers = dict(headers or ())
        if media_type:
            self.headers["Content-Type"] = media_type


class Taken:
    """What a handler returns that took the connection over: HTTP is finished with it."""

    __slots__ = ()
    status = 101
