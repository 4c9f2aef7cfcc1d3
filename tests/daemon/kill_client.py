"""Requests to a daemon that may be away: for loads under which it is killed."""

from __future__ import annotations

import http.client
import json
import socket
import time
import urllib.parse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.daemon_fixture import Daemon

__all__ = ["PATIENCE", "AwayError", "Client"]

PATIENCE = 60.0
"""Seconds in which whatever was asked has happened, the daemon's absences included."""


class AwayError(Exception):
    """The daemon gave no answer: it was killed, or has not yet been started again."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Client:
    """Requests without any checks: an answer's status and body, or AwayError."""

    def __init__(self, daemon: Daemon) -> None:
        self._socket = daemon.socket

    def ask(
        self, method: str, path: str, body: object = None, **query: object
    ) -> tuple[int, bytes]:
        if query:
            path += "?" + urllib.parse.urlencode(query)
        data = None if body is None else json.dumps(body).encode()
        headers = {} if data is None else {"Content-Type": "application/json"}
        connection = _Connection(self._socket)
        try:
            connection.request(method, path, body=data, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise AwayError from error
        finally:
            connection.close()

    def insist(
        self, method: str, path: str, body: object = None, **query: object
    ) -> tuple[int, bytes]:
        """Ask until there is an answer: for what may be asked twice."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return self.ask(method, path, body, **query)
            except AwayError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.03)

    def inspect(self, container: str) -> dict[str, Any] | None:
        """What it is, or None when there is no such container."""
        status, body = self.insist("GET", f"/containers/{container}/json")
        return None if status == 404 else dict(json.loads(body))

    def log(self, container: str) -> str:
        status, data = self.insist("GET", f"/containers/{container}/logs", stdout=1, stderr=1)
        if status != 200:
            return f"status {status}: {data!r}"
        return unframed(data)

    def converse(self, exec_id: str) -> str:
        """Start an exec and read its output to the end, whatever becomes of the daemon.

        Raises AwayError when the stream was not begun.
        """
        connection = _Connection(self._socket)
        try:
            body = json.dumps({"Detach": False, "Tty": False})
            headers = {
                "Content-Type": "application/json",
                "Connection": "Upgrade",
                "Upgrade": "tcp",
            }
            connection.request("POST", f"/exec/{exec_id}/start", body, headers)
            assert connection.sock is not None
            data = b""
            while received := connection.sock.recv(65536):
                data += received
        except OSError as error:
            raise AwayError from error
        finally:
            connection.close()
        head, end, stream = data.partition(b"\r\n\r\n")
        if not end:
            raise AwayError
        return unframed(stream) if b" 101 " in head else f"{head!r}: {stream!r}"


def unframed(data: bytes) -> str:
    """The text of both streams."""
    text = b""
    while data:
        length = int.from_bytes(data[4:8], "big")
        text, data = text + data[8 : 8 + length], data[8 + length :]
    return text.decode()
