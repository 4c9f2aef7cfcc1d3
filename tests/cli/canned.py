"""A server that answers as it was told, and remembers what it was asked.

For what is the client's alone: how it prints an answer, and what request its flags make. Docker's
own client and ours are put in front of it and compared. Nothing about containers is pretended:
whoever needs one uses a daemon.
"""

from __future__ import annotations

import json
import socket
import threading
import urllib.parse
from pathlib import Path
from typing import Any

__all__ = ["Canned", "Request"]


class Request:
    """What a client sent."""

    def __init__(self, method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.body = body

    @property
    def path(self) -> str:
        """Without the version and the query."""
        path = self.target.partition("?")[0]
        return "/" + path.split("/", 2)[2] if path.startswith("/v1.") else path

    def filters(self) -> dict[str, list[str]]:
        """The ``filters`` of the query: values, or the old form, values that are true."""
        query = urllib.parse.parse_qs(self.target.partition("?")[2])
        decoded = json.loads(query.get("filters", ["{}"])[0])
        return {name: sorted(values) for name, values in decoded.items()}

    def json(self) -> Any:
        return json.loads(self.body)


class Canned:
    """Listens on a Unix socket; ``answers`` maps "GET /path" to (status, JSON)."""

    def __init__(self, place: Path) -> None:
        self.host = f"unix://{place}"
        self.answers: dict[str, tuple[int, Any]] = {}
        self.requests: list[Request] = []
        self.version = "1.51"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(place))
        self._listener.listen(64)
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def asked(self, method: str, path: str) -> list[Request]:
        return [r for r in self.requests if (r.method, r.path) == (method, path)]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, sock.makefile("rb") as file:
            while line := file.readline():
                method, target, _ = line.decode().split(" ")
                headers = {}
                while (header := file.readline().decode().strip()) != "":
                    name, _, value = header.partition(":")
                    headers[name.lower()] = value.strip()
                request = Request(method, target, headers, _body(file, headers))
                self.requests.append(request)
                status, answer = self._answer(request)
                data = json.dumps(answer).encode() if answer is not None else b""
                head = f"HTTP/1.1 {status} X\r\nApi-Version: {self.version}\r\nOstype: linux\r\n"
                head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
                sock.sendall(head.encode() + (b"" if method == "HEAD" else data))

    def _answer(self, request: Request) -> tuple[int, Any]:
        if request.path == "/_ping":
            return 200, None
        key = f"{request.method} {request.path}"
        return self.answers.get(key, (404, {"message": f"No such thing: {key}"}))


def _body(file: Any, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") == "chunked":
        parts = []
        while size := int(file.readline(), 16):
            parts.append(file.read(size))
            file.readline()
        file.readline()
        return b"".join(parts)
    return bytes(file.read(int(headers.get("content-length") or 0)))
