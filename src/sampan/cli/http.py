"""HTTP/1.1 as a client of the Engine API needs it (RFC 9112): one request a time on a socket.

The standard library's http.client costs 25 ms to import (docs/decisions/0009-client-http.md). A
response's head is read to its last byte and no further, so that a hijacked connection can be
handed over.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from sampan.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Response", "quote", "send"]

_CHUNK = 1 << 16
_HEAD_LIMIT = 1 << 20


_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def quote(text: str, safe: str = "") -> str:
    """Percent-encoded (RFC 3986), but for unreserved characters and ``safe`` ones."""
    kept = _UNRESERVED | frozenset(safe.encode())
    data = text.encode(errors="surrogateescape")
    return "".join(chr(byte) if byte in kept else f"%{byte:02X}" for byte in data)


def send(
    sock: socket.socket, method: str, target: str, headers: dict[str, str], body: Any = None
) -> None:
    """Send a request; ``body`` is bytes, an open file (sent chunked), or None. Raises OSError."""
    lines = [f"{method} {target} HTTP/1.1", "Host: sampan"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    chunked = body is not None and not isinstance(body, bytes)
    if chunked:
        lines.append("Transfer-Encoding: chunked")
    elif body is not None or method in ("POST", "PUT"):
        lines.append(f"Content-Length: {len(body or b'')}")
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    if not chunked:
        sock.sendall(head + (body or b""))
        return
    sock.sendall(head)
    read = getattr(body, "read1", body.read)
    try:
        while data := read(_CHUNK):
            sock.sendall(b"%x\r\n%b\r\n" % (len(data), data))
        sock.sendall(b"0\r\n\r\n")
    except (BrokenPipeError, ConnectionResetError):
        # The other side had enough of it; why is in its answer.
        return


class Response:
    """An answer whose head is read; its body is read as it comes, and line by line by iteration.

    ``headers`` have names in lower case. ``reusable``: the next request may go this way, once the
    body has been read.
    """

    def __init__(self, sock: socket.socket, method: str = "GET") -> None:
        """Read the head. Raises OSError, Unavailable for what is not HTTP."""
        self._sock = sock
        self._wire = b""  # of a chunked body: received, not yet taken
        self.status, self.reason, self.headers = _head(sock)
        while self.status == 100:
            self.status, self.reason, self.headers = _head(sock)
        self._chunked = "chunked" in self.headers.get("transfer-encoding", "").lower()
        length = self.headers.get("content-length")
        bodiless = method == "HEAD" or self.status in (101, 204, 304)
        self._left: int | None = 0 if bodiless else None
        if not (bodiless or self._chunked) and length is not None:
            if not length.isdigit():
                raise Unavailable(f"the answer is not HTTP: Content-Length: {length}")
            self._left = int(length)
        self._ended = bodiless or self._left == 0
        self._framed = bodiless or self._chunked or length is not None
        self._close = self.headers.get("connection", "").lower() == "close"

    @property
    def reusable(self) -> bool:
        """Whether the body was read to its end and the connection stays open."""
        return self._ended and self._framed and not self._close

    @property
    def at_hand(self) -> bool:
        """Whether the next piece of the body, or its end, is here already."""
        received = getattr(self._sock, "pending", int)()  # of TLS: read, and not yet asked for
        return self._ended or bool(self._wire) or received > 0

    def read1(self, most: int = _CHUNK) -> bytes:
        """What has come, at most ``most`` bytes; empty at the end. Waits for the first byte."""
        if self._ended:
            return b""
        if self._chunked:
            return self._chunk(most)
        data = self._receive(most if self._left is None else min(most, self._left))
        if self._left is not None:
            if not data:
                raise Unavailable(f"the answer ended {self._left} bytes early")
            self._left -= len(data)
        self._ended = not data or self._left == 0
        return data

    def read(self, most: int = -1) -> bytes:
        """``most`` bytes, fewer only at the end; everything with -1."""
        parts = []
        while most:
            data = self.read1(_CHUNK if most < 0 else min(most, _CHUNK))
            if not data:
                break
            parts.append(data)
            most = most if most < 0 else most - len(data)
        return b"".join(parts)

    def __iter__(self) -> Iterator[bytes]:
        """Each line as soon as it is whole; the last may lack its end."""
        pending = b""
        while data := self.read1():
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                yield line + b"\n"
        if pending:
            yield pending

    def close(self) -> None:
        """Hang up."""
        self._sock.close()

    def _chunk(self, most: int) -> bytes:
        """A piece of a chunked body; ``_left`` is what the present chunk still has."""
        if not self._left:
            size = self._line().partition(b";")[0].strip()
            try:
                self._left = int(size, 16)
            except ValueError:
                raise Unavailable(f"the answer is not HTTP: chunk size {size!r}") from None
            if self._left == 0:
                while self._line():
                    continue  # trailers
                self._ended = True
                return b""
        data = self._raw(min(most, self._left))
        if not data:
            raise Unavailable("the answer ended in the middle")
        self._left -= len(data)
        if not self._left:
            self._line()
        return data

    def _raw(self, most: int) -> bytes:
        if not self._wire:
            self._wire = self._receive(_CHUNK)
        data, self._wire = self._wire[:most], self._wire[most:]
        return data

    def _line(self) -> bytes:
        while b"\n" not in self._wire:
            data = self._receive(_CHUNK)
            if not data:
                raise Unavailable("the answer ended in the middle")
            self._wire += data
        line, _, self._wire = self._wire.partition(b"\n")
        return line.rstrip(b"\r")

    def _receive(self, most: int) -> bytes:
        try:
            return self._sock.recv(most)
        except ConnectionResetError:
            raise Unavailable("the answer ended in the middle: did the daemon die?") from None


def _head(sock: socket.socket) -> tuple[int, str, dict[str, str]]:
    """Status, reason and headers; exactly the head's bytes are taken from the socket."""
    head = b""
    while True:
        data = sock.recv(_CHUNK, socket.MSG_PEEK)
        if not data:
            raise ConnectionResetError(104, "the connection was closed without an answer")
        end = (head + data).find(b"\r\n\r\n")
        if end >= 0:
            sock.recv(end + 4 - len(head))
            head = (head + data)[:end]
            break
        head += sock.recv(len(data))
        if not b"HTTP/1.".startswith(head[:7]) or len(head) > _HEAD_LIMIT:
            break
    first, *rest = head.decode("latin-1").split("\r\n")
    version, _, status = first.partition(" ")
    code, _, reason = status.partition(" ")
    if not version.startswith("HTTP/1.") or not code.isdigit():
        raise Unavailable(f"the answer is not HTTP: {first[:40]!r}")
    headers = {}
    for line in rest:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return int(code), reason, headers
