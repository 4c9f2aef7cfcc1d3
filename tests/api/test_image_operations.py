"""Image lists, inspection, pruning and archives with their parameters."""

from __future__ import annotations

import io
import json
import os
import socket
import tarfile
from collections.abc import Iterator

import pytest

from tests.daemon_fixture import Daemon
from tests.image.archives import BASE, ONE, configuration, docker_save, image_id, oci_layout, tar
from tests.storage.drivers.layers import layer

pytestmark = pytest.mark.root

HERE = json.dumps({"os": "linux", "architecture": "amd64"})
THERE = json.dumps({"os": "linux", "architecture": "s390x"})


def load(daemon: Daemon, layers: list[bytes], *names: str, **query: object) -> str:
    config = configuration(layers)
    data = docker_save(layers, list(names), config)
    answer = daemon.request("POST", "/images/load", data, query=query)
    assert answer.status == 200, answer.body
    return image_id(config)


@pytest.fixture(autouse=True)
def nothing_stays(daemon: Daemon) -> Iterator[None]:
    yield
    daemon.remove_all()
    for _ in range(2):  # children before their parents
        for image in daemon.get("/images/json", all=1).json():
            daemon.delete(f"/images/{image['Id']}", force=1)


def test_a_list_shows_what_is_shared_when_asked(daemon: Daemon) -> None:
    one = load(daemon, [BASE, ONE], "a:1")
    other = load(daemon, [BASE, layer({"x": b"12345"})], "b:1")
    alone = load(daemon, [layer({"y": b"1"})], "c:1")
    found = {image["Id"]: image for image in daemon.get("/images/json").json()}
    assert {image["SharedSize"] for image in found.values()} == {-1}
    found = {i["Id"]: i for i in daemon.get("/images/json", **{"shared-size": 1}).json()}
    base = len("#!") + len("root")
    assert [found[i]["SharedSize"] for i in (one, other, alone)] == [base, base, 0]
    assert found[other]["Size"] == base + 5


def test_steps_between_are_shown_with_all_only(daemon: Daemon) -> None:
    base = load(daemon, [BASE], "step:1")
    container = daemon.create("sh", Image="step:1")
    child = daemon.post("/commit", container=container, comment="x").json()["Id"]
    assert daemon.delete("/images/step:1", force=1).status == 200

    def ids(**query: object) -> set[str]:
        return {image["Id"] for image in daemon.get("/images/json", **query).json()}

    assert child in ids()
    assert base not in ids()
    assert {base, child} <= ids(all=1)


def test_older_clients_see_none_where_there_is_no_name(daemon: Daemon) -> None:
    nameless = load(daemon, [BASE])
    for version, tags, virtual in (("1.42", ["<none>:<none>"], True), ("1.43", [], True),
                                   ("1.44", [], False)):  # fmt: skip
        listed = daemon.get(f"/v{version}/images/json").json()
        (image,) = [image for image in listed if image["Id"] == nameless]
        assert image["RepoTags"] == tags
        assert ("VirtualSize" in image) is virtual


def test_a_platform_that_is_not_the_images_is_not_found(daemon: Daemon) -> None:
    load(daemon, [BASE], "p:1")
    for path in ("/images/p:1/json", "/images/p:1/history", "/images/p:1/get"):
        assert daemon.get(path, platform=HERE).status == 200
        answer = daemon.get(path, platform=THERE)
        assert (answer.status, "wanted linux/s390x" in answer.message) == (404, True)
        answer = daemon.get(path, platform="linux/amd64")
        assert (answer.status, "platform" in answer.message) == (400, True)
    both = daemon.get("/images/p:1/json", platform=HERE, manifests=1)
    assert (both.status, "manifests" in both.message) == (400, True)
    assert daemon.delete("/images/p:1", platforms=THERE).status == 404
    assert daemon.delete("/images/p:1", platforms=[HERE, THERE]).status == 400
    assert daemon.delete("/images/p:1", platforms=HERE).status == 200


