"""Who may do what: accounts, rules, tokens."""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.cli.client import Client
from sampan.cli.commands.registry import serve
from sampan.errors import InvalidArgument
from sampan.registry.server.access.accounts import read_accounts
from sampan.registry.server.access.rules import read_rules
from sampan.registry.server.access.tokens import Access, Tokens
from sampan.registry.server.clock import Clock
from sampan.registry.server.errors import Unauthorized
from tests.registry.server.accounts import basic, htpasswd
from tests.registry.server.house import Answer, House

RULES = """
[[rule]]
users = ["anna"]
repositories = ["*"]
actions = ["*"]

[[rule]]
users = ["ben"]
repositories = ["team/*"]
actions = ["pull", "push"]

[[rule]]
users = ["anonymous", "*"]
repositories = ["public/*"]
actions = ["pull"]
"""
ANNA, BEN = basic("anna", "a:secret"), basic("ben", "another")


@pytest.fixture(scope="module", params=["token", "basic"])
def guarded(quick: Path, request: pytest.FixtureRequest) -> Iterator[House]:
    place = Path(tempfile.mkdtemp(prefix="registry-", dir=quick))
    htpasswd(place / "accounts", anna="a:secret", ben="another")
    (place / "rules").write_text(RULES)
    options = ("--htpasswd", f"{place}/accounts", "--access", f"{place}/rules")
    one = House(place / "root", *options, "--auth", request.param).start()
    one.authorization = ANNA
    one.push("public/box", "v", b"layer")
    one.push("team/box", "v", b"layer")
    one.authorization = ""
    yield one
    one.close()
    shutil.rmtree(place)


def is_token(house: House) -> bool:
    return house.options[-1] == "token"


def test_nobody_is_told_how_to_become_somebody(guarded: House) -> None:
    answer = guarded.request("GET", "/v2/")
    assert (answer.status, answer.codes) == (401, ["UNAUTHORIZED"])
    said = answer.headers["WWW-Authenticate"]
    if is_token(guarded):
        realm = f"http://{guarded.address}/token"
        assert said == f'Bearer realm="{realm}",service="sampan-registry"'
        push = guarded.request("POST", "/v2/team/box/blobs/uploads/")
        assert push.headers["WWW-Authenticate"].endswith(',scope="repository:team/box:pull,push"')
    else:
        assert said == 'Basic realm="sampan-registry", charset="UTF-8"'


def test_passwords_and_rules(guarded: House) -> None:
    assert guarded.request("GET", "/v2/", Authorization=ANNA).status == 200
    for wrong in (basic("anna", "other"), basic("eve", "a:secret"), basic("anna", "x" * 100)):
        answer = guarded.request("GET", "/v2/", Authorization=wrong)
        assert (answer.status, answer.codes) == (401, ["UNAUTHORIZED"])
    for broken in (
        "Basic",
        "Basic !!",
        "Basic " + base64.b64encode(b"anna").decode(),
        "Bearer x.y",
    ):
        assert guarded.request("GET", "/v2/", Authorization=broken).status == 401
    box = "/v2/team/box/manifests/v"
    assert guarded.request("GET", box).status == 401
    assert guarded.request("GET", box, Authorization=BEN).status == 200
    answer = guarded.request("DELETE", box, Authorization=BEN)
    assert (answer.status, answer.codes) == (403, ["DENIED"])
    assert guarded.request("GET", "/v2/public/box/manifests/v").status == 200
    push = guarded.request("POST", "/v2/public/box/blobs/uploads/", Authorization=BEN)
    assert push.status == 403


def test_lists_over_everything_are_for_who_sees_everything(guarded: House) -> None:
    for path in ("/v2/_catalog", "/v1/search?q=box"):
        assert guarded.request("GET", path).status == 401
        assert guarded.request("GET", path, Authorization=BEN).status == 403
        assert guarded.request("GET", path, Authorization=ANNA).status == 200


