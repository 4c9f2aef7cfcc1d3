"""A ``sampan registry serve`` for tests: started, asked, killed, started again on its root."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

from tests.registry.registries import TIED, sha256
from tests.registry.server.description import faults

__all__ = ["Answer", "House"]

_DEADLINE = 60.0
_LISTENING = re.compile(r"msg=listening address=(\S+)")


class Answer(NamedTuple):
    status: int
    headers: Any
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def codes(self) -> list[str]:
        """Of the specification's error document."""
        assert self.headers["Content-Type"] == "application/json", self.headers
        errors = self.json()["errors"]
        assert all(one["message"] for one in errors)
        return [one["code"] for one in errors]


class House:
    """The server's process; ``root`` outlives it."""

    def __init__(self, root: Path, *options: str) -> None:
        self.root = root
        self.options = options
        self.where: tuple[str, ...] = ("--root", str(root))
        """For the server, and for the commands beside it."""
        self.log = root.parent / f"{root.name}.log"
        self.starts = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.address = ""
        self.authorization = ""
        self.tls: ssl.SSLContext | None = None

    def start(self) -> House:
        words = ["registry", "serve", *self.where, "--listen", "127.0.0.1:0"]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*TIED, sys.executable, "-m", "sampan.cli", *words, *self.options],
                stdout=log,
                stderr=log,
                env={**os.environ, "NOTIFY_SOCKET": ""},
            )
        deadline = time.monotonic() + _DEADLINE
        while (match := _LISTENING.search(self.log.read_text())) is None:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)
        self.address = match[1]
        return self

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(_DEADLINE)

    def stop(self) -> int:
        """The exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_DEADLINE)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()

    def tool(self, *words: str) -> subprocess.CompletedProcess[str]:
        """``sampan registry gc`` and its like, beside the server."""
        return subprocess.run(
            [sys.executable, "-m", "sampan.cli", "registry", *words, *self.where],
            capture_output=True,
            text=True,
            timeout=_DEADLINE,
            check=False,
        )

    # -- HTTP --------------------------------------------------------------------------------------

    def connect(self) -> http.client.HTTPConnection:
        if self.tls is not None:
            return http.client.HTTPSConnection(
                "127.0.0.1", self.port, timeout=_DEADLINE, context=self.tls
            )
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=_DEADLINE)

    def request(self, method: str, path: str, body: Any = b"", **fields: str) -> Answer:
        """``fields`` are headers with underscores. An iterable body is sent in chunks."""
        connection = self.connect()
        try:
            if self.authorization:
                fields = {"Authorization": self.authorization, **fields}
            headers = {name.replace("_", "-"): value for name, value in fields.items()}
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            data = response.read()
            wrong = faults(method, path, response.status, response.headers, data)
            assert not wrong, (wrong, data[:500])
            return Answer(response.status, response.headers, data)
        finally:
            connection.close()

    def fetch(self, path: str, **fields: str) -> bytes:
        """A blob, as clients get it that are sent to where it is: without our credentials there."""
        answer = self.request("GET", path, **fields)
        assert answer.status == 307, answer
        assert answer.body == b""
        request = urllib.request.Request(answer.headers["Location"])
        for name, value in fields.items():
            request.add_header(name, value)
        with urllib.request.urlopen(request, timeout=_DEADLINE) as response:
            return bytes(response.read())

    def begin(self, repository: str) -> str:
        """An upload's location."""
        answer = self.request("POST", f"/v2/{repository}/blobs/uploads/")
        assert answer.status == 202, answer
        return str(answer.headers["Location"])

    def put_blob(self, repository: str, data: bytes, digest: str = "") -> str:
        digest = digest or sha256(data)
        answer = self.request("PUT", f"{self.begin(repository)}?digest={digest}", data)
        assert answer.status == 201, answer
        return digest

    def put_manifest(
        self, repository: str, reference: str, value: dict[str, Any] | bytes, media_type: str = ""
    ) -> Answer:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        media_type = media_type or json.loads(data)["mediaType"]
        path = f"/v2/{repository}/manifests/{reference}"
        return self.request("PUT", path, data, Content_Type=media_type)

    def push(self, repository: str, tag: str, *layers: bytes, **more: Any) -> str:
        """An image of layers; the manifest's digest."""
        manifest = self.image(repository, *layers, **more)
        answer = self.put_manifest(repository, tag, manifest)
        assert answer.status == 201, answer
        return str(answer.headers["Docker-Content-Digest"])

    def image(self, repository: str, *layers: bytes, **more: Any) -> dict[str, Any]:
        """Put an image's blobs; its manifest."""
        config = more.pop("config", None) or {"os": "linux", "architecture": "amd64"}
        return {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self.described(
                repository,
                json.dumps(config).encode(),
                "application/vnd.oci.image.config.v1+json",
            ),
            "layers": [
                self.described(repository, one, "application/vnd.oci.image.layer.v1.tar")
                for one in layers
            ],
            **more,
        }

    def described(self, repository: str, data: bytes, media_type: str) -> dict[str, Any]:
        """Put a blob; its descriptor."""
        digest = self.put_blob(repository, data)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def said(self, pattern: str) -> re.Match[str]:
        """Wait until the log says so."""
        deadline = time.monotonic() + _DEADLINE
        while (match := re.search(pattern, self.log.read_text())) is None:
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)
        return match

    def blob_files(self) -> list[str]:
        """Digests of what is in the storage."""
        found = (self.root / "blobs").glob("*/*/*.*")
        return sorted(f"{path.parts[-3]}:{path.stem}" for path in found)