def index_archive() -> tuple[bytes, dict[str, str]]:
    """An OCI layout with an index of two platforms; and the images' IDs."""
    members: dict[str, bytes] = {}
    entries, ids = [], {}
    for architecture in ("amd64", "s390x"):
        config = json.loads(configuration([BASE]))
        data = json.dumps({**config, "architecture": architecture}).encode()
        layout = oci_layout([BASE], config=data)
        (entry,) = json.loads(layout.pop("index.json"))["manifests"]
        entries.append({**entry, "platform": {"os": "linux", "architecture": architecture}})
        ids[architecture] = image_id(data)
        members |= layout
    import hashlib

    media = "application/vnd.oci.image.index.v1+json"
    index = json.dumps({"schemaVersion": 2, "mediaType": media, "manifests": entries}).encode()
    digest = hashlib.sha256(index).hexdigest()
    members[f"blobs/sha256/{digest}"] = index
    top = {
        "mediaType": media,
        "digest": f"sha256:{digest}",
        "size": len(index),
        "annotations": {"io.containerd.image.name": "docker.io/library/many:1"},
    }
    members["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [top]}).encode()
    return tar(members), ids


def test_load_takes_the_platform_asked_for(daemon: Daemon) -> None:
    archive, ids = index_archive()
    daemon.request("POST", "/images/load", archive)
    assert daemon.get("/images/many:1/json").json()["Id"] == ids["amd64"]
    answer = daemon.request("POST", "/images/load", archive, query={"platform": THERE})
    assert answer.status == 200, answer.body
    assert daemon.get("/images/many:1/json").json()["Id"] == ids["s390x"]
    other = json.dumps({"os": "linux", "architecture": "riscv64"})
    answer = daemon.request("POST", "/images/load", archive, query={"platform": other})
    assert (answer.status, "no image for linux/riscv64" in answer.message) == (404, True)
    plain = docker_save([BASE], ["plain:1"])
    assert daemon.request("POST", "/images/load", plain, query={"platform": THERE}).status == 404
    assert daemon.request("POST", "/images/load", plain, query={"platform": HERE}).status == 200


def test_prune_as_the_docker_client_asks_for_it(daemon: Daemon) -> None:
    load(daemon, [BASE], "kept:1")
    nameless = load(daemon, [layer({"z": b"123"})])
    pruned = daemon.docker("image", "prune", "-f")
    assert f"deleted: {nameless}" in pruned.stdout
    assert "Total reclaimed space: 3B" in pruned.stdout
    used = daemon.create("sh", Image="kept:1")
    assert "Total reclaimed space: 0B" in daemon.docker("image", "prune", "-af").stdout
    daemon.delete(f"/containers/{used}")
    answer = daemon.post("/images/prune", filters='{"dangling":{"false":true}}').json()
    assert {"Untagged": "kept:1"} in answer["ImagesDeleted"]
    assert answer["SpaceReclaimed"] == len("#!") + len("root")
    assert daemon.post("/images/prune", filters='{"colour":["red"]}').status == 400


def test_removal_and_prune_are_events(daemon: Daemon) -> None:
    import time

    since = time.time()
    one = load(daemon, [BASE], "e:1")
    daemon.delete("/images/e:1")
    two = load(daemon, [ONE])
    daemon.post("/images/prune")
    answer = daemon.get("/events", since=since, until=time.time() + 0.1)
    events = [json.loads(line) for line in answer.body.splitlines()]
    told = [(e["Action"], e["Actor"]["ID"]) for e in events if e["Action"] not in ("load", "tag")]
    assert told == [("untag", one), ("delete", one), ("delete", two), ("prune", "")]


def test_an_archive_has_what_was_named(daemon: Daemon) -> None:
    load(daemon, [BASE], "s:1", "s:2")
    for path, query in (("/images/s/get", {}), ("/images/get", {"names": ["s:1", "s:2"]})):
        answer = daemon.get(path, **query)
        with tarfile.open(fileobj=io.BytesIO(answer.body)) as archive:
            file = archive.extractfile("manifest.json")
            assert file is not None
            (entry,) = json.loads(file.read())
        assert entry["RepoTags"] == ["s:1", "s:2"]


def test_loading_tells_how_far_a_large_layer_is(daemon: Daemon) -> None:
    big = layer({"big": b"x" * 6_000_000})
    for quiet in (0, 1):
        data = docker_save([BASE, big], ["big:1"])
        answer = daemon.request("POST", "/images/load", data, query={"quiet": quiet})
        messages = [json.loads(line) for line in answer.body.splitlines()]
        assert messages[-1] == {"stream": "Loaded image: big:1\n"}
        told = [message for message in messages if message.get("status") == "Loading layer"]
        assert bool(told) is not bool(quiet)
        for message in told:
            detail = message["progressDetail"]
            assert 0 < detail["current"] <= detail["total"] == len(big)
            assert len(message["id"]) == 12


def test_what_comes_faster_than_it_is_taken_apart_waits(daemon: Daemon) -> None:
    """The archive is larger than what the daemon keeps of it."""
    from tests.api.pulling import peak

    load(daemon, [BASE], "warm:1")
    before = peak(daemon.pid)
    load(daemon, [layer({f"f{n}": b"%d" % n * 1_000_000 for n in range(40)})], "wide:1")
    assert peak(daemon.pid) - before < 40 << 10


@pytest.mark.parametrize("path", ["/images/load", "/images/create?fromSrc=-&repo=half"])
def test_a_client_that_goes_away_in_the_middle_leaves_nothing(daemon: Daemon, path: str) -> None:
    """Not even what unpacks: of a layer that would take long, all of whose bytes are here."""
    from backports import zstd

    from tests.storage.unpacking.test_unpacking import zeros

    noise = tarfile.TarInfo("noise")
    noise.size = 5 << 20  # more than what could be a document
    long = zstd.compress(noise.tobuf() + os.urandom(noise.size)) + zeros(3 << 30)
    data = long
    if path == "/images/load":
        data = docker_save([BASE], ["half:1"], change={"long/layer.tar": long, "last": bytes(600)})
    staging = daemon.data_root / "overlay2/staging"
    before = daemon.get("/images/json", all=1).json()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(daemon.socket)
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data) + 1}\r\n\r\n"
        sock.sendall(head.encode() + data)
        daemon.wait_for(lambda: any(staging.glob("*/diff/zeros")), 30)
    daemon.wait_for(lambda: os.listdir(staging) == [])
    daemon.wait_for(lambda: os.listdir(daemon.data_root / "content/ingest") == [])
    assert daemon.get("/images/json", all=1).json() == before
