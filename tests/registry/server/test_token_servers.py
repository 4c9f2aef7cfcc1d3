"""A registry whose clients get their tokens elsewhere: what it says, keys that change while it
serves, real clients; and Debian's docker-registry beside it, which must say the same.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.registry.registries import PASSWORD, USER, Authority, Registry, TokenServer
from tests.registry.server.accounts import basic, htpasswd
from tests.registry.server.house import House
from tests.registry.server.test_foreign_tokens import (
    ISSUER,
    SERVICE,
    Signer,
    claims,
    forged,
    named,
    signers,
)

__all__ = ["signers"]

REALM = "http://127.0.0.1:9/auth"


def options(keys: Path, realm: str = REALM) -> tuple[str, ...]:
    said = ("--token-issuer", ISSUER, "--token-service", SERVICE)
    return ("--token-keys", str(keys), *said, *(("--token-realm", realm) if realm else ()))


def access(*entries: str) -> list[dict[str, object]]:
    """``repository:NAME:ACTIONS``."""
    split = (entry.split(":") for entry in entries)
    return [{"type": k, "name": name, "actions": a.split(",")} for k, name, a in split]


class Turn:
    """A registry, its keys' file, and who signs for it."""

    def __init__(self, house: House, keys: Path, signers: dict[str, Signer]) -> None:
        self.house = house
        self.keys = keys
        self.signers = signers

    def bearer(self, who: str, *entries: str, **more: object) -> str:
        said = claims(time.time(), access=access(*entries), **more)
        return f"Bearer {self.signers[who].sign(said, kid=who)}"

    def reload(self, *who: str) -> None:
        self.keys.write_text(json.dumps({"keys": [self.signers[o].jwk(kid=o) for o in who]}))
        self.hang_up()

    def hang_up(self) -> None:
        assert self.house.process is not None
        self.house.process.send_signal(signal.SIGHUP)


@pytest.fixture
def turn(root: Path, signers: dict[str, Signer]) -> Iterator[Turn]:
    keys = root.parent / "keys"
    keys.write_text(json.dumps({"keys": [signers["rsa"].jwk(kid="rsa")]}))
    house = House(root, *options(keys)).start()
    yield Turn(house, keys, signers)
    house.close()


def test_a_token_is_asked_for_elsewhere_and_says_what_is_allowed(turn: Turn) -> None:
    house = turn.house
    answer = house.request("GET", "/v2/team/box/manifests/v")
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == (
        f'Bearer realm="{REALM}",service="{SERVICE}",scope="repository:team/box:pull"'
    )
    house.authorization = turn.bearer("rsa", "repository:team/box:pull,push", "repository:x:*")
    house.push("team/box", "v", b"layer")
    house.push("x", "v", b"layer")
    assert house.request("DELETE", "/v2/team/box/manifests/v").status == 401
    assert house.request("DELETE", "/v2/x/manifests/v").status == 202
    assert house.request("GET", "/v2/_catalog").status == 401
    assert house.request("GET", "/api/v1/repositories").status == 401

    def names(*entries: str) -> list[str]:
        bearer = turn.bearer("rsa", *entries)
        found = house.request("GET", "/api/v1/repositories", Authorization=bearer)
        return [one["name"] for one in found.json()["repositories"]]

    assert names("registry:catalog:*") == ["team/box", "x"]
    assert names("registry:catalog:list", "repository:x:pull") == ["x"]
    everything = turn.bearer("rsa", "registry:catalog:*")
    assert house.request("GET", "/v2/_catalog", Authorization=everything).status == 200
    # Nobody has an account here, and there is nothing to log in to.
    assert house.request("GET", "/token").status == 404
    assert house.request("GET", "/v2/", Authorization=basic("a", "b")).status == 401
    house.authorization = ""
    assert house.request("GET", "/api/v1/session").json() == {"accounts": False, "user": ""}


def test_keys_change_while_it_serves(turn: Turn) -> None:
    house = turn.house

    def status(who: str) -> int:
        return house.request("GET", "/v2/", Authorization=turn.bearer(who)).status

    def until(who: str, expected: int) -> None:
        deadline = time.monotonic() + 60
        while status(who) != expected:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    assert (status("rsa"), status("curve")) == (200, 401)
    turn.reload("rsa", "curve")
    until("curve", 200)
    assert status("rsa") == 200
    turn.reload("curve")
    until("rsa", 401)
    assert status("curve") == 200
    turn.keys.write_text("nonsense")
    turn.hang_up()
    house.said("certificates and accounts stay as they were.*there is no key in it")
    assert status("curve") == 200


