"""What the page comes as; how a browser's session begins, what it is good for, how it ends."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.registry.server.accounts import basic, htpasswd
from tests.registry.server.house import Answer, House

SESSION = "/api/v1/session"
BOX = "/api/v1/repositories/team/box/tags"


@pytest.fixture(scope="module", params=["token", "basic"])
def guarded(quick: Path, request: pytest.FixtureRequest) -> Iterator[House]:
    place = Path(tempfile.mkdtemp(prefix="registry-", dir=quick))
    htpasswd(place / "accounts", anna="secret", ben="another")
    one = House(place / "root", "--htpasswd", f"{place}/accounts", "--auth", request.param).start()
    one.authorization = basic("anna", "secret")
    one.push("team/box", "v", b"layer")
    one.authorization = ""
    yield one
    one.close()
    shutil.rmtree(place)


def log_in(house: House, user: str = "anna", password: str = "secret", **fields: str) -> Answer:
    fields = {"Content_Type": "application/json", **fields}
    body = json.dumps({"user": user, "password": password}).encode()
    return house.request("POST", SESSION, body, **fields)


def cookie(house: House, user: str = "anna", password: str = "secret") -> str:
    answer = log_in(house, user, password)
    assert answer.status == 200, answer
    return str(answer.headers["Set-Cookie"]).partition(";")[0]


# -- files -----------------------------------------------------------------------------------------


def test_the_page_is_one_document_and_files_that_are_kept_for_ever(house: House) -> None:
    document = house.request("GET", "/")
    assert document.headers["Content-Type"] == "text/html; charset=utf-8"
    assert document.headers["Cache-Control"] == "no-cache"
    policy = document.headers["Content-Security-Policy"]
    for directive in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"):
        assert directive in policy
    assert "unsafe" not in policy
    again = house.request("GET", "/", If_None_Match=document.headers["ETag"])
    assert (again.status, again.body) == (304, b"")
    names = re.findall(rb'(?:src|href)="(web/[^"]+)"', document.body)
    assert len(names) >= 10
    for name in {name.decode() for name in names}:
        plain = house.request("GET", f"/{name}")
        packed = house.request("GET", f"/{name}", Accept_Encoding="br, gzip")
        assert plain.status == packed.status == 200
        assert "immutable" in plain.headers["Cache-Control"]
        assert packed.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(packed.body) == plain.body
        assert plain.headers["ETag"] != packed.headers["ETag"]
        assert plain.headers["X-Content-Type-Options"] == "nosniff"
    head = house.request("HEAD", "/")
    assert (head.status, head.body) == (200, b"")


def test_nothing_in_the_document_is_inline(house: House) -> None:
    document = house.request("GET", "/").body.decode()
    assert re.findall(r"<script(?![^>]* src=)|<style|\sstyle=|\son[a-z]+=", document) == []
    assert re.findall(r"https?://", document) == []


@pytest.mark.parametrize("path", ["/web/0/app.js", "/web/x/../page.py", "/web/", "/index.html"])
def test_there_is_nothing_else(house: House, path: str) -> None:
    assert house.request("GET", path).status == 404
    version = re.findall(rb"web/(\w+)/app.js", house.request("GET", "/").body)[0].decode()
    for name in ("index.html", "page.py", "..", "%2e%2e%2fpage.py", ""):
        assert house.request("GET", f"/web/{version}/{name}").status == 404


# -- sessions --------------------------------------------------------------------------------------


def test_a_registry_without_accounts_has_no_sessions(house: House) -> None:
    said = house.request("GET", SESSION).json()
    assert said == {"accounts": False, "user": ""}
    assert log_in(house).status == 404


def test_a_password_begins_a_session_that_only_the_browser_knows(guarded: House) -> None:
    answer = log_in(guarded)
    assert answer.json() == {"accounts": True, "user": "anna"}
    name, *attributes = answer.headers["Set-Cookie"].split("; ")
    assert attributes == ["Path=/api/", "HttpOnly", "SameSite=Strict"]
    assert guarded.request("GET", SESSION, Cookie=f"other=1; {name}").json()["user"] == "anna"
    assert guarded.request("GET", BOX, Cookie=name).status == 200
    assert guarded.request("GET", BOX).status == 401
    ended = guarded.request("DELETE", SESSION, Cookie=name)
    assert ended.headers["Set-Cookie"].endswith("; Max-Age=0")
    assert ended.json()["user"] == ""


def test_a_wrong_password_begins_none(guarded: House) -> None:
    for user, password in (("anna", "wrong"), ("eve", "secret"), ("anna", "x" * 100), ("", "")):
        answer = log_in(guarded, user, password)
        assert (answer.status, answer.codes) == (401, ["UNAUTHORIZED"])
        assert answer.headers["Set-Cookie"] is None


def test_another_sites_form_cannot_log_in(guarded: House) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert log_in(guarded, Content_Type=kind).status == 415
    for body in (b"", b"{", b"[]", b'{"user": 1, "password": 2}', b"\xff", b"[" * 10_000):
        answer = guarded.request("POST", SESSION, body, Content_Type="application/json")
        assert answer.status == 400, body
    large = json.dumps({"user": "anna", "password": "x" * 100_000}).encode()
    assert guarded.request("POST", SESSION, large, Content_Type="application/json").status == 413


def test_a_session_is_no_token_and_a_token_no_session(guarded: House) -> None:
    name, _, value = cookie(guarded).partition("=")
    assert guarded.request("GET", "/v2/", Cookie=f"{name}={value}").status == 401
    assert guarded.request("GET", "/v2/", Authorization=f"Bearer {value}").status == 401
    assert guarded.request("GET", BOX, Authorization=f"Bearer {value}").status == 401
    assert guarded.request("GET", BOX, Cookie=f"{name}={value[:-2]}xx").status == 401
    assert guarded.request("GET", BOX, Cookie=f"{name}=").status == 401
    if guarded.options[-1] == "basic":
        return
    form = f"grant_type=refresh_token&refresh_token={value}&service=sampan-registry"
    kind = "application/x-www-form-urlencoded"
    assert guarded.request("POST", "/token", form.encode(), Content_Type=kind).status == 401
    path = "/token?offline_token=true&scope=repository:team/box:pull"
    tokens = guarded.request("GET", path, Authorization=basic("anna", "secret")).json()
    for token in (tokens["token"], tokens["refresh_token"]):
        assert guarded.request("GET", BOX, Cookie=f"{name}={token}").status == 401


def test_the_page_is_asked_for_no_password_by_the_browser(guarded: House) -> None:
    asked = guarded.request("GET", BOX, X_Requested_With="sampan")
    assert asked.headers["WWW-Authenticate"].startswith("Session ")
    others = guarded.request("GET", BOX).headers["WWW-Authenticate"]
    assert others.startswith("Basic " if guarded.options[-1] == "basic" else "Bearer ")


def test_a_changed_password_ends_sessions(root: Path) -> None:
    accounts = root.parent / "accounts"
    htpasswd(accounts, anna="secret")
    one = House(root, "--htpasswd", str(accounts)).start()
    try:
        held = cookie(one)
        assert one.request("GET", SESSION, Cookie=held).json()["user"] == "anna"
        htpasswd(accounts, anna="changed")
        assert one.process is not None
        one.process.send_signal(signal.SIGHUP)
        one.said("accounts reloaded")
        assert one.request("GET", SESSION, Cookie=held).json()["user"] == ""
    finally:
        one.close()


def test_passwords_in_forms_are_rationed_and_audited_like_others(root: Path) -> None:
    place = root.parent
    htpasswd(place / "accounts", anna="secret")
    (place / "policy").write_text('[[rate]]\ncount = "logins"\nlimit = 2\nper = "1h"\n')
    options = ("--policy", f"{place}/policy", "--audit-log", f"{place}/audit")
    one = House(root, "--htpasswd", f"{place}/accounts", *options).start()
    try:
        held = cookie(one)
        assert one.request("DELETE", SESSION, Cookie=held).status == 200
        assert log_in(one, password="guess").status == 401
        form = b"grant_type=password&username=anna&password=guess&service=sampan-registry"
        kind = "application/x-www-form-urlencoded"
        assert one.request("POST", "/token", form, Content_Type=kind).status == 401
        right = form.replace(b"guess", b"secret")
        assert one.request("POST", "/token", right, Content_Type=kind).status == 429
        assert log_in(one).status == 429
    finally:
        one.close()
    lines = [json.loads(line) for line in (place / "audit").read_text().splitlines()]
    told = [(line["action"], line.get("user") or line.get("account")) for line in lines]
    assert told[:4] == [("login", "anna"), ("logout", "anna"), ("login", "anna"), ("login", "anna")]
