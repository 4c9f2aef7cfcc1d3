"""Requests to the daemon.

A request that hijacks the connection (attach, exec) hands back the socket itself with not one byte
read past the response's head. The API version is negotiated as Docker's client does: a ping, whose
connection the first request then uses.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from sampan import __version__
from sampan.cli.http import Response, quote, send
from sampan.cli.transport import connect, unreachable
from sampan.errors import SampanError, Unavailable

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from typing import IO

    from sampan.cli.settings import Endpoint, Settings

__all__ = ["API_VERSION", "ApiError", "Client"]

API_VERSION = "1.51"
AGENT = f"Sampan-Client/{__version__} (linux)"


class ApiError(SampanError):
    """The daemon's answer to a request it refused; the message is the daemon's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """One daemon. Each request has a connection of its own: hijacks and streams never mix."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._endpoint: Endpoint | None = None
        self._prefix: str | None = None
        self._idle: list[socket.socket] = []

    @property
    def endpoint(self) -> Endpoint:
        """Where the daemon is. Raises InvalidArgument, NotFound for a context nobody made."""
        if self._endpoint is None:
            self._endpoint = self.settings.endpoint()
        return self._endpoint

    @property
    def host(self) -> str:
        """The daemon's address as a URL."""
        return self.endpoint.host

    def negotiate(self) -> None:
        """Agree on a version now, rather than with the first request. Raises Unavailable."""
        self._versioned()

    @property
    def api_version(self) -> str:
        """The version both sides speak; DOCKER_API_VERSION overrides it. Raises Unavailable."""
        return self._versioned().removeprefix("/v")

    def request(
        self,
        method: str,
        path: str,
        query: dict[str, object] | None = None,
        body: object = None,
        *,
        stream: IO[bytes] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Response:
        """The response with its body unread; ``body`` is sent as JSON, ``stream`` chunked."""
        sent = dict(headers or {})
        data: object = None
        if stream is not None:
            sent.setdefault("Content-Type", "application/x-tar")
            data = stream
        elif body is not None:
            sent["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        return self._send(method, path, query, data, sent)[0]

    def call(
        self,
        method: str,
        path: str,
        query: dict[str, object] | None = None,
        body: object = None,
    ) -> Any:
        """The decoded JSON body, or ``None`` where there is none."""
        data = self.request(method, path, query, body).read()
        return _decoded(data) if data else None

    def lines(
        self,
        method: str,
        path: str,
        query: dict[str, object] | None = None,
        *,
        stream: IO[bytes] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Iterator[dict[str, Any]]:
        """A stream of JSON objects, one a line."""
        for line in self.request(method, path, query, stream=stream, headers=headers):
            if line.strip():
                yield _decoded(line)

    def hijack(
        self, path: str, query: dict[str, object] | None = None, body: object = None
    ) -> socket.socket:
        """POST and take the connection over: a raw stream both ways."""
        headers = {"Connection": "Upgrade", "Upgrade": "tcp"}
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        return self._send("POST", path, query, data, headers)[1]

    def ping(self) -> Response:
        """The daemon's first words: its headers name API version, platform and builder."""
        response, sock = self._exchange("HEAD", "/_ping", {}, None)
        if response.reusable:
            self._idle.append(sock)
        return response

    def _versioned(self) -> str:
        if self._prefix is None:
            wanted = os.environ.get("DOCKER_API_VERSION", "").removeprefix("v")
            if not wanted:
                served = self.ping().headers.get("api-version") or "1.24"
                wanted = min(served, API_VERSION, key=_ordered)
            self._prefix = f"/v{wanted}"
        return self._prefix

    def _send(
        self,
        method: str,
        path: str,
        query: dict[str, object] | None,
        body: object,
        headers: dict[str, str],
    ) -> tuple[Response, socket.socket]:
        target = self._versioned() + path + _encode(query)
        response, sock = self._exchange(method, target, headers, body)
        return _checked(response), sock

    def _exchange(
        self, method: str, target: str, headers: dict[str, str], body: object
    ) -> tuple[Response, socket.socket]:
        """Raises Unavailable, PermissionDenied."""
        try:
            sock = self._reused() or connect(self.endpoint)
            send(sock, method, target, self._headers(headers), body)
            return Response(sock, method), sock
        except OSError as error:
            raise unreachable(self.host, error) from error

    def _reused(self) -> socket.socket | None:
        try:
            return self._idle.pop()  # one step, because of threads and signal handlers
        except IndexError:
            return None

    def _headers(self, headers: dict[str, str]) -> dict[str, str]:
        configured = self.settings.config().get("HttpHeaders")
        ours = {"User-Agent": AGENT, **headers}
        return {**configured, **ours} if isinstance(configured, dict) else ours


def _decoded(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        raise Unavailable(f"the daemon's answer is not JSON: {data[:60]!r}") from None


def _ordered(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _encode(query: dict[str, object] | None) -> str:
    parts = []
    for key, value in (query or {}).items():
        if value is None or value == "":
            continue
        for item in value if isinstance(value, list) else [value]:
            parts.append(f"{quote(key)}={quote(_parameter(item))}")
    return "?" + "&".join(parts) if parts else ""


def _parameter(value: object) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    return json.dumps(value) if isinstance(value, dict) else str(value)


def _checked(response: Response) -> Response:
    if response.status < 300 or response.status == 304:
        return response
    text = response.read().decode(errors="replace")
    try:
        message = str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        message = text.strip() or f"{response.status} {response.reason}"
    raise ApiError(response.status, message)