def test_accounts_here_beside_tokens_from_elsewhere(root: Path, signers: dict[str, Signer]) -> None:
    """A name in a token is not the account of that name."""
    place = root.parent
    htpasswd(place / "accounts", anna="a:secret")
    (place / "keys").write_text(json.dumps({"keys": [signers["rsa"].jwk(kid="rsa")]}))
    house = House(root, *options(place / "keys", ""), "--htpasswd", f"{place}/accounts").start()
    turn = Turn(house, place / "keys", signers)
    try:
        answer = house.request("GET", "/v2/")
        assert f'realm="http://{house.address}/token"' in answer.headers["WWW-Authenticate"]
        anna = basic("anna", "a:secret")
        house.authorization = anna
        house.push("secret", "v", b"layer")
        house.authorization = ""
        query = urllib.parse.urlencode({"scope": "repository:secret:pull"})
        own = house.request("GET", f"/token?{query}", Authorization=anna).json()["token"]
        path = "/v2/secret/manifests/v"
        assert house.request("GET", path, Authorization=f"Bearer {own}").status == 200
        other = turn.bearer("rsa", "registry:catalog:list", sub="anna")
        assert house.request("GET", path, Authorization=other).status == 401
        found = house.request("GET", "/api/v1/repositories", Authorization=other)
        assert found.json()["repositories"] == []
        form = f"grant_type=refresh_token&refresh_token={other.removeprefix('Bearer ')}"
        kind = "application/x-www-form-urlencoded"
        assert house.request("POST", "/token", form.encode(), Content_Type=kind).status == 401
    finally:
        house.close()


# -- others --------------------------------------------------------------------------------------


@pytest.mark.peer
def test_docker_registry_says_the_same_of_each_token(
    root: Path, tmp_path: Path, signers: dict[str, Signer]
) -> None:
    class Bundle:
        realm = REALM
        bundle = tmp_path / "bundle"

    # Of this age it has RSA and P-256 by libtrust's names alone.
    Bundle.bundle.write_bytes(signers["rsa"].certificate + signers["curve"].certificate)
    kids = {name: named(signers[name].certificate, tmp_path)[1] for name in ("rsa", "curve")}
    theirs = Registry(tmp_path, tokens=Bundle)  # type: ignore[arg-type]
    ours = House(root, *options(Bundle.bundle)).start()
    try:
        now = time.time()
        tokens = {
            f"{name} {more}": signers[name].sign(claims(now, **more), kid=kids[name])
            for name in kids
            for more in (
                {"nbf": int(now) - 10},
                {"exp": int(now) - 30},
                {"exp": int(now) - 90},
                {"nbf": int(now) + 90},
                {"aud": "other"},
                {"iss": "other"},
            )
        }
        tokens |= forged(signers, now, kids["rsa"], kids["curve"])
        said = {}
        for what, token in tokens.items():
            bearer = f"Bearer {token}"
            mine = ours.request("GET", "/v2/", Authorization=bearer).status
            said[what] = (mine, theirs.request("GET", "/v2/", Authorization=bearer)[0])
        # One key has one algorithm (RFC 8725, section 3.1): theirs has three.
        assert said.pop("a longer hash")[0] == 401
        assert {what: pair for what, pair in said.items() if pair[0] != pair[1]} == {}
        assert sum(pair == (200, 200) for pair in said.values()) == 4
    finally:
        ours.close()
        theirs.close()


@pytest.mark.peer
def test_skopeo_gets_its_tokens_elsewhere(root: Path, tmp_path: Path, authority: Authority) -> None:
    """From one that shows its certificate instead of a key's name."""
    tokens = TokenServer(authority)
    house = House(root, *options(tokens.certificate, tokens.realm)).start()
    try:
        house.authorization = "Bearer " + tokens.token(["repository:t/box:pull,push"], True)
        house.push("t/box", "v", b"layer")
        source = f"docker://{house.address}/t/box"
        plain, creds = "--tls-verify=false", f"{USER}:{PASSWORD}"
        listed = ["skopeo", "list-tags", plain, "--creds", creds, source]
        done = subprocess.run(listed, check=True, capture_output=True)
        assert json.loads(done.stdout)["Tags"] == ["v"]
        copy = ["skopeo", "copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false"]
        both = ["--src-creds", creds, "--dest-creds", creds]
        subprocess.run([*copy, *both, f"{source}:v", f"{source}:w"], check=True)
        wrong = ["--src-creds", "anna:wrong", "--dest-creds", "anna:wrong"]
        refused = subprocess.run([*copy, *wrong, f"{source}:v", f"{source}:x"], check=False)
        assert refused.returncode != 0
        assert tokens.asked[0]["service"] == [SERVICE]
    finally:
        house.close()
        tokens.close()
