"""A real S3 server for tests (``rclone serve s3``), and one in front of it that fails on demand."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.registry.registries import TIED

__all__ = ["ENVIRONMENT", "Bucket", "Faulty"]

_DEADLINE = 60.0
_KEY, _SECRET = "TESTKEYTESTKEY", "testsecrettestsecret"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": _KEY,
    "AWS_SECRET_ACCESS_KEY": _SECRET,
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}


class Bucket:
    """The server's process; directories of ``place`` are its buckets."""

    def __init__(self, place: Path) -> None:
        self.place = place
        (place / "bucket").mkdir(parents=True)
        self._log = place.parent / f"{place.name}.log"
        # The package has the program, and no module that would say where it is.
        program = Path(sys.executable).parent / "rclone"
        options = ["--addr", "127.0.0.1:0", "--auth-key", f"{_KEY},{_SECRET}"]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *TIED,
                    program,
                    "serve",
                    "s3",
                    "--config",
                    os.devnull,
                    *options,
                    place,
                ],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + _DEADLINE
        while (match := re.search(r"\[(http://\S+:\d+)/\]", self._log.read_text())) is None:
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.02)
        self.endpoint = match[1]

    def address(self, prefix: str, endpoint: str = "") -> str:
        """For ``--storage``."""
        return f"s3://bucket/{prefix}?endpoint={endpoint or self.endpoint}"

    def folder(self, prefix: str) -> Path:
        """Where the objects of a prefix are files."""
        return self.place / "bucket" / prefix

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(_DEADLINE)


class Faulty:
    """Stands in front of a bucket, and fails: ``503``, or ``cut`` amid a long request."""

    def __init__(self, endpoint: str) -> None:
        self._target = endpoint.removeprefix("http://").rpartition(":")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.failed = 0
        self._mode = ""
        self._marked = b""
        self.reached = threading.Event()
        """A marked request has come."""
        self.waiting = 0
        """Such requests at the moment."""
        self._let = threading.Event()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def be(self, mode: str) -> None:
        """From now on, for connections that are there as well."""
        self._mode = mode
        self._drop()

    def hold(self, mark: bytes) -> None:
        """Requests with ``mark`` in their head wait from now on; then they go on, or are a 503."""
        self.reached.clear()
        self._let.clear()
        self._marked = mark

    def let(self, mode: str = "") -> None:
        """Those that wait, and those to come: on to the bucket, or a ``503``."""
        self._mode, self._marked = mode, b"" if not mode else self._marked
        self._let.set()

    def close(self) -> None:
        self.let()
        self._listener.close()
        self._drop()

    def _drop(self) -> None:
        with self._lock:
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            if self._mode == "503" and not self._marked:
                self.failed += 1
                with contextlib.suppress(OSError):
                    client.recv(65536)
                    client.sendall(_SLOW_DOWN)
                return
            with socket.create_connection((self._target[0], int(self._target[2]))) as server:
                with self._lock:
                    self._open |= {client, server}
                back = threading.Thread(target=self._pump, args=(server, client, False))
                back.start()
                self._pump(client, server, True)
                back.join()
                with self._lock:
                    self._open -= {client, server}

    def _wait(self) -> None:
        with self._lock:
            self.waiting += 1
        self.reached.set()
        self._let.wait(_DEADLINE)
        with self._lock:
            self.waiting -= 1

    def _pump(self, source: socket.socket, target: socket.socket, up: bool) -> None:
        total = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                total += len(data)
                # A head comes alone: whoever asks waits for the answer to what came before.
                if up and self._marked and self._marked in data.partition(b"\r\n\r\n")[0]:
                    self._wait()
                    if self._mode == "503":
                        self.failed += 1
                        source.sendall(_SLOW_DOWN)
                        break
                if up and self._mode == "cut" and total > 1_000_000:
                    self.failed += 1
                    break
                target.sendall(data)
        if not up and self._marked:
            # The bucket is tired of a head that does not come: nobody hears of it before the end.
            self._let.wait(_DEADLINE)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


_ERROR = b"<Error><Code>SlowDown</Code><Message>Please reduce your rate</Message></Error>"
_SLOW_DOWN = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s"
) % (len(_ERROR), _ERROR)