def test_a_blob_is_mounted_only_from_where_one_may_pull(guarded: House) -> None:
    guarded.authorization = ANNA
    digest = guarded.put_blob("secret/box", b"secret")
    guarded.authorization = BEN
    try:
        for source in ("&from=secret/box", ""):
            path = f"/v2/team/box/blobs/uploads/?mount={digest}{source}"
            assert guarded.request("POST", path).status == 202
        assert guarded.request("HEAD", f"/v2/team/box/blobs/{digest}").status == 404
    finally:
        guarded.authorization = ""


# -- tokens --------------------------------------------------------------------------------------


def ask(house: House, *scopes: str, authorization: str = "", **query: str) -> Answer:
    pairs = [("service", "sampan-registry"), *(("scope", scope) for scope in scopes)]
    text = urllib.parse.urlencode([*pairs, *query.items()])
    fields = {"Authorization": authorization} if authorization else {}
    return house.request("GET", f"/token?{text}", **fields)


def granted(answer: Answer) -> Any:
    payload = answer.json()["token"].split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    return {one["name"]: one["actions"] for one in claims.get("access", ())}


def test_a_token_is_for_what_was_asked_and_is_allowed(guarded: House) -> None:
    if not is_token(guarded):
        answer = guarded.request("GET", "/token")
        assert (answer.status, answer.codes) == (405, ["UNSUPPORTED"])
        return
    scopes = ("repository:team/box:pull,push,delete", "repository:public/box:pull,push")
    answer = ask(guarded, *scopes, "registry:catalog:*", authorization=BEN)
    assert granted(answer) == {"team/box": ["pull", "push"], "public/box": ["pull"]}
    bearer = f"Bearer {answer.json()['token']}"
    box = "/v2/team/box/manifests/v"
    assert guarded.request("GET", box, Authorization=bearer).status == 200
    assert guarded.request("GET", "/v2/", Authorization=bearer).status == 200
    answer = guarded.request("DELETE", box, Authorization=bearer)
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].endswith(
        ',scope="repository:team/box:delete",error="insufficient_scope"'
    )
    assert guarded.request("GET", "/v2/_catalog", Authorization=bearer).status == 401
    assert granted(ask(guarded, " ".join(scopes))) == {"team/box": [], "public/box": ["pull"]}
    everything = ask(guarded, "registry:catalog:*", authorization=ANNA).json()["token"]
    catalog = guarded.request("GET", "/v2/_catalog", Authorization=f"Bearer {everything}")
    assert catalog.status == 200
    assert ask(guarded, authorization=basic("ben", "wrong")).status == 401


def test_a_refresh_token_stands_for_the_password(guarded: House) -> None:
    if not is_token(guarded):
        return
    scope = "repository:team/box:pull"
    refresh = ask(guarded, authorization=BEN, offline_token="true").json()["refresh_token"]

    def post(**form: str) -> Answer:
        body = urllib.parse.urlencode({"service": "sampan-registry", "scope": scope, **form})
        kind = "application/x-www-form-urlencoded"
        return guarded.request("POST", "/token", body.encode(), Content_Type=kind)

    answer = post(grant_type="refresh_token", refresh_token=refresh)
    assert granted(answer) == {"team/box": ["pull"]}
    assert post(grant_type="password", username="ben", password="another").status == 200
    assert post(grant_type="password", username="ben", password="wrong").status == 401
    assert post(grant_type="refresh_token", refresh_token="x").status == 401
    token = answer.json()["access_token"]
    assert post(grant_type="refresh_token", refresh_token=token).status == 401
    assert post(grant_type="guess").status == 400


