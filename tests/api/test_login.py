"""POST /auth, and what a registry has of a name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.api.pulling import auth, index_of
from tests.daemon_fixture import Answer, Daemon
from tests.image.archives import BASE
from tests.registry.registries import (
    OCI_INDEX,
    PASSWORD,
    USER,
    Authority,
    Registry,
    TokenServer,
    image_of,
    put_image,
    sha256,
)

pytestmark = pytest.mark.root


def login(daemon: Daemon, server: str, user: str = USER, password: str = PASSWORD) -> Answer:
    body = {"username": user, "password": password, "serveraddress": server}
    return daemon.post("/auth", body)


def test_a_password_is_tried(daemon: Daemon, tmp_path: Path) -> None:
    registry = Registry(tmp_path, password=True)
    try:
        good = {"Status": "Login Succeeded", "IdentityToken": ""}
        for server in (registry.address, f"http://{registry.address}/v2/"):
            assert login(daemon, server).json() == good
        wrong = login(daemon, registry.address, password="x")
        assert (wrong.status, "incorrect username or password" in wrong.message) == (401, True)
        nobody = login(daemon, registry.address, "", "")
        assert (nobody.status, "no basic auth credentials" in nobody.message) == (401, True)
        refused = daemon.docker("login", "-u", USER, "-p", "x", registry.address)
        assert refused.returncode == 1
        assert "incorrect username or password" in refused.stderr
    finally:
        registry.close()


def test_a_token_server_gives_a_token_in_the_passwords_place(
    daemon: Daemon, tmp_path: Path, authority: Authority
) -> None:
    tokens = TokenServer(authority)
    registry = Registry(tmp_path, tokens=tokens)
    try:
        assert login(daemon, registry.address).json() == {
            "Status": "Login Succeeded",
            "IdentityToken": tokens.refresh_token,
        }
        assert tokens.asked[-1]["offline_token"] == ["true"]
        assert login(daemon, registry.address, password="x").status == 401
    finally:
        registry.close()
        tokens.close()


def test_a_registry_that_wants_nothing_takes_anybody(daemon: Daemon, registry: Registry) -> None:
    answer = login(daemon, registry.address)
    assert answer.json() == {"Status": "Login Succeeded", "IdentityToken": ""}


@pytest.mark.parametrize("server", ["a b", "-", "[::1", "a:b", "x" * 10 + "\n"])
def test_what_is_no_registry_is_400(daemon: Daemon, server: str) -> None:
    answer = login(daemon, server + "/v2/")
    assert (answer.status, "not a registry's address" in answer.message) == (400, True)


def test_credentials_of_a_wrong_form_are_400(daemon: Daemon) -> None:
    assert daemon.post("/auth", {"username": 1}).status == 400
    assert daemon.post("/auth", {"auth": "?", "serveraddress": "127.0.0.1:1"}).status == 400


def test_a_name_is_looked_up_without_a_pull(daemon: Daemon, registry: Registry) -> None:
    digest = put_image(registry, "look/single", "1", [BASE])
    found = daemon.get(f"/distribution/{registry.address}/look/single:1/json")
    assert found.status == 200, found.body
    manifest, _ = image_of([BASE])
    assert found.json() == {
        "Descriptor": {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest,
            "size": len(manifest),
        },
        "Platforms": [{"architecture": "amd64", "os": "linux"}],
    }
    index = index_of(
        [
            (manifest, {"os": "linux", "architecture": "amd64"}),
            (manifest, {"os": "linux", "architecture": "arm", "variant": "v7"}),
        ]
    )
    registry.put_manifest("look/single", "many", index, OCI_INDEX)
    found = daemon.get(f"/distribution/{registry.address}/look/single:many/json")
    assert found.json()["Descriptor"]["digest"] == sha256(index)
    assert found.json()["Platforms"] == [
        {"architecture": "amd64", "os": "linux"},
        {"architecture": "arm", "os": "linux", "variant": "v7"},
    ]
    images = daemon.get("/images/json").json()
    assert [image for image in images if registry.address in json.dumps(image)] == []


def test_a_name_nobody_has_is_not_found(daemon: Daemon, registry: Registry, tmp_path: Path) -> None:
    missing = daemon.get(f"/distribution/{registry.address}/look/nothing:1/json")
    assert (missing.status, "not found" in missing.message) == (404, True)
    by_id = daemon.get(f"/distribution/sha256:{'a' * 64}/json")
    assert by_id.status == 400
    closed = Registry(tmp_path, password=True)
    try:
        denied = daemon.request(
            "GET", f"/distribution/{closed.address}/a:1/json", headers=auth("anna", "x")
        )
        assert (denied.status, "access denied" in denied.message) == (404, True)
    finally:
        closed.close()
