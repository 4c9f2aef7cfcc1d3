"""HTTP to the daemon: over its Unix socket, or TCP, with the standard library's client.

A request that hijacks the connection (attach, exec) hands back the socket itself with not one byte
read past the response's head.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sampan import __version__
from sampan.errors import SampanError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

__all__ = ["DEFAULT_HOST", "ApiError", "Client", "host_from_environment"]

DEFAULT_HOST = "unix:///run/sampan/sampan.sock"
API = "/v1.51"
AGENT = f"Sampan-Client/{__version__} (linux)"


class ApiError(SampanError):
    """The daemon's answer to a request it refused; the message is the daemon's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def host_from_environment(flag: str) -> str:
    """``-H`` first, then SAMPAN_HOST, then DOCKER_HOST, then the default socket."""
    return flag or os.environ.get("SAMPAN_HOST") or os.environ.get("DOCKER_HOST") or DEFAULT_HOST


class _Unbuffered(http.client.HTTPResponse):
    """Reads no byte past the head, so that the socket can be handed over."""

    def __init__(self, sock: socket.socket, *arguments: Any, **more: Any) -> None:
        super().__init__(sock, *arguments, **more)
        self.fp = sock.makefile("rb", 0)  # type: ignore[assignment]  # readline is all it uses


class _Connection(http.client.HTTPConnection):
    def __init__(self, host: str) -> None:
        self.place = host
        super().__init__("sampan")

    def connect(self) -> None:
        kind, _, where = self.place.partition("://")
        if kind == "unix":
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.connect(where)
        elif kind in ("tcp", "http"):
            name, _, port = where.rstrip("/").rpartition(":")
            sock = socket.create_connection((name.strip("[]"), int(port or 2375)))
        else:
            raise Unavailable(f"{self.place}: expected unix:///path or tcp://host:port")
        self.sock = sock


class Client:
    """One daemon. Each request has a connection of its own: hijacks and streams never mix."""

    def __init__(self, host: str) -> None:
        self.host = host

    def request(
        self,
        method: str,
        path: str,
        query: dict[str, object] | None = None,
        body: object = None,
        *,
        stream: IO[bytes] | None = None,
        headers: dict[str, str] | None = None,
    ) -> http.client.HTTPResponse:
        """The response with its body unread; ``body`` is sent as JSON, ``stream`` chunked."""
        connection = _Connection(self.host)
        sent = {"User-Agent": AGENT, **(headers or {})}
        data: object = None
        if stream is not None:
            sent["Content-Type"] = "application/x-tar"
            data = stream
        elif body is not None:
            sent["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        try:
            connection.request(
                method,
                API + path + _encode(query),
                body=data,  # type: ignore[arg-type]  # bytes, a file, or None
                headers=sent,
                encode_chunked=stream is not None,
            )
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        return _checked(response)

    def call(
        self,
        method: str,
        path: str,
        query: dict[str, object] | None = None,
        body: object = None,
    ) -> Any:
        """The decoded JSON body, or ``None`` where there is none."""
        data = self.request(method, path, query, body).read()
        return json.loads(data) if data else None

    def lines(
        self,
        method: str,
        path: str,
        query: dict[str, object] | None = None,
        *,
        stream: IO[bytes] | None = None,
    ) -> Iterator[dict[str, Any]]:
        """A stream of JSON objects, one a line."""
        for line in self.request(method, path, query, stream=stream):
            if line.strip():
                yield json.loads(line)

    def hijack(
        self, path: str, query: dict[str, object] | None = None, body: object = None
    ) -> socket.socket:
        """POST and take the connection over: a raw stream both ways."""
        connection = _Connection(self.host)
        connection.response_class = _Unbuffered
        headers = {"Connection": "Upgrade", "Upgrade": "tcp", "User-Agent": AGENT}
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        try:
            connection.request("POST", API + path + _encode(query), body=data, headers=headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        _checked(response)
        taken = connection.sock
        if taken is None:
            raise Unavailable(f"{path}: the daemon closed the connection it should have upgraded")
        connection.sock = None
        return taken

    def _unreachable(self, error: Exception) -> Unavailable:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return Unavailable(
            f"cannot reach the daemon at {self.host}: {reason}. Is it running? "
            f"Start it with: {os.path.basename(sys.argv[0]) or 'sampan'} daemon"
        )


def _encode(query: dict[str, object] | None) -> str:
    parts = []
    for key, value in (query or {}).items():
        if value is None or value == "":
            continue
        for item in value if isinstance(value, list) else [value]:
            parts.append(f"{quote(key)}={quote(_parameter(item), safe='')}")
    return "?" + "&".join(parts) if parts else ""


def _parameter(value: object) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    return json.dumps(value) if isinstance(value, dict) else str(value)


def _checked(response: http.client.HTTPResponse) -> http.client.HTTPResponse:
    if response.status < 400:
        return response
    text = response.read().decode(errors="replace")
    try:
        message = str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        message = text.strip() or f"{response.status} {response.reason}"
    raise ApiError(response.status, message)
