"""Pull, from real registries and from one that lies: images, messages, and what is left behind."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon_fixture import Daemon
from tests.image.archives import BASE, ONE, configuration, image_id
from tests.registry.registries import (
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
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

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
NOISE = random.Random(2).randbytes(6_000_000)
BIG = layer({"big": NOISE})


def pull(daemon: Daemon, name: str, tag: str = "", **query: object) -> tuple[int, list[Any]]:
    """Status and messages."""
    headers = query.pop("headers", {})
    answer = daemon.request(
        "POST",
        "/images/create",
        query={"fromImage": name, "tag": tag, **query},
        headers=headers,  # type: ignore[arg-type]
        timeout=90,
    )
    return answer.status, [json.loads(line) for line in answer.body.splitlines() if line]


def failure(daemon: Daemon, name: str, tag: str = "", **query: object) -> str:
    """The error's message, wherever it was told; nothing may be left of the pull."""
    before = left(daemon)
    status, messages = pull(daemon, name, tag, **query)
    if status != 200:
        (message,) = messages
        text = message["message"]
    else:
        assert messages[-1]["errorDetail"]["message"] == messages[-1]["error"]
        text = messages[-1]["error"]
    daemon.wait_for(lambda: is_clean(daemon, before))
    return str(text)


def left(daemon: Daemon) -> dict[str, list[str]]:
    """What is there of images and their layers, partial downloads apart."""
    # What is in the trash is gone already, and deleted a moment later.
    places = ("content/blobs/sha256", "overlay2/layers", "overlay2/staging")
    images = sorted(image["Id"] for image in daemon.get("/images/json").json())
    return {
        "images": images,
        **{place: sorted(os.listdir(daemon.data_root / place)) for place in places},
    }


def is_clean(daemon: Daemon, before: dict[str, list[str]]) -> bool:
    """Nothing is there that was not before; what was may have gone, an earlier test's last."""
    return all(set(names) <= set(before[place]) for place, names in left(daemon).items())


def partials(daemon: Daemon) -> list[int]:
    place = daemon.data_root / "content/ingest"
    return [path.stat().st_size for path in place.iterdir()]


def auth(user: str = USER, password: str = PASSWORD, **more: str) -> dict[str, str]:
    config = {"username": user, "password": password, **more}
    return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(config).encode()).decode()}


@pytest.fixture(autouse=True)
def nothing_stays(daemon: Daemon) -> Iterator[None]:
    yield
    daemon.remove_all()
    for image in daemon.get("/images/json").json():
        daemon.delete(f"/images/{image['Id']}", force=1)
    for path in (daemon.data_root / "content/ingest").iterdir():
        path.unlink()


# -- images --------------------------------------------------------------------------------------


def test_the_docker_client_pulls_and_runs(daemon: Daemon, registry: Registry) -> None:
    root = layer(
        {"./": None, "bin/": None, "bin/busybox": Path("/bin/busybox").read_bytes()}, 0o755
    )
    digest = put_image(registry, "pull/run", "1", [root, ONE])
    name = f"{registry.address}/pull/run:1"
    first = daemon.docker("pull", name)
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[0] == "1: Pulling from pull/run"
    assert f"Digest: {digest}\nStatus: Downloaded newer image for {name}\n{name}" in first.stdout
    again = daemon.docker("pull", name)
    assert f"Status: Image is up to date for {name}" in again.stdout
    shown = daemon.get(f"/images/{name}/json").json()
    assert shown["RepoTags"] == [name]
    assert shown["RepoDigests"] == [f"{registry.address}/pull/run@{digest}"]
    exact = f"{registry.address}/pull/run@{digest}"
    assert daemon.docker("pull", exact).stdout.splitlines() == [
        f"{exact}: Pulling from pull/run",
        f"Digest: {digest}",
        f"Status: Image is up to date for {exact}",
        exact,
    ]
    ran = daemon.docker("run", "--rm", "--network", "none", name, "/bin/busybox", "cat", "/etc/one")
    assert (ran.stdout, ran.stderr) == ("1", "")
    missing = daemon.docker("run", "--rm", "--network", "none", f"{registry.address}/no/such:1")
    assert missing.returncode == 125
    assert "not found" in missing.stderr


