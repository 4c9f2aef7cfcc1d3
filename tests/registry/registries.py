"""Registries for the tests: Debian's docker-registry in its variants, and one that lies."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Authority", "Liar", "Registry", "TokenServer", "image_of", "put_image", "sha256"]

USER, PASSWORD = "anna", "s3cret:with colon"
_DEADLINE = 60.0
TIED = ("setpriv", "--pdeathsig", "TERM")
"""Before a command: it ends with us, however we end."""
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Authority:
    """A certificate authority of our own, with openssl(1), and certificates for 127.0.0.1."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.certificate = place / "ca.crt"
        self._key = place / "ca.key"
        # fmt: off
        self._openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
                      "-subj", "/CN=Sampan tests", "-keyout", self._key, "-out", self.certificate)
        # fmt: on

    def _openssl(self, *arguments: str | Path) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)

    def issue(self, name: str, host: str = "") -> tuple[Path, Path]:
        """A certificate for servers and clients on this machine, and its key."""
        certificate, key = self.place / f"{name}.cert", self.place / f"{name}.key"
        request, extensions = self.place / f"{name}.csr", self.place / f"{name}.ext"
        names = "IP:127.0.0.1,DNS:localhost"
        if host:
            names += f",{'IP' if host[0].isdigit() else 'DNS'}:{host}"
        extensions.write_text(f"subjectAltName={names}\n")
        # fmt: off
        self._openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}",
                      "-keyout", key, "-out", request)
        self._openssl("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key,
                      "-CAcreateserial", "-days", "2", "-extfile", extensions, "-out", certificate)
        # fmt: on
        return certificate, key


