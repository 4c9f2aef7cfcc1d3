"""Requests to a daemon as steps: the command line's own HTTP, waited for in either form.

What is short (to connect, to send, to read what has come) is done on a thread where there is an
event loop; what may last (for an answer to begin, for its next piece) is waited for on the
connection itself, so that it can be cancelled. Each request has a connection of its own.
"""

from __future__ import annotations

import json
import select
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from sampan import errors
from sampan.cli import autostart
from sampan.cli.client import Client
from sampan.cli.flags import Values
from sampan.cli.http import Response, quote, send
from sampan.cli.settings import Settings
from sampan.cli.transport import connect, unreachable
from sampan.sdk.result import Chunk
from sampan.sdk.steps import Steps, wait, work

if TYPE_CHECKING:
    import socket

__all__ = ["Answer", "Filters", "Frames", "Wire", "filter_query", "name_in_path"]

_TREE: dict[int, type[errors.SampanError]] = {
    400: errors.InvalidArgument,
    401: errors.Unauthenticated,
    403: errors.PermissionDenied,
    404: errors.NotFound,
    409: errors.Conflict,
    501: errors.NotSupported,
    503: errors.Unavailable,
}
_HEADER = 8
_STREAMS = {1: "stdout", 2: "stderr"}


Filters = Mapping[str, Sequence[str]]


def filter_query(filters: Filters | None) -> dict[str, list[str]] | None:
    """The API's filters as a parameter."""
    return {name: [*values] for name, values in filters.items()} if filters else None


def name_in_path(name: str) -> str:
    """A name or ID as a segment of a path; an image's may hold slashes."""
    if not name:
        raise errors.InvalidArgument("the name is empty: give a name or an ID")
    return quote(name, "/:@")


class Wire(Client):
    """One daemon: the one of ``host``, or the one this program's environment names."""

    def __init__(self, host: str | None, start: bool) -> None:
        super().__init__(Settings(Values({"host": [host]} if host else {}, [])))
        self._may_start = start

    def begin(
        self, method: str, path: str, query: Mapping[str, object], body: object
    ) -> socket.socket:
        """Send a request; ``body`` is bytes, a file, a value for JSON, or None. Blocks.

        Raises Unavailable, PermissionDenied; starts a daemon where there is none and it may.
        """
        if self._may_start:
            autostart.ensure(self.host)
            self._may_start = False
        headers = {}
        if body is not None and not isinstance(body, bytes) and not hasattr(body, "read"):
            headers["Content-Type"] = "application/json"
            body = json.dumps(body).encode()
        elif body is not None:
            headers["Content-Type"] = "application/x-tar"
        if path.endswith("/start") and path.startswith("/exec/"):
            headers |= {"Connection": "Upgrade", "Upgrade": "tcp"}
        target = self._versioned() + path + _query(query)
        try:
            sock = self._reused() or connect(self.endpoint)
            send(sock, method, target, self._headers(headers), body)
        except OSError as error:
            raise unreachable(self.host, error) from error
        return sock

    def finish(self, answer: Answer) -> None:
        """Keep a connection whose answer has been read, or hang up."""
        if answer.reusable:
            self._idle.append(answer.sock)
        else:
            answer.close()

    def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, object] | None = None,
        body: object = None,
    ) -> Steps[bytes]:
        """A request, and all of its answer's body. Raises the errors of ``sampan.errors``."""
        answer = yield from self.open(method, path, query, body)
        pieces = []
        try:
            while piece := (yield from answer.piece()):
                pieces.append(piece)
        except BaseException:
            answer.close()
            raise
        self.finish(answer)
        return b"".join(pieces)

    def json(self, path: str) -> Steps[dict[str, Any]]:
        """What a GET answers."""
        data = yield from self.call("GET", path)
        found: dict[str, Any] = msgspec.json.decode(data)
        return found

    def open(
        self,
        method: str,
        path: str,
        query: Mapping[str, object] | None = None,
        body: object = None,
    ) -> Steps[Answer]:
        """A request, and its answer with the body unread."""
        sock = yield from work(lambda: self.begin(method, path, query or {}, body))
        try:
            yield from wait({sock.fileno(): select.POLLIN})
            answer = yield from work(lambda: Answer(sock, method, self.host))
            if answer.status >= 400:
                raise _error(answer.status, (yield from answer.rest()))
        except BaseException:
            sock.close()
            raise
        return answer


class Answer:
    """An answer, and its body in pieces."""

    def __init__(self, sock: socket.socket, method: str, host: str) -> None:
        self.sock = sock
        try:
            self._response = Response(sock, method)
        except OSError as error:
            raise unreachable(host, error) from error
        self.status = self._response.status
        # A connection that was taken over is the answer's body, without end or frames.
        self._raw = self.status == 101

    @property
    def reusable(self) -> bool:
        return self._response.reusable and not self._raw

    def close(self) -> None:
        self.sock.close()

    def piece(self) -> Steps[bytes]:
        """The next piece of the body; empty at its end."""
        if self._raw or not self._response.at_hand:
            yield from wait({self.sock.fileno(): select.POLLIN})
        if self._raw:
            return (yield from work(lambda: self.sock.recv(1 << 16)))
        return (yield from work(self._response.read1))

    def rest(self) -> Steps[bytes]:
        """All that is left of the body."""
        pieces = []
        while piece := (yield from self.piece()):
            pieces.append(piece)
        return b"".join(pieces)


class Frames:
    """Takes a multiplexed stream as it comes, gives its frames (Engine API, "Stream format")."""

    def __init__(self, raw: bool) -> None:
        self._raw = raw
        self._rest = b""

    def feed(self, data: bytes) -> list[Chunk]:
        if self._raw:
            return [Chunk("stdout", data)]
        chunks = []
        data = self._rest + data
        while len(data) >= _HEADER:
            end = _HEADER + int.from_bytes(data[4:_HEADER], "big")
            if len(data) < end:
                break
            chunks.append(Chunk(_STREAMS.get(data[0], "stdout"), data[_HEADER:end]))
            data = data[end:]
        self._rest = data
        return chunks


def _query(query: Mapping[str, object]) -> str:
    words = []
    for name, value in query.items():
        if value is None or value is False or value == "":
            continue
        text = json.dumps(value) if isinstance(value, dict) else str(value)
        items = value if isinstance(value, list) else ["1" if value is True else text]
        words += [f"{name}={quote(str(item))}" for item in items]
    return "?" + "&".join(words) if words else ""


def _error(status: int, body: bytes) -> errors.SampanError:
    try:
        message = str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        message = body.decode("utf-8", "replace").strip() or f"status {status}"
    return _TREE.get(status, errors.SampanError)(message)