def test_each_layer_tells_its_story_in_order(daemon: Daemon, registry: Registry) -> None:
    put_image(registry, "pull/story", "1", [BASE, BIG])
    status, messages = pull(daemon, f"{registry.address}/pull/story", "1")
    assert status == 200
    big = sha256(BIG)[7:19]
    told = [message for message in messages if message.get("id") == big]
    states = list(dict.fromkeys(message["status"] for message in told))
    usual = [
        "Pulling fs layer",
        "Waiting",
        "Downloading",
        "Verifying Checksum",
        "Download complete",
        "Extracting",
        "Pull complete",
    ]
    assert states == [state for state in usual if state in states]
    assert {"Pulling fs layer", "Download complete", "Pull complete"} <= set(states)
    for message in told:
        detail = message["progressDetail"]
        if message["status"] in ("Downloading", "Extracting"):
            assert 0 <= detail["current"] <= detail["total"] == len(BIG)
            assert message["progress"].startswith("[")
        else:
            assert detail == {}
    assert messages[0] == {"status": "Pulling from pull/story", "id": "1"}


def test_layers_that_are_here_are_not_fetched(daemon: Daemon, liar: Liar) -> None:
    for tag, layers in (("1", [BASE, ONE]), ("2", [BASE, BIG])):
        manifest, blobs = image_of(layers)
        liar.hold("a", tag, manifest, blobs)
    pull(daemon, f"{liar.address}/a", "1")
    _, messages = pull(daemon, f"{liar.address}/a", "2")
    base = {"status": "Already exists", "progressDetail": {}, "id": sha256(BASE)[7:19]}
    assert base in messages
    assert len(liar.requests("GET", f"/v2/a/blobs/{sha256(BASE)}")) == 1


@pytest.mark.parametrize("kind", ["schema 2", "gzip", "zstd", "twice the same"])
def test_every_kind_of_manifest_and_layer(daemon: Daemon, liar: Liar, kind: str) -> None:
    from backports import zstd

    layers = [BASE, ONE]
    config = configuration(layers)
    packed, media = layers, OCI_LAYER
    manifest_type = OCI_MANIFEST
    if kind == "gzip":
        packed, media = [gzip.compress(one) for one in layers], f"{OCI_LAYER}+gzip"
    elif kind == "zstd":
        packed, media = [zstd.compress(one) for one in layers], f"{OCI_LAYER}+zstd"
    elif kind == "schema 2":
        packed, media = [gzip.compress(one) for one in layers], DOCKER_LAYER
        manifest_type = DOCKER_MANIFEST
    else:
        packed = [BASE, ONE, ONE]
        config = configuration(packed)
    manifest, blobs = image_of(packed, media, config, mediaType=manifest_type)
    if kind == "schema 2":
        manifest = manifest.replace(
            b"application/vnd.oci.image.config.v1+json",
            b"application/vnd.docker.container.image.v1+json",
        )
    liar.hold("a", "1", manifest, blobs)
    for path in ("1", sha256(manifest)):
        liar.held[f"/v2/a/manifests/{path}"] = manifest_type, manifest
    status, messages = pull(daemon, f"{liar.address}/a", "1")
    assert (status, messages[-1].get("error")) == (200, None)
    assert daemon.get(f"/images/{liar.address}/a:1/json").json()["Id"] == image_id(config)


def index_of(entries: list[tuple[bytes, dict[str, str]]]) -> bytes:
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": [
                {
                    "mediaType": OCI_MANIFEST,
                    "digest": sha256(manifest),
                    "size": len(manifest),
                    "platform": platform,
                }
                for manifest, platform in entries
            ],
        }
    ).encode()


