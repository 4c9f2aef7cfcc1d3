"""image copy: between our registry and Debian's, both ways, and from one that lies."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.compatibility.registry import Visits
from tests.registry.registries import (
    OCI_INDEX,
    OCI_MANIFEST,
    Liar,
    Registry,
    image_of,
    liar,
    put_image,
    registry,
    sha256,
)
from tests.registry.server.house import House

__all__ = ["liar", "registry"]

Copy = Callable[..., "subprocess.CompletedProcess[str]"]
COMMAND = [sys.executable, "-m", "sampan.cli", "image", "copy"]
PATIENCE = 60.0
SIGNATURE = "application/x.signature"


@pytest.fixture(scope="module")
def house(quick: Path) -> Iterator[House]:
    place = Path(tempfile.mkdtemp(prefix="registry-", dir=quick))
    one = House(place / "root", "--access-log").start()
    yield one
    one.close()
    shutil.rmtree(place)


def environment(home: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(home), "DOCKER_HOST": "unix:///nope"}


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    def call(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *argv],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            env=environment(tmp_path),
        )

    return call


def spooled(home: Path) -> list[Path]:
    """What stands between the registries."""
    return [path for path in (home / ".cache/sampan/copy").rglob("*") if path.is_file()]


def put_index(house: House, repository: str) -> tuple[str, list[str]]:
    """Two platforms and a shared layer, as ``1``, and a signature of the first; the digests."""
    listed: list[dict[str, Any]] = []
    for architecture in ("amd64", "arm64"):
        config = {"os": "linux", "architecture": architecture}
        manifest = house.image(repository, os.urandom(300_000), b"shared", config=config)
        data = json.dumps(manifest).encode()
        assert house.put_manifest(repository, sha256(data), data).status == 201
        listed.append({"mediaType": OCI_MANIFEST, "digest": sha256(data), "size": len(data)})
        listed[-1]["platform"] = config
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed}).encode()
    assert house.put_manifest(repository, "1", index).status == 201
    subject = {key: value for key, value in listed[0].items() if key != "platform"}
    signature = house.image(repository, b"signed", subject=subject, artifactType=SIGNATURE)
    data = json.dumps(signature | {"annotations": {"by": "anna"}}).encode()
    assert house.put_manifest(repository, sha256(data), data).status == 201
    return sha256(index), [one["digest"] for one in listed] + [sha256(data)]


def listed_by(house: House, repository: str, digest: str) -> Any:
    return house.request("GET", f"/v2/{repository}/referrers/{digest}").json()["manifests"]


def test_there_and_back_with_what_refers_to_it(
    house: House, registry: Registry, copy: Copy, tmp_path: Path
) -> None:
    """Debian's registry has no referrers: the fallback's tag stands there for them."""
    index, (first, second, signature) = put_index(house, "copy/there")
    there = f"{registry.address}/copy/there"
    done = copy("--referrers", f"{house.address}/copy/there:1", f"{there}:moved")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"{there}:moved: digest: {index} size: ")
    assert registry.manifest("copy/there", "moved")[0] == index
    for digest in (first, second, signature):
        assert registry.manifest("copy/there", digest)[0] == digest
    _, tagged = registry.manifest("copy/there", first.replace(":", "-"))
    (one,) = tagged["manifests"]
    assert (one["digest"], one["artifactType"]) == (signature, SIGNATURE)
    assert one["annotations"] == {"by": "anna"}
    assert spooled(tmp_path) == []

    back = copy("--referrers", f"{there}:moved", f"{house.address}/copy/back")
    assert back.returncode == 0, back.stderr
    answer = house.request("HEAD", "/v2/copy/back/manifests/moved")
    assert answer.headers["Docker-Content-Digest"] == index
    (known,) = listed_by(house, "copy/back", first)
    assert known["digest"] == signature
    if shutil.which("skopeo"):
        raw = subprocess.run(
            ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{there}:moved"],
            capture_output=True,
            check=True,
        ).stdout
        assert sha256(raw) == index


def test_within_one_registry_no_byte_moves(house: House, copy: Copy, tmp_path: Path) -> None:
    index, _ = put_index(house, "copy/here")
    visits = Visits(house.log)
    visits.collect()
    visits.seen.clear()
    done = copy(f"{house.address}/copy/here:1", f"{house.address}/copy/mounted")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Mounted from copy/here\n") == 5
    assert visits.of("our own") == {"mount", "push"}
    answer = house.request("HEAD", "/v2/copy/mounted/manifests/1")
    assert answer.headers["Docker-Content-Digest"] == index
    again = copy(f"{house.address}/copy/here:1", f"{house.address}/copy/mounted")
    assert again.stdout.count("Layer already exists\n") == 5
    assert spooled(tmp_path) == []


def test_one_platform_of_an_index_and_every_tag(house: House, copy: Copy) -> None:
    _, (_, second, _) = put_index(house, "copy/some")
    source = f"{house.address}/copy/some"
    done = copy("-q", "--platform", "linux/arm64", f"{source}:1", f"{source}:arm")
    assert (done.returncode, done.stdout) == (0, f"{source}:arm\n")
    answer = house.request("HEAD", "/v2/copy/some/manifests/arm")
    assert answer.headers["Docker-Content-Digest"] == second
    done = copy("-q", "-a", source, f"{house.address}/copy/all")
    assert done.stdout.split() == [f"{house.address}/copy/all:{tag}" for tag in ("1", "arm")]
    by_digest = copy("-q", f"{source}@{second}", f"{house.address}/copy/digest")
    assert by_digest.stdout == f"{house.address}/copy/digest@{second}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("{0}/copy/nope:1", "{0}/copy/x"), "no such manifest: {0}/copy/nope:1"),
        (("{0}/copy/err:1", "127.0.0.1:1/x"), "127.0.0.1:1: connect: connection refused"),
        (("--platform", "linux/s390x", "{0}/copy/err:1", "{0}/x"), "no image for linux/s390x"),
        (("--platform", "linux/amd64", "{0}/copy/err:one", "{0}/x"), "is one image, not an index"),
        (("-a", "{0}/copy/err:1", "{0}/x"), "tag can't be used with --all-tags/-a"),
        (("{0}/copy/err:1", "{0}/x@sha256:" + "0" * 64), "a tag, or by its own digest"),
    ],
)
def test_errors_say_which_and_what(
    house: House, copy: Copy, words: tuple[str, ...], said: str
) -> None:
    if house.request("HEAD", "/v2/copy/err/manifests/one").status == 404:
        put_index(house, "copy/err")
        house.push("copy/err", "one", b"layer")
    done = copy(*(word.format(house.address) for word in words))
    assert done.returncode != 0
    assert said.format(house.address) in done.stderr


def test_bytes_that_are_not_the_digest_s_go_nowhere(house: House, liar: Liar, copy: Copy) -> None:
    manifest, blobs = image_of([b"layer one", b"layer two"])
    liar.hold("bad", "1", manifest, blobs)
    wrong = f"/v2/bad/blobs/{sha256(b'layer two')}"
    liar.held[wrong] = "application/octet-stream", b"layer 2!!"
    done = copy(f"{liar.address}/bad:1", f"{house.address}/copy/bad")
    assert done.returncode == 1
    assert f"expected blob {sha256(b'layer two')}, found " in done.stderr
    assert house.request("GET", "/v2/copy/bad/manifests/1").status == 404
    assert house.request("GET", f"/v2/copy/bad/blobs/{sha256(b'layer 2!!')}").status == 404


def test_an_index_without_an_end_is_refused(house: House, liar: Liar, copy: Copy) -> None:
    manifest, blobs = image_of([b"layer"])
    liar.hold("deep", "0", manifest, blobs)
    for depth in range(1, 12):
        entry = {"mediaType": OCI_INDEX, "digest": sha256(manifest), "size": len(manifest)}
        value = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
        manifest = json.dumps(value).encode()
        for name in (str(depth), sha256(manifest)):
            liar.held[f"/v2/deep/manifests/{name}"] = OCI_INDEX, manifest
    assert copy(f"{liar.address}/deep:8", f"{house.address}/copy/deep").returncode == 0
    done = copy(f"{liar.address}/deep:11", f"{house.address}/copy/deep")
    assert done.returncode == 1
    assert "more than 8 deep: refused" in done.stderr


def test_a_copy_that_was_killed_is_gone_on_with(house: House, liar: Liar, tmp_path: Path) -> None:
    data = os.urandom(1_000_000)
    manifest, blobs = image_of([data])
    liar.hold("long", "1", manifest, blobs)
    path = f"/v2/long/blobs/{sha256(data)}"
    gone = threading.Event()

    def half(request: Any) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data[:500_000])
        request.wfile.flush()
        gone.wait(PATIENCE)

    liar.paths["GET", path] = half
    words = [*COMMAND, f"{liar.address}/long:1", f"{house.address}/copy/long"]
    first = subprocess.Popen(words, stdout=subprocess.DEVNULL, env=environment(tmp_path))
    try:
        deadline = time.monotonic() + PATIENCE
        partial = tmp_path / f".cache/sampan/copy/ingest/partial-{sha256(data).replace(':', '-')}"
        while not partial.exists() or partial.stat().st_size < 500_000:
            assert first.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        first.kill()
        first.wait()
        gone.set()
    assert house.request("GET", "/v2/copy/long/manifests/1").status == 404
    del liar.paths["GET", path]
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env=environment(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    ranges = [fields.get("range") for fields in liar.requests("GET", path)]
    assert ranges == [None, "bytes=500000-"]
    assert house.request("GET", f"/v2/copy/long/blobs/{sha256(data)}").body == data
    assert spooled(tmp_path) == []


def test_tags_and_manifests_are_removed_where_the_registry_lets_us(
    house: House, registry: Registry, tmp_path: Path
) -> None:
    def remove(*names: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND[:3], "registry", "rm", *names],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            env=environment(tmp_path),
        )

    digest = house.push("rm/a", "1", b"layer")
    house.push("rm/a", "2", b"layer")
    assert remove(f"{house.address}/rm/a:1").returncode == 0
    assert house.request("HEAD", f"/v2/rm/a/manifests/{digest}").status == 200
    assert remove(f"{house.address}/rm/a@{digest}").returncode == 0
    assert house.request("GET", "/v2/rm/a/tags/list").json()["tags"] == []
    gone = remove(f"{house.address}/rm/a:2")
    assert (gone.returncode, "no such manifest" in gone.stderr) == (1, True)
    put_image(registry, "rm/b", "1", [b"layer"])
    refused = remove(f"{registry.address}/rm/b:1")
    assert refused.returncode == 1
    assert f"'sampan registry rm {registry.address}/rm/b@DIGEST'" in refused.stderr
    assert "say which" in remove(f"{house.address}/rm/a").stderr
