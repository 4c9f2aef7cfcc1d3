"""Push, to real registries and to one that is difficult; skopeo and podman read it back."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import random
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.pulling import auth, nothing_stays, partials, pull
from tests.daemon_fixture import Daemon
from tests.image.archives import BASE, ONE, docker_save
from tests.registry.registries import (
    OCI_LAYER,
    PASSWORD,
    USER,
    Authority,
    Liar,
    Registry,
    TokenServer,
    image_of,
    put_image,
    sha256,
)
from tests.storage.drivers.layers import layer

pytestmark = pytest.mark.root
__all__ = ["nothing_stays"]

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
NOISE = random.Random(3).randbytes(9_000_000)
BIG = layer({"big": NOISE})


def load(daemon: Daemon, name: str, layers: list[bytes]) -> None:
    answer = daemon.request("POST", "/images/load", docker_save(layers, [name]))
    assert answer.status == 200, answer.body


def push(daemon: Daemon, name: str, tag: str = "", **query: object) -> list[Any]:
    headers = query.pop("headers", {})
    answer = daemon.request(
        "POST",
        f"/images/{name}/push",
        query={"tag": tag, **query},
        headers=headers,  # type: ignore[arg-type]
        timeout=90,
    )
    assert answer.status == 200, answer.body
    return [json.loads(line) for line in answer.body.splitlines()]


def states(messages: list[Any], data: bytes) -> list[str]:
    """What was told of a layer, each statement once."""
    name = sha256(data)[7:19]
    return list(dict.fromkeys(m["status"] for m in messages if m.get("id") == name))


# -- images --------------------------------------------------------------------------------------


def test_the_docker_client_pushes_and_others_read_it(
    daemon: Daemon, registry: Registry, tmp_path: Path
) -> None:
    name = f"{registry.address}/push/read:1"
    root = layer({"./": None, "bin/": None, "bin/sh": Path("/bin/busybox").read_bytes()}, 0o755)
    load(daemon, name, [root, ONE])
    pushed = daemon.docker("push", name)
    assert pushed.returncode == 0, pushed.stderr
    assert f"The push refers to repository [{registry.address}/push/read]" in pushed.stdout
    digest, manifest = registry.manifest("push/read", "1")
    assert f"1: digest: {digest} size: " in pushed.stdout
    assert manifest["mediaType"] == DOCKER_MANIFEST
    shown = daemon.get(f"/images/{name}/json").json()
    assert manifest["config"]["digest"] == shown["Id"]
    assert shown["RepoDigests"] == [f"{registry.address}/push/read@{digest}"]
    if shutil.which("skopeo"):
        # fmt: off
        inspected = subprocess.run(
            ["skopeo", "inspect", "--tls-verify=false", f"docker://{name}"],
            capture_output=True, check=True)
        subprocess.run(
            ["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{name}",
             f"oci:{tmp_path}/layout:1"], check=True)
        # fmt: on
        assert json.loads(inspected.stdout)["Digest"] == digest
    if shutil.which("podman"):
        # fmt: off
        short = tempfile.mkdtemp(prefix="sp", dir="/tmp")  # its paths may have 50 bytes
        podman = ["podman", "--root", f"{short}/root", "--runroot", f"{short}/run",
                  "--storage-driver", "vfs"]
        pulled = subprocess.run([*podman, "pull", "-q", "--tls-verify=false", name],
                                capture_output=True, text=True, check=False)
        shutil.rmtree(short)
        # fmt: on
        assert pulled.returncode == 0, pulled.stderr
        assert f"sha256:{pulled.stdout.strip()}" == shown["Id"]


def test_what_was_pushed_is_pulled_again_the_same(daemon: Daemon, registry: Registry) -> None:
    name = f"{registry.address}/push/again:1"
    load(daemon, name, [BASE, BIG])
    identity = daemon.get(f"/images/{name}/json").json()["Id"]
    messages = push(daemon, name)
    assert daemon.delete(f"/images/{name}").status == 200
    pull(daemon, f"{registry.address}/push/again", "1")
    assert daemon.get(f"/images/{name}/json").json()["Id"] == identity
    assert messages[-1]["aux"]["Digest"] == registry.manifest("push/again", "1")[0]


def test_each_layer_tells_its_story(daemon: Daemon, registry: Registry) -> None:
    name = f"{registry.address}/push/story"
    load(daemon, f"{name}:1", [BASE, BIG])
    messages = push(daemon, name, "1")
    assert messages[0] == {"status": f"The push refers to repository [{name}]"}
    told = states(messages, BIG)
    assert told[0] == "Preparing"
    assert told[-1] == "Pushed"
    assert set(told) <= {"Preparing", "Waiting", "Pushing", "Pushed"}
    for message in messages:
        if message.get("status") == "Pushing":
            detail = message["progressDetail"]
            assert 0 < detail["current"] <= detail["total"]
    digest, manifest = registry.manifest("push/story", "1")
    size = len(json.dumps(manifest, separators=(",", ":")))
    assert messages[-2] == {"status": f"1: digest: {digest} size: {size}"}
    assert messages[-1] == {
        "progressDetail": {},
        "aux": {"Tag": "1", "Digest": digest, "Size": size},
    }
    again = push(daemon, name, "1")
    assert states(again, BIG)[-1] == "Layer already exists"
    assert again[-1] == messages[-1]


def test_an_image_that_was_pulled_keeps_its_digest(daemon: Daemon, registry: Registry) -> None:
    digest = put_image(registry, "push/kept", "1", [BASE, ONE])
    pull(daemon, f"{registry.address}/push/kept", "1")
    daemon.post(
        f"/images/{registry.address}/push/kept:1/tag",
        repo=f"{registry.address}/push/moved",
        tag="2",
    )
    messages = push(daemon, f"{registry.address}/push/moved", "2")
    assert messages[-1]["aux"]["Digest"] == digest
    assert registry.manifest("push/moved", "2")[0] == digest
    assert states(messages, BASE)[-1] == "Mounted from push/kept"


def test_layers_go_as_what_they_are_packed_with(daemon: Daemon, registry: Registry) -> None:
    from backports import zstd

    pack: dict[str, Callable[[bytes], bytes]]
    pack = {"gzip": gzip.compress, "zstd": zstd.compress, "bzip2": bz2.compress, "plain": bytes}
    for kind, packed in pack.items():
        plain = layer({"./": None, kind: b"1"})
        data = packed(plain)
        name = f"{registry.address}/push/{kind}"
        answer = daemon.request(
            "POST", "/images/create", data, query={"fromSrc": "-", "repo": name, "tag": "1"}
        )
        assert answer.status == 200, answer.body
        push(daemon, name, "1")
        _, manifest = registry.manifest(f"push/{kind}", "1")
        (sent,) = manifest["layers"]
        if kind in ("gzip", "zstd"):
            assert sent["digest"] == sha256(data)
        assert sent["mediaType"].endswith("zstd" if kind == "zstd" else "gzip")
        status, _, body = registry.request("GET", f"/v2/push/{kind}/blobs/{sent['digest']}")
        unpack = zstd.decompress if kind == "zstd" else gzip.decompress
        assert (status, unpack(body)) == (200, plain)


def test_without_a_tag_all_of_them_go(daemon: Daemon, registry: Registry) -> None:
    name = f"{registry.address}/push/all"
    for tag in ("one", "two"):
        load(daemon, f"{name}:{tag}", [BASE, layer({tag: b"x"})])
    pushed = daemon.docker("push", "-a", name)
    assert pushed.returncode == 0, pushed.stderr
    _, _, body = registry.request("GET", "/v2/push/all/tags/list")
    assert sorted(json.loads(body)["tags"]) == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("push/nothing", "An image does not exist locally with the tag: "),
        ("push/here:other", "tag does not exist: "),
    ],
)
def test_what_is_not_here_cannot_be_pushed(
    daemon: Daemon, registry: Registry, name: str, words: str
) -> None:
    load(daemon, f"{registry.address}/push/here:1", [BASE])
    messages = push(daemon, f"{registry.address}/{name}")
    assert messages[-1]["error"].startswith(f"{words}{registry.address}/{name}")


def test_the_platform_asked_for_has_to_be_the_images(daemon: Daemon, registry: Registry) -> None:
    name = f"{registry.address}/push/platform"
    load(daemon, f"{name}:1", [BASE])
    other = push(daemon, name, "1", platform='{"os":"linux","architecture":"s390x"}')
    assert "does not provide the specified platform: wanted linux/s390x" in other[-1]["error"]
    assert "aux" in push(daemon, name, "1", platform='{"os":"linux","architecture":"amd64"}')[-1]
    answer = daemon.post(f"/images/{name}/push", tag="1", platform="linux/amd64")
    assert (answer.status, "platform" in answer.message) == (400, True)


def test_a_push_is_an_event(daemon: Daemon, registry: Registry) -> None:
    name = f"{registry.address}/push/event"
    load(daemon, f"{name}:1", [BASE])
    since = time.time()
    push(daemon, name, "1")
    answer = daemon.get("/events", since=since, until=time.time() + 0.1)
    events = [json.loads(line) for line in answer.body.splitlines()]
    assert [e["Actor"]["ID"] for e in events if e["Action"] == "push"] == [f"{name}:1"]


# -- who we are ----------------------------------------------------------------------------------


def test_a_password_and_a_token_are_shown(
    daemon: Daemon, tmp_path: Path, authority: Authority
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    tokens = TokenServer(authority, anonymous=True)
    basic = Registry(tmp_path / "a", password=True)
    bearer = Registry(tmp_path / "b", tokens=tokens)
    try:
        for registry in (basic, bearer):
            name = f"{registry.address}/a"
            load(daemon, f"{name}:1", [BASE, ONE])
            refused = push(daemon, name, "1")[-1]["error"]
            assert "no basic auth credentials" in refused or "denied" in refused, refused
            assert "error" in push(daemon, name, "1", headers=auth("anna", "wrong"))[-1]
            assert "aux" in push(daemon, name, "1", headers=auth())[-1]
            logged_in = daemon.docker(
                "login", "-u", USER, "--password-stdin", registry.address, stdin=PASSWORD.encode()
            )
            assert logged_in.returncode == 0, logged_in.stderr
            assert daemon.docker("push", f"{name}:1").returncode == 0
            assert daemon.docker("logout", registry.address).returncode == 0
        assert ["repository:a:pull,push"] in [asked.get("scope") for asked in tokens.asked]
    finally:
        basic.close()
        bearer.close()
        tokens.close()


# -- difficulties --------------------------------------------------------------------------------


class Store:
    """The upload side of a registry, in a liar: keeps what it is sent; ``trouble`` goes first."""

    def __init__(self, liar: Liar, repository: str = "a") -> None:
        self.liar = liar
        self.data = b""
        self.blobs: dict[str, bytes] = {}
        self.trouble: list[str] = []
        self.limit = 0
        base = f"/v2/{repository}"
        liar.paths["POST", f"{base}/blobs/uploads/"] = self._begin
        for method in ("GET", "PATCH", "PUT"):
            liar.paths[method, "/upload"] = self._upload
        for tag in ("1",):
            liar.paths["PUT", f"{base}/manifests/{tag}"] = self._manifest

    def _begin(self, request: Any) -> None:
        length = int(request.headers.get("Content-Length", 0))
        request.rfile.read(length)
        self.data = b""
        request.answer(202, b"", Location="/upload?n=1", Range="0-0")

    def _upload(self, request: Any) -> None:
        if request.command == "GET":
            where = f"0-{len(self.data) - 1}" if self.data else "0-0"
            if self.data:
                request.answer(204, b"", Location="/upload?n=2", Range=where)
            else:
                request.answer(404)
            return
        length = int(request.headers["Content-Length"])
        if self.limit and length > self.limit:
            request.answer(413, b"")
            request.close_connection = True
            return
        place = request.headers.get("Content-Range", "")
        if place:
            assert place == f"{len(self.data)}-{len(self.data) + length - 1}"
        if self.trouble and length > 1000:
            trouble = self.trouble.pop(0)
            if trouble == "break":
                self.data += request.rfile.read(length // 2)
                request.connection.shutdown(socket.SHUT_RDWR)
            else:
                request.rfile.read(length)
                request.answer(int(trouble), b"", Retry_After="0")
            request.close_connection = True
            return
        self.data += request.rfile.read(length)
        if request.command == "PATCH":
            request.answer(202, b"", Location="/upload?n=3", Range=f"0-{len(self.data) - 1}")
            return
        digest = request.path.partition("digest=")[2].replace("%3A", ":")
        if sha256(self.data) != digest:
            request.answer(400, b'{"errors":[{"code":"DIGEST_INVALID","message":"no"}]}')
            return
        self.blobs[digest] = self.data
        request.answer(201, b"")

    def _manifest(self, request: Any) -> None:
        data = request.rfile.read(int(request.headers["Content-Length"]))
        request.answer(201, b"", Docker_Content_Digest=sha256(data))


def offsets(liar: Liar, method: str) -> list[str]:
    return [fields.get("content-range", "") for fields in liar.requests(method, "/upload")]


def test_an_upload_that_breaks_goes_on_where_the_registry_says(daemon: Daemon, liar: Liar) -> None:
    store = Store(liar)
    load(daemon, f"{liar.address}/a:1", [BIG])
    store.trouble = ["break"]
    messages = push(daemon, f"{liar.address}/a", "1")
    assert "aux" in messages[-1], messages[-1]
    assert any(message.get("status", "").startswith("Retrying in") for message in messages)
    (place,) = offsets(liar, "PATCH")
    assert int(place.partition("-")[0]) > 4_000_000
    assert BIG in [gzip.decompress(data) for data in store.blobs.values() if data[:1] == b"\x1f"]


def test_an_upload_that_fails_is_begun_anew(daemon: Daemon, liar: Liar) -> None:
    store = Store(liar)
    load(daemon, f"{liar.address}/a:1", [BIG])
    store.trouble = ["500", "503"]
    assert "aux" in push(daemon, f"{liar.address}/a", "1")[-1]
    assert offsets(liar, "PATCH") == []


def test_an_upload_that_never_works_ends(daemon: Daemon, liar: Liar) -> None:
    store = Store(liar)
    load(daemon, f"{liar.address}/a:1", [BIG])
    store.trouble = ["500"] * 50
    messages = push(daemon, f"{liar.address}/a", "1")
    assert "HTTP 500" in messages[-1]["error"]
    assert len(store.trouble) == 45


def test_a_registry_that_takes_no_large_bodies_gets_pieces(daemon: Daemon, liar: Liar) -> None:
    store = Store(liar)
    store.limit = 8 << 20
    load(daemon, f"{liar.address}/a:1", [BIG])
    assert "aux" in push(daemon, f"{liar.address}/a", "1")[-1]
    assert [place.partition("-")[0] for place in offsets(liar, "PATCH")] == ["0", str(8 << 20)]


def test_a_registry_that_stores_another_manifest_is_caught(daemon: Daemon, liar: Liar) -> None:
    Store(liar)
    load(daemon, f"{liar.address}/a:1", [BASE])

    def other(request: Any) -> None:
        request.rfile.read(int(request.headers["Content-Length"]))
        request.answer(201, b"", Docker_Content_Digest=sha256(b"another"))

    liar.paths["PUT", "/v2/a/manifests/1"] = other
    assert "the registry stored sha256:" in push(daemon, f"{liar.address}/a", "1")[-1]["error"]


def test_a_client_that_goes_away_ends_the_push(daemon: Daemon, liar: Liar) -> None:
    Store(liar)
    load(daemon, f"{liar.address}/a:1", [BIG])
    reached, gone = threading.Event(), threading.Event()

    def hang(request: Any) -> None:
        request.rfile.read(100_000)
        reached.set()
        while request.rfile.read(65536):
            pass
        gone.set()

    liar.paths["PUT", "/upload"] = hang
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(daemon.socket)
    sock.sendall(f"POST /images/{liar.address}/a/push?tag=1 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert reached.wait(60)
    sock.close()
    assert gone.wait(60)
    assert partials(daemon) == []


@pytest.fixture
def foreign(liar: Liar) -> Iterator[tuple[Liar, bytes]]:
    other = Liar()
    other.held["/layer"] = "x", BASE
    manifest, blobs = image_of([BASE, ONE])
    changed = json.loads(manifest)
    changed["layers"][0]["urls"] = [f"http://{other.address}/layer"]
    changed["layers"][0]["mediaType"] = OCI_LAYER.replace("layer", "layer.nondistributable")
    del blobs[sha256(BASE)]
    liar.hold("a", "1", json.dumps(changed).encode(), blobs)
    yield liar, json.dumps(changed).encode()
    other.close()


def test_a_foreign_layer_is_fetched_from_its_address_and_never_pushed(
    daemon: Daemon, foreign: tuple[Liar, bytes]
) -> None:
    liar, manifest = foreign
    status, messages = pull(daemon, f"{liar.address}/a", "1")
    assert (status, messages[-1].get("error")) == (200, None)
    store = Store(liar)
    for digest in (sha256(ONE),):
        liar.held.pop(f"/v2/a/blobs/{digest}")
    messages = push(daemon, f"{liar.address}/a", "1")
    assert messages[-1]["aux"]["Digest"] == sha256(manifest)
    assert sha256(ONE) in store.blobs
    assert sha256(BASE) not in store.blobs


def test_the_host_image_is_no_image_to_push(daemon: Daemon) -> None:
    messages = push(daemon, "host", "latest")
    assert "does not exist locally" in messages[-1]["error"]
    assert os.path.exists(daemon.socket)
