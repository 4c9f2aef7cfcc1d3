"""Who pulls: passwords, and tokens that are fetched and run out."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.api.pulling import auth, failure, nothing_stays, pull
from tests.daemon_fixture import Daemon
from tests.image.archives import BASE
from tests.registry.registries import (
    OCI_MANIFEST,
    PASSWORD,
    USER,
    Authority,
    Liar,
    Registry,
    TokenServer,
    image_of,
)

__all__ = ["nothing_stays"]

pytestmark = pytest.mark.root


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