def test_an_index_gives_this_machine_or_the_platform_asked_for(daemon: Daemon, liar: Liar) -> None:
    machine = os.uname().machine
    here = {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
    entries = []
    ids = {}
    for architecture in ("s390x", "riscv64", here):
        config = json.loads(configuration([BASE]))
        data = json.dumps({**config, "architecture": architecture}).encode()
        manifest, blobs = image_of([BASE], config=data)
        liar.hold("a", "unused", manifest, blobs)
        entries.append((manifest, {"os": "linux", "architecture": architecture}))
        ids[architecture] = image_id(data)
    index = index_of(entries)
    for name in ("1", sha256(index)):
        liar.held[f"/v2/a/manifests/{name}"] = OCI_INDEX, index
    name = f"{liar.address}/a:1"
    pull(daemon, f"{liar.address}/a", "1")
    shown = daemon.get(f"/images/{name}/json").json()
    assert shown["Id"] == ids[here]
    assert shown["RepoDigests"] == [f"{liar.address}/a@{sha256(index)}"]
    pull(daemon, f"{liar.address}/a", "1", platform="linux/riscv64")
    assert daemon.get(f"/images/{name}/json").json()["Id"] == ids["riscv64"]
    said = failure(daemon, f"{liar.address}/a", "1", platform="linux/arm/v7")
    assert said == "no matching manifest for linux/arm/v7 in the manifest list entries"


def test_a_name_with_one_platform_does_not_give_another(daemon: Daemon, registry: Registry) -> None:
    put_image(registry, "pull/single", "1", [BASE])
    said = failure(daemon, f"{registry.address}/pull/single", "1", platform="linux/s390x")
    assert "does not provide the specified platform: wanted linux/s390x, found linux/amd64" in said


def test_by_digest_there_is_no_tag(daemon: Daemon, registry: Registry) -> None:
    digest = put_image(registry, "pull/digest", "1", [BASE])
    repository = f"{registry.address}/pull/digest"
    status, messages = pull(daemon, repository, digest)
    assert status == 200
    assert messages[0]["id"] == digest
    assert messages[-1]["status"] == f"Status: Downloaded newer image for {repository}@{digest}"
    shown = daemon.get(f"/images/{repository}@{digest}/json").json()
    assert (shown["RepoTags"], shown["RepoDigests"]) == ([], [f"{repository}@{digest}"])


def test_without_a_tag_all_of_them_come(daemon: Daemon, registry: Registry) -> None:
    for tag in ("one", "two"):
        put_image(registry, "pull/all", tag, [BASE, layer({tag: tag.encode()})])
    pulled = daemon.docker("pull", "-a", f"{registry.address}/pull/all")
    assert pulled.returncode == 0, pulled.stderr
    tags = {tag for image in daemon.get("/images/json").json() for tag in image["RepoTags"]}
    assert {f"{registry.address}/pull/all:one", f"{registry.address}/pull/all:two"} <= tags


def test_a_pull_is_an_event(daemon: Daemon, registry: Registry) -> None:
    put_image(registry, "pull/event", "1", [BASE])
    since = time.time()
    pull(daemon, f"{registry.address}/pull/event", "1")
    answer = daemon.get("/events", since=since, until=time.time() + 0.1)
    events = [json.loads(line) for line in answer.body.splitlines()]
    (event,) = [event for event in events if event["Action"] == "pull"]
    name = f"{registry.address}/pull/event"
    assert event["Actor"] == {"ID": f"{name}:1", "Attributes": {"name": name}}


# -- refusals ------------------------------------------------------------------------------------


def test_a_missing_tag_or_repository_is_404_in_dockers_words(
    daemon: Daemon, registry: Registry
) -> None:
    put_image(registry, "pull/missing", "1", [BASE])
    status, (message,) = pull(daemon, f"{registry.address}/pull/missing", "2")
    name = f"{registry.address}/pull/missing:2"
    assert status == 404
    assert message["message"] == (
        f"manifest for {name} not found: manifest unknown: manifest unknown"
    )
    status, (message,) = pull(daemon, f"{registry.address}/pull/nothing")
    assert (status, "name unknown" in message["message"]) == (404, True)


@pytest.mark.parametrize("name", ["a/UPPER", "a//b", "x" * 300, "a:b:c"])
def test_a_malformed_name_is_400(daemon: Daemon, name: str) -> None:
    status, (message,) = pull(daemon, name, "1")
    assert status == 400
    assert "invalid reference format" in message["message"]


def test_nobody_there_is_said_at_once(daemon: Daemon) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    begun = time.monotonic()
    status, (message,) = pull(daemon, f"127.0.0.1:{port}/a", "1")
    assert (status, message["message"]) == (
        503,
        f"http://127.0.0.1:{port}: connect: connection refused",
    )
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("header", ["?", "e30", "bm90IGpzb24=", "eyJ1c2VybmFtZSI6MX0="])
def test_a_header_that_is_no_credentials_is_400(daemon: Daemon, header: str) -> None:
    status, messages = pull(daemon, "127.0.0.1:1/a", "1", headers={"X-Registry-Auth": header})
    if header == "e30":  # {} without padding: nobody
        assert status == 503
    else:
        assert (status, "X-Registry-Auth" in messages[0]["message"]) == (400, True)


# -- who we are ----------------------------------------------------------------------------------


def test_a_password_is_asked_for_and_taken(daemon: Daemon, tmp_path: Path) -> None:
    closed = Registry(tmp_path, password=True)
    try:
        name = f"{closed.address}/a"
        said = failure(daemon, name, "1")
        assert said.startswith(f"pull access denied for {name}, repository does not exist or may")
        assert "no basic auth credentials" in said
        assert "incorrect username or password" in failure(
            daemon, name, "1", headers=auth("anna", "x")
        )
        assert "manifest unknown" in failure(daemon, name, "1", headers=auth())
        encoded = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        assert "manifest unknown" in failure(daemon, name, "1", headers=auth("", "", auth=encoded))
    finally:
        closed.close()


def test_tokens_are_fetched_for_the_repository(
    daemon: Daemon, tmp_path: Path, authority: Authority
) -> None:
    tokens = TokenServer(authority)
    guarded = Registry(tmp_path, tokens=tokens)
    try:
        name = f"{guarded.address}/a/b"
        assert "pull access denied" in failure(daemon, name, "1")
        assert "pull access denied" in failure(daemon, name, "1", headers=auth("anna", "wrong"))
        tokens.asked.clear()
        assert "not found" in failure(daemon, name, "1", headers=auth())
        (asked,) = tokens.asked
        assert asked["scope"] == ["repository:a/b:pull"]
        assert (asked["service"], asked["account"]) == (["tests"], [USER])
        identity = auth("<token>", "", identitytoken=tokens.refresh_token)
        assert "not found" in failure(daemon, name, "1", headers=identity)
        assert tokens.asked[-1]["grant_type"] == ["refresh_token"]
        registry_token = tokens.token(["repository:a/b:pull"], True)
        bearer = auth("", "", registrytoken=registry_token)
        assert "not found" in failure(daemon, name, "1", headers=bearer)
    finally:
        guarded.close()
        tokens.close()


def test_a_revoked_token_is_fetched_anew(daemon: Daemon, liar: Liar) -> None:
    manifest, blobs = image_of([BASE])
    good = ["first"]

    def guarded(request: Any) -> None:
        path = request.path.partition("?")[0]
        if request.headers.get("Authorization") == f"Bearer {good[0]}":
            kind = OCI_MANIFEST if "manifests" in path else "x"
            data = manifest if "manifests" in path else blobs[path.rpartition("/")[2]]
            request.answer(200, data, Content_Type=kind)
            good[0] = "another" + str(len(liar.asked))  # good for one request only
        else:
            realm = f'Bearer realm="http://{liar.address}/token",service="x"'
            request.answer(401, b"", WWW_Authenticate=realm)

    for path in ("1", *blobs):
        kind = "manifests" if path == "1" else "blobs"
        liar.paths["GET", f"/v2/a/{kind}/{path}"] = guarded
    liar.paths["GET", "/token"] = lambda request: request.answer(
        200, json.dumps({"token": good[0]}).encode()
    )
    status, messages = pull(daemon, f"{liar.address}/a", "1")
    assert (status, messages[-1].get("error")) == (200, None)


def test_a_token_that_never_helps_is_not_fetched_for_ever(daemon: Daemon, liar: Liar) -> None:
    realm = f'Bearer realm="http://{liar.address}/token",error="insufficient_scope"'
    liar.paths["GET", "/v2/a/manifests/1"] = lambda request: request.answer(
        401, b"", WWW_Authenticate=realm
    )
    liar.paths["GET", "/token"] = lambda request: request.answer(200, b'{"token": "useless"}')
    assert "pull access denied" in failure(daemon, f"{liar.address}/a", "1")
    assert len(liar.requests("GET", "/token")) <= 3


# -- lies ----------------------------------------------------------------------------------------


def test_a_layer_that_is_not_its_digests_is_refused(daemon: Daemon, liar: Liar) -> None:
    manifest, blobs = image_of([BASE, BIG])
    liar.hold("a", "1", manifest, blobs)
    wrong = BIG[:-600] + b"!" * 600
    liar.held[f"/v2/a/blobs/{sha256(BIG)}"] = "x", wrong
    said = failure(daemon, f"{liar.address}/a", "1")
    assert said == f"expected blob {sha256(BIG)}, found {sha256(wrong)}"
    assert partials(daemon) == []


def test_a_layer_that_unpacks_to_something_else_is_refused(daemon: Daemon, liar: Liar) -> None:
    manifest, blobs = image_of([BASE, ONE], config=configuration([BASE, BIG]))
    liar.hold("a", "1", manifest, blobs)
    said = failure(daemon, f"{liar.address}/a", "1")
    assert said == f"expected a layer with diff ID {sha256(BIG)}, found {sha256(ONE)}"


def test_a_configuration_or_manifest_that_is_not_its_digests_is_refused(
    daemon: Daemon, liar: Liar
) -> None:
    manifest, blobs = image_of([BASE])
    liar.hold("a", "1", manifest, blobs)
    config = sha256(configuration([BASE]))
    liar.held[f"/v2/a/blobs/{config}"] = "x", b"{}"
    assert f"expected blob {config}" in failure(daemon, f"{liar.address}/a", "1")
    digest = sha256(manifest)
    liar.held[f"/v2/a/manifests/{digest}"] = OCI_MANIFEST, manifest + b" "
    assert f"expected manifest {digest}" in failure(daemon, f"{liar.address}/a", digest)


def lies() -> dict[str, Any]:
    manifest, _ = image_of([BASE])
    schema_1 = {"schemaVersion": 1, "name": "a", "tag": "1", "fsLayers": [], "history": []}
    artifact = json.loads(manifest)
    artifact["config"]["mediaType"] = "application/vnd.example+json"
    strange = json.loads(manifest)
    strange["layers"][0]["mediaType"] = "application/vnd.example.layer"
    negative = json.loads(manifest)
    negative["layers"][0]["size"] = -1
    short = json.loads(manifest)
    short["layers"] = []
    both = {**json.loads(manifest), "manifests": []}
    return {
        "not JSON": (b"\xff\xfe<html>", "not a manifest"),
        "deep JSON": (b"[" * 100_000, "not a manifest"),
        "schema 1": (json.dumps(schema_1).encode(), "schema 1"),
        "an artifact": (json.dumps(artifact).encode(), "application/vnd.example+json is no image"),
        "a strange layer": (json.dumps(strange).encode(), "media type application/vnd.example"),
        "a negative size": (json.dumps(negative).encode(), "of -1 bytes"),
        "too few layers": (json.dumps(short).encode(), "0 layers, where the configuration has 1"),
        "two things at once": (json.dumps(both).encode(), "ambiguous"),
        "a bad digest": (manifest.replace(b"sha256:", b"sha256:../"), "digest"),
    }


@pytest.mark.parametrize("lie", sorted(lies()))
def test_a_manifest_that_is_none_is_refused(daemon: Daemon, liar: Liar, lie: str) -> None:
    _, blobs = image_of([BASE])
    data, words = lies()[lie]
    liar.hold("a", "1", data, blobs)
    assert words in failure(daemon, f"{liar.address}/a", "1")


def test_an_index_in_an_index_without_end_is_refused(daemon: Daemon, liar: Liar) -> None:
    inner, _ = image_of([BASE])
    for depth in range(8):
        media = OCI_MANIFEST if depth == 0 else OCI_INDEX
        inner = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": OCI_INDEX,
                "manifests": [{"mediaType": media, "digest": sha256(inner), "size": len(inner)}],
            }
        ).encode()
        for name in ("1", sha256(inner)):
            liar.held[f"/v2/a/manifests/{name}"] = OCI_INDEX, inner
    assert "more than 4 deep" in failure(daemon, f"{liar.address}/a", "1")