def test_a_token_is_of_one_registry_for_a_while_and_of_one_form() -> None:
    class Turned(Clock):
        ahead = 0.0

        def now(self) -> float:
            return super().now() + self.ahead

    clock = Turned(1e9)
    tokens = Tokens(b"k" * 32, "here", clock)
    token = tokens.sign("anna", 60, (Access("repository", "box", ("pull",)),))
    assert tokens.verify(token).access[0].name == "box"
    for other in (Tokens(b"l" * 32, "here", clock), Tokens(b"k" * 32, "there", clock)):
        with pytest.raises(Unauthorized):
            other.verify(token)
    none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').decode().rstrip("=")
    body = token.split(".")[1]
    for forged in (f"{none}.{body}.", f"{none}.{body}", f"{token}x", token[:-2], "", ".", "ä.b.c"):
        with pytest.raises(Unauthorized):
            tokens.verify(forged)
    clock.ahead = 120
    with pytest.raises(Unauthorized, match="expired"):
        tokens.verify(token)


# -- files ---------------------------------------------------------------------------------------


def test_a_changed_password_ends_what_stood_for_it(tmp_path: Path) -> None:
    path = tmp_path / "accounts"
    htpasswd(path, anna="one")
    before = read_accounts(str(path))
    assert before.check("anna", "one")
    assert before.remembers("anna", "one")
    htpasswd(path, anna="two")
    after = read_accounts(str(path))
    assert before.stamp("anna") != after.stamp("anna")
    assert not after.check("anna", "one")


@pytest.mark.parametrize("line", ["anna", "anna:secret", "anna:{SHA}x", ":$2b$04$", "a:$apr1$x$y"])
def test_lines_that_are_no_account_are_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "accounts").write_text(f"# accounts\n\n{line}\n")
    with pytest.raises(InvalidArgument, match="line 3 is not NAME:BCRYPT"):
        read_accounts(str(tmp_path / "accounts"))


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "[[rule]]",
        "rule = 1",
        '[[rule]]\nusers=["a"]\nrepositories=["b"]\nactions=["fly"]',
        '[[rule]]\nusers=["a"]\nrepositories=["b"]\nactions=[]',
        '[[rule]]\nusers=["a"]\nrepositories=["b"]\nactions=["pull"]\nuntil=1',
    ],
)
def test_rules_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "rules").write_text(text)
    with pytest.raises(InvalidArgument, match="--access"):
        read_rules(str(tmp_path / "rules"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--access", "x"), "--htpasswd"),
        (("--auth", "basic"), "--htpasswd"),
        (("--anonymous-pull",), "--htpasswd"),
        (("--htpasswd", "x", "--auth", "magic"), "use token or basic"),
        (("--htpasswd", "x", "--auth", "basic", "--anonymous-pull"), "--auth token"),
        (("--htpasswd", "x", "--access", "y", "--anonymous-pull"), "--access"),
        (("--htpasswd", "x", "--public-url", "x"), "--public-url"),
        (("--tls-cert", "x"), "--tls-key"),
        (("--listen", "nonsense"), "--listen nonsense"),
        (("--listen", "127.0.0.1:99999"), "--listen 127.0.0.1:99999"),
        (("--drain", "-1s"), "--drain"),
        (("--proxy", "x"), "--proxy x: "),
        (("--retention", "x"), "--retention: "),
    ],
)
def test_options_that_do_not_go_are_refused(words: tuple[str, ...], said: str) -> None:
    client = Client.__new__(Client)  # there is no daemon in this
    with pytest.raises(InvalidArgument, match=said):
        serve(client, list(words))


def test_files_that_are_not_there_are_refused(root: Path) -> None:
    for words, said in (
        (("--htpasswd", "/nowhere"), "--htpasswd /nowhere: No such file"),
        (("--tls-cert", "/nowhere", "--tls-key", "/nowhere"), "TLS with /nowhere"),
        (("--storage", "s3://x"), '--storage: "x" is no bucket'),
    ):
        done = House(root).tool("serve", "--listen", "127.0.0.1:0", *words)
        assert done.returncode == 1
        assert said in done.stderr
