"""Pull, from real registries: images, messages, and what is refused."""

from __future__ import annotations

import gzip
import json
import os
import socket
import time
from pathlib import Path

import pytest

from tests.api.pulling import (
    BIG,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    failure,
    index_of,
    nothing_stays,
    pull,
)
from tests.daemon_fixture import Daemon
from tests.image.archives import BASE, ONE, configuration, image_id
from tests.registry.registries import (
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Liar,
    Registry,
    image_of,
    put_image,
    sha256,
)
from tests.storage.drivers.layers import layer

__all__ = ["nothing_stays"]

pytestmark = pytest.mark.root


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
    assert messages[0]["id"] == f"{repository}@{digest}"
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