def peak(pid: int) -> int:
    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith("VmHWM"))


def carrier_of(daemon: Daemon) -> int:
    for pid in daemon.zygotes():
        if Path(f"/proc/{pid}/comm").read_text().strip() == "sampan-carrier":
            return pid
    raise AssertionError("no carrier runs")


@pytest.mark.parametrize("told", [True, False])
def test_a_manifest_of_ten_gigabytes_is_refused_early(
    daemon: Daemon, liar: Liar, told: bool
) -> None:
    sent = 0

    def endless(request: Any) -> None:
        nonlocal sent
        request.send_response(200)
        if told:
            request.send_header("Content-Length", str(10 << 30))
        else:
            request.send_header("Connection", "close")
        request.end_headers()
        try:
            while True:
                request.wfile.write(b" " * 65536)
                sent += 65536
        except OSError:
            return

    liar.paths["GET", "/v2/a/manifests/1"] = endless
    before = peak(daemon.pid)
    assert "refused" in failure(daemon, f"{liar.address}/a", "1")
    assert sent < 32 << 20
    assert peak(daemon.pid) - before < 4096
    assert peak(carrier_of(daemon)) < 80 << 10


def test_redirects_without_end_are_refused(daemon: Daemon, liar: Liar) -> None:
    liar.paths["GET", "/v2/a/manifests/1"] = lambda request: request.answer(
        307, Location=f"http://localhost:{liar.port}/v2/a/manifests/1"
    )
    assert "stopped after 10 redirects" in failure(daemon, f"{liar.address}/a", "1")


