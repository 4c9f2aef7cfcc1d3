"""Pull, from a registry that lies: nothing of it is believed, and nothing stays."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.api.pulling import BIG, carrier_of, failure, nothing_stays, partials, peak
from tests.daemon_fixture import Daemon
from tests.image.archives import BASE, ONE, configuration
from tests.registry.registries import (
    OCI_INDEX,
    OCI_MANIFEST,
    Liar,
    image_of,
    sha256,
)

__all__ = ["nothing_stays"]

pytestmark = pytest.mark.root


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
