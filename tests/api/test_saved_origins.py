"""Images that go from one place to another as an archive, and keep the digest a registry gave."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.pulling import DOCKER_LAYER, DOCKER_MANIFEST, index_of, pull
from tests.daemon_fixture import Daemon
from tests.image.archives import BASE, ONE, configuration, image_id
from tests.registry.registries import (
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Liar,
    image_of,
    liar,
    sha256,
)

__all__ = ["liar"]
pytestmark = pytest.mark.root

LAYERS = [gzip.compress(BASE), gzip.compress(ONE)]
MACHINE = os.uname().machine
HERE = {"x86_64": "amd64", "aarch64": "arm64"}.get(MACHINE, MACHINE)


@pytest.fixture(autouse=True)
def nothing_stays(daemon: Daemon) -> Iterator[None]:
    yield
    for image in daemon.get("/images/json").json():
        if image["RepoTags"] != ["host:latest"]:
            daemon.delete(f"/images/{image['Id']}", force=1)


def offer(liar: Liar, kind: str) -> str:
    """Have an image to be pulled as ``a:1``; the digest of what the name leads to."""
    config = json.loads(configuration([BASE, ONE]))
    data = json.dumps({**config, "architecture": HERE}).encode()
    media = DOCKER_LAYER if kind == "docker" else OCI_LAYER + "+gzip"
    manifest, blobs = image_of(LAYERS, media, data)
    if kind == "docker":
        old = json.loads(manifest)
        old["mediaType"] = DOCKER_MANIFEST
        old["config"]["mediaType"] = "application/vnd.docker.container.image.v1+json"
        # As registries have it: not what a program of ours would write.
        manifest = json.dumps(old, indent=3).encode()
    liar.hold("a", "1", manifest, blobs)
    for name in ("1", sha256(manifest)):
        media_type = DOCKER_MANIFEST if kind == "docker" else OCI_MANIFEST
        liar.held[f"/v2/a/manifests/{name}"] = media_type, manifest
    if kind != "index":
        return sha256(manifest)
    other = image_of([BASE], config=configuration([BASE]))[0]
    index = index_of(
        [
            (other, {"os": "linux", "architecture": "s390x"}),
            (manifest, {"os": "linux", "architecture": HERE}),
        ]
    )
    for name in ("1", sha256(index)):
        liar.held[f"/v2/a/manifests/{name}"] = OCI_INDEX, index
    return sha256(index)


def shown(daemon: Daemon, name: str) -> dict[str, Any]:
    answer = daemon.get(f"/images/{name}/json")
    assert answer.status == 200, answer.body
    return dict(answer.json())


@pytest.mark.parametrize("kind", ["docker", "oci", "index"])
def test_a_digest_comes_along(daemon: Daemon, liar: Liar, tmp_path: Path, kind: str) -> None:
    digest = offer(liar, kind)
    status, _ = pull(daemon, f"{liar.address}/a", "1")
    assert status == 200
    name = f"{liar.address}/a:1"
    before = shown(daemon, name)
    assert before["RepoDigests"] == [f"{liar.address}/a@{digest}"]
    archive = tmp_path / "a.tar"
    archive.write_bytes(daemon.get("/images/get", names=name).body)
    daemon.delete(f"/images/{name}", force=1)
    assert daemon.get(f"/images/{liar.address}/a@{digest}/json").status == 404
    answer = daemon.request("POST", "/images/load", archive.read_bytes())
    assert f"Loaded image: {name}" in answer.body.decode()
    after = shown(daemon, name)
    assert (after["Id"], after["RepoDigests"]) == (before["Id"], before["RepoDigests"])
    assert shown(daemon, f"{liar.address}/a@{digest}")["Id"] == before["Id"]
    # And once more, from what was loaded.
    assert daemon.get("/images/get", names=name).body == archive.read_bytes()
    read_elsewhere(archive, name, digest if kind != "index" else "", tmp_path)


def read_elsewhere(archive: Path, name: str, digest: str, place: Path) -> None:
    for source in (f"docker-archive:{archive}:{name}", f"oci-archive:{archive}"):
        out = place / "out"
        subprocess.run(
            ["skopeo", "--insecure-policy", "copy", source, f"dir:{out}"],
            check=True,
            capture_output=True,
        )
        if digest and source.startswith("oci"):
            assert sha256((out / "manifest.json").read_bytes()) == digest
        shutil.rmtree(out)


def test_an_image_that_came_by_its_bytes_alone_claims_no_registry(
    daemon: Daemon, liar: Liar
) -> None:
    offer(liar, "oci")
    pull(daemon, f"{liar.address}/a", "1")
    name = f"{liar.address}/a:1"
    members = unpacked(daemon.get("/images/get", names=name).body)
    index = json.loads(members["index.json"])
    for descriptor in index["manifests"]:
        descriptor["annotations"] = {
            key: value
            for key, value in descriptor["annotations"].items()
            if "distribution.source" not in key
        }
    members["index.json"] = json.dumps(index).encode()
    daemon.delete(f"/images/{name}", force=1)
    daemon.request("POST", "/images/load", packed(members))
    assert shown(daemon, name)["RepoDigests"] == []


@pytest.mark.parametrize("wrong", ["layers", "bytes", "name"])
def test_what_an_archive_claims_is_held_against_what_it_has(
    daemon: Daemon, liar: Liar, wrong: str
) -> None:
    digest = offer(liar, "oci")
    pull(daemon, f"{liar.address}/a", "1")
    name = f"{liar.address}/a:1"
    members = unpacked(daemon.get("/images/get", names=name).body)
    daemon.delete(f"/images/{name}", force=1)
    manifest_place = f"blobs/sha256/{digest.partition(':')[2]}"
    status = 200
    if wrong == "bytes":
        members[manifest_place] += b" "
        status = 400
    elif wrong == "name":
        index = json.loads(members["index.json"])
        source = f"containerd.io/distribution.source.{liar.address}"
        index["manifests"][0]["annotations"][source] = "A B"
        members["index.json"] = json.dumps(index).encode()
        status = 400
    else:
        # The other layer's blob is other bytes of the same tar.
        again = gzip.compress(ONE, 1, mtime=5)
        entry = json.loads(members["manifest.json"])
        entry[0]["Layers"][1] = "again"
        members["manifest.json"] = json.dumps(entry).encode()
        members["again"] = again
    answer = daemon.request("POST", "/images/load", packed(members))
    assert answer.status == status, answer.body
    if status == 200:
        assert shown(daemon, name)["RepoDigests"] == []
        assert shown(daemon, name)["Id"] == image_id(members_config(members))
    else:
        assert daemon.get(f"/images/{name}/json").status == 404


def members_config(members: dict[str, bytes]) -> bytes:
    return members[json.loads(members["manifest.json"])[0]["Config"]]


def unpacked(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {
            member.name: extracted.read()
            for member in tar
            if (extracted := tar.extractfile(member)) is not None
        }


def packed(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()