# -- interruptions -------------------------------------------------------------------------------


class Slow:
    """Sends half of a blob, then waits until it is let go, and hangs up or goes on."""

    def __init__(self, liar: Liar, path: str, data: bytes) -> None:
        self.half = threading.Event()
        self.go = threading.Event()
        self.on = True
        self._data = data
        self._liar = liar
        self._path = path
        liar.paths["GET", path] = self

    def __call__(self, request: Any) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(self._data)))
        request.end_headers()
        middle = len(self._data) // 2
        request.wfile.write(self._data[:middle])
        request.wfile.flush()
        self.half.set()
        assert self.go.wait(60)
        if self.on:
            request.wfile.write(self._data[middle:])
        request.close_connection = True

    def truthful(self) -> None:
        self._liar.held[self._path] = "x", self._data
        del self._liar.paths["GET", self._path]


@pytest.fixture
def slow(liar: Liar) -> Iterator[Slow]:
    manifest, blobs = image_of([BASE, BIG])
    liar.hold("a", "1", manifest, blobs)
    one = Slow(liar, f"/v2/a/blobs/{sha256(BIG)}", BIG)
    yield one
    one.go.set()


def test_a_client_that_goes_away_ends_the_pull_and_the_next_goes_on(
    daemon: Daemon, liar: Liar, slow: Slow
) -> None:
    before = left(daemon)
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(daemon.socket)
    sock.sendall(
        f"POST /images/create?fromImage={liar.address}/a&tag=1 HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    )
    assert slow.half.wait(60)
    daemon.wait_for(lambda: sum(partials(daemon)) >= len(BIG) // 2)
    daemon.wait_for(lambda: os.listdir(daemon.data_root / "overlay2/staging"))
    sock.close()
    daemon.wait_for(lambda: is_clean(daemon, before))
    kept = len(BIG) // 2
    assert partials(daemon) == [kept]
    assert kept == len(BIG) // 2
    slow.truthful()
    status, messages = pull(daemon, f"{liar.address}/a", "1")
    assert (status, messages[-1].get("error")) == (200, None)
    path = f"/v2/a/blobs/{sha256(BIG)}"
    assert [fields.get("range") for fields in liar.requests("GET", path)] == [
        None,
        f"bytes={kept}-",
    ]
    assert partials(daemon) == []


def test_two_pulls_of_one_layer_share_its_download(daemon: Daemon, liar: Liar, slow: Slow) -> None:
    results: list[tuple[int, list[Any]]] = []
    threads = [
        threading.Thread(target=lambda: results.append(pull(daemon, f"{liar.address}/a", "1")))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    assert slow.half.wait(60)
    daemon.wait_for(lambda: len(liar.requests("GET", "/v2/a/manifests/1")) == 3)
    time.sleep(0.2)  # the last of them is about to join
    slow.go.set()
    for thread in threads:
        thread.join(60)
    assert [status for status, _ in results] == [200] * 3
    assert all("error" not in messages[-1] for _, messages in results)
    assert len(liar.requests("GET", f"/v2/a/blobs/{sha256(BIG)}")) == 1


def test_one_of_two_going_away_does_not_hurt_the_other(
    daemon: Daemon, liar: Liar, slow: Slow
) -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(daemon.socket)
    sock.sendall(
        f"POST /images/create?fromImage={liar.address}/a&tag=1 HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    )
    assert slow.half.wait(60)
    results: list[tuple[int, list[Any]]] = []
    other = threading.Thread(target=lambda: results.append(pull(daemon, f"{liar.address}/a", "1")))
    other.start()
    daemon.wait_for(lambda: len(liar.requests("GET", "/v2/a/manifests/1")) == 2)
    time.sleep(0.2)
    sock.close()
    time.sleep(0.2)
    slow.go.set()
    other.join(60)
    ((status, messages),) = results
    assert (status, messages[-1].get("error")) == (200, None)
    assert len(liar.requests("GET", f"/v2/a/blobs/{sha256(BIG)}")) == 1


def test_a_carrier_that_is_killed_is_said_and_replaced(
    daemon: Daemon, liar: Liar, slow: Slow
) -> None:
    before = left(daemon)
    results: list[tuple[int, list[Any]]] = []
    thread = threading.Thread(target=lambda: results.append(pull(daemon, f"{liar.address}/a", "1")))
    thread.start()
    assert slow.half.wait(60)
    killed = carrier_of(daemon)
    os.kill(killed, signal.SIGKILL)
    thread.join(60)
    ((_, messages),) = results
    assert "the process that moves images over the network ended" in messages[-1]["error"]
    daemon.wait_for(lambda: is_clean(daemon, before))
    slow.truthful()
    status, messages = pull(daemon, f"{liar.address}/a", "1")
    assert (status, messages[-1].get("error")) == (200, None)
    assert carrier_of(daemon) != killed


def test_what_a_client_does_not_read_does_not_pile_up(daemon: Daemon, registry: Registry) -> None:
    put_image(registry, "pull/unread", "1", [BASE, BIG])
    sock = socket.socket(socket.AF_UNIX)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    sock.connect(daemon.socket)
    target = f"/images/create?fromImage={registry.address}/pull/unread&tag=1"
    sock.sendall(f"POST {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    name = f"{registry.address}/pull/unread:1"
    daemon.wait_for(lambda: daemon.get(f"/images/{name}/json").status == 200, 20)
    response = http.client.HTTPResponse(sock)
    response.begin()
    assert b"Downloaded newer image" in response.read()
    sock.close()