class TokenServer:
    """The distribution project's token authentication: JWTs for who knows the password.

    ``asked`` are the queries it got. ``life`` is what tokens say of their own expiry.
    """

    def __init__(self, authority: Authority, *, anonymous: bool = False) -> None:
        self.certificate, self._key = authority.issue("tokens")
        self.bundle = authority.certificate
        self.anonymous = anonymous
        self.asked: list[dict[str, list[str]]] = []
        self.refresh_token = "refresh-me"
        outer = self

        class Handler(_Quiet):
            def do_GET(self) -> None:
                query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
                outer.asked.append(query)
                expected = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
                known = self.headers.get("Authorization", "") == f"Basic {expected}"
                if not known and (not outer.anonymous or self.headers.get("Authorization")):
                    self.answer(401, b'{"errors":[{"code":"UNAUTHORIZED","message":"who?"}]}')
                    return
                token = {"token": outer.token(query.get("scope", []), known), "expires_in": 60}
                if "offline_token" in query:
                    token["refresh_token"] = outer.refresh_token
                self.answer(200, json.dumps(token).encode())

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                query = urllib.parse.parse_qs(body)
                outer.asked.append(query)
                if query["refresh_token"] != [outer.refresh_token]:
                    self.answer(401, b"{}")
                    return
                scopes = query.get("scope", [""])[0].split(" ")
                token = {"access_token": outer.token(scopes, True)}
                self.answer(200, json.dumps(token).encode())

        self._server = _serve(Handler)
        self.realm = f"http://127.0.0.1:{self._server.server_address[1]}/token"

    def token(self, scopes: list[str], known: bool) -> str:
        """RS256, as the registry of the distribution project takes it: with its certificate."""
        access = []
        for scope in scopes:
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            allowed = actions.split(",") if known else ["pull"]
            access.append({"type": kind, "name": name, "actions": allowed})
        der = ssl.PEM_cert_to_DER_cert(self.certificate.read_text())
        now = int(time.time())
        head = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        claims = {
            "iss": "sampan-tests",
            "sub": USER,
            "aud": "tests",
            "exp": now + 300,
            "nbf": now - 60,
            "iat": now,
            "jti": os.urandom(8).hex(),
            "access": access,
        }
        signed = f"{_url64(json.dumps(head).encode())}.{_url64(json.dumps(claims).encode())}"
        signature = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", str(self._key)],
            input=signed.encode(),
            capture_output=True,
            check=True,
        ).stdout
        return f"{signed}.{_url64(signature)}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _url64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class _Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    close_connection: bool

    def log_message(self, format: str, *args: object) -> None:
        """Not on the tests' terminal."""

    def answer(self, status: int, body: bytes = b"", **fields: str) -> None:
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in fields:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is what many a test is about."""


def _serve(
    handler: type[BaseHTTPRequestHandler], address: str = "127.0.0.1"
) -> ThreadingHTTPServer:
    server = _Server((address, 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


class Registry:
    """Debian's docker-registry on a loopback port of its own."""

    def __init__(
        self,
        root: Path,
        *,
        password: bool = False,
        tls: tuple[Path, Path] | None = None,
        client_ca: Path | None = None,
        tokens: TokenServer | None = None,
        address: str = "127.0.0.1",
    ) -> None:
        program = shutil.which("docker-registry")
        if program is None:
            pytest.skip("docker-registry is not installed")
        self.root = root
        self.port = free_port()
        self._host = address
        self.address = f"{address}:{self.port}"
        self.tls = tls
        http: dict[str, Any] = {"addr": self.address, "secret": "tests"}
        if tls is not None:
            http["tls"] = {"certificate": str(tls[0]), "key": str(tls[1])}
            if client_ca is not None:
                http["tls"]["clientcas"] = [str(client_ca)]
        config: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(root / "data")},
                "delete": {"enabled": True},
            },
            "http": http,
        }
        if password:
            # fmt: off
            made = subprocess.run(["htpasswd", "-nbB", USER, PASSWORD],
                                  capture_output=True, check=True)
            # fmt: on
            (root / "htpasswd").write_bytes(made.stdout)
            config["auth"] = {"htpasswd": {"realm": "tests", "path": str(root / "htpasswd")}}
        if tokens is not None:
            config["auth"] = {
                "token": {
                    "realm": tokens.realm,
                    "service": "tests",
                    "issuer": "sampan-tests",
                    "rootcertbundle": str(tokens.bundle),
                }
            }
        path = root / "config.yml"
        path.write_text(json.dumps(config))  # JSON is YAML
        with (root / "log").open("wb") as log:
            command = [*TIED, program, "serve", str(path)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        self._await()

    def _await(self) -> None:
        deadline = time.monotonic() + _DEADLINE
        while time.monotonic() < deadline:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection((self._host, self.port)).close()
                return
            assert self._process.poll() is None, (self.root / "log").read_text()
            time.sleep(0.02)
        raise AssertionError("docker-registry did not start")

    def request(self, method: str, path: str, body: bytes = b"", **fields: str) -> Any:
        """A plain request of a registry without authentication: status, fields and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            headers = {name.replace("_", "-"): value for name, value in fields.items()}
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def put_blob(self, repository: str, data: bytes) -> None:
        status, fields, _ = self.request("POST", f"/v2/{repository}/blobs/uploads/")
        assert status == 202
        place = urllib.parse.urlsplit(fields["Location"])
        target = f"{place.path}?{place.query}&digest={sha256(data)}"
        status, _, body = self.request("PUT", target, data)
        assert status == 201, body

    def put_manifest(self, repository: str, tag: str, data: bytes, media_type: str) -> None:
        path = f"/v2/{repository}/manifests/{tag}"
        status, _, body = self.request("PUT", path, data, Content_Type=media_type)
        assert status == 201, body

    def manifest(self, repository: str, tag: str) -> tuple[str, dict[str, Any]]:
        """Digest and content of what a tag stands for."""
        accept = (
            f"{OCI_MANIFEST}, {OCI_INDEX}, application/vnd.docker.distribution.manifest.v2+json"
        )
        status, _, body = self.request("GET", f"/v2/{repository}/manifests/{tag}", Accept=accept)
        assert status == 200, body
        return sha256(body), json.loads(body)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(60)


def image_of(
    layers: list[bytes], media: str = OCI_LAYER, config: bytes | None = None, **more: Any
) -> tuple[bytes, dict[str, bytes]]:
    """An OCI manifest, and the blobs it names by their digests."""
    from tests.image.archives import configuration

    blobs: dict[str, bytes] = {}

    def described(data: bytes, kind: str) -> dict[str, Any]:
        blobs[sha256(data)] = data
        return {"mediaType": kind, "digest": sha256(data), "size": len(data)}

    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": described(config or configuration(layers), OCI_CONFIG),
        "layers": [described(data, media) for data in layers],
        **more,
    }
    return json.dumps(manifest).encode(), blobs


def put_image(registry: Registry, repository: str, tag: str, layers: list[bytes]) -> str:
    """Put an image of uncompressed layers into a registry; the manifest's digest."""
    manifest, blobs = image_of(layers)
    for data in blobs.values():
        registry.put_blob(repository, data)
    registry.put_manifest(repository, tag, manifest, OCI_MANIFEST)
    return sha256(manifest)


Answer = Callable[["_Quiet"], None]


class Liar:
    """A registry that does what a test says, path by path, and remembers what it was asked.

    Blobs and manifests added with ``hold`` are answered truthfully, with ``Range``, unless
    ``paths`` says otherwise.
    """

    def __init__(self, tls: tuple[Path, Path] | None = None, address: str = "127.0.0.1") -> None:
        self.paths: dict[tuple[str, str], Answer] = {}
        self.held: dict[str, tuple[str, bytes]] = {}
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.lock = threading.Lock()
        outer = self

        class Handler(_Quiet):
            def _any(self) -> None:
                path = self.path.partition("?")[0]
                with outer.lock:
                    fields = {name.lower(): value for name, value in self.headers.items()}
                    outer.asked.append((self.command, self.path, fields))
                answer = outer.paths.get((self.command, path))
                if answer is not None:
                    answer(self)
                elif path in outer.held and self.command in ("GET", "HEAD"):
                    outer.truth(self, path)
                elif path == "/v2/":
                    self.answer(200, b"{}")
                else:
                    body = b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}'
                    self.answer(404, body, Content_Type="application/json")

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _any

        self.server = _serve(Handler, address)
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = int(self.server.server_address[1])
        self.address = f"{address}:{self.port}"

    def truth(self, request: _Quiet, path: str) -> None:
        """The held bytes; the rest of them for a range."""
        kind, data = self.held[path]
        wanted = request.headers.get("Range", "")
        if wanted.startswith("bytes="):
            start = int(wanted[6:].rstrip("-"))
            place = f"bytes {start}-{len(data) - 1}/{len(data)}"
            request.answer(206, data[start:], Content_Type=kind, Content_Range=place)
        else:
            request.answer(200, data, Content_Type=kind)

    def hold(self, repository: str, tag: str, manifest: bytes, blobs: dict[str, bytes]) -> None:
        """Have an image, by its tag and digests."""
        for name in (tag, sha256(manifest)):
            self.held[f"/v2/{repository}/manifests/{name}"] = OCI_MANIFEST, manifest
        for digest, data in blobs.items():
            self.held[f"/v2/{repository}/blobs/{digest}"] = "application/octet-stream", data

    def requests(self, method: str, path: str) -> list[dict[str, str]]:
        """The fields of every request of a path."""
        with self.lock:
            return [
                fields
                for asked, at, fields in self.asked
                if asked == method and at.partition("?")[0] == path
            ]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def liar() -> Iterator[Liar]:
    one = Liar()
    yield one
    one.close()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """One without authentication, for all tests: each uses repositories of its own."""
    one = Registry(tmp_path_factory.mktemp("registry"))
    yield one
    one.close()
