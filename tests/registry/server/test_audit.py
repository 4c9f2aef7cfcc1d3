"""Who did what: the audit log, its rotation, and a disk that fills under it."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.errors import InvalidArgument
from sampan.kernel.mounts import mount, umount
from sampan.registry.server.audit import AuditLog
from tests.registry.registries import sha256
from tests.registry.server.accounts import basic, htpasswd
from tests.registry.server.house import House

SECRET = "s3cret-word"


@pytest.fixture
def watched(root: Path) -> Iterator[House]:
    htpasswd(root.parent / "accounts", anna=SECRET, ben="another")
    (root.parent / "rules").write_text(
        '[[rule]]\nusers = ["anna"]\nrepositories = ["*"]\nactions = ["*"]\n'
        '[[rule]]\nusers = ["ben"]\nrepositories = ["*"]\nactions = ["pull"]\n'
    )
    options = ("--htpasswd", f"{root.parent}/accounts", "--access", f"{root.parent}/rules")
    house = House(root, *options, "--audit-log", f"{root.parent}/audit").start()
    yield house
    house.close()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def short(one: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(one.get(key) for key in ("action", "tag", "digest", "user", "status", "outcome"))


def test_who_did_what_and_no_password(watched: House) -> None:
    house, path = watched, watched.root.parent / "audit"
    anna, ben = basic("anna", SECRET), basic("ben", "another")
    house.authorization = anna
    digest = house.push("au/box", "v", b"layer")
    layer = sha256(b"layer")
    house.authorization = ""
    assert house.request("GET", "/v2/").status == 401  # how every login begins: not recorded
    token = house.request("GET", "/token?scope=repository:au/box:pull", Authorization=ben)
    bearer = f"Bearer {token.json()['token']}"
    box = "/v2/au/box/manifests/v"
    assert house.request("HEAD", box, Authorization=bearer).status == 200
    assert house.request("GET", box, Authorization=bearer, User_Agent="a\n".strip()).status == 200
    assert house.request("GET", f"/v2/au/box/blobs/{layer}", Authorization=bearer).status == 200
    assert house.request("DELETE", box, Authorization=ben).status == 403
    assert house.request("GET", "/v2/", Authorization=basic("anna", "guess")).status == 401
    assert house.request("GET", "/v2/", Authorization=basic("eve", SECRET)).status == 401
    assert house.request("GET", "/v2/au/box/manifests/none", Authorization=anna).status == 404
    mount = f"?mount={layer}&from=au/box"
    assert (
        house.request("POST", f"/v2/au/m/blobs/uploads/{mount}", Authorization=anna).status == 201
    )
    assert house.request("DELETE", f"/v2/au/m/blobs/{layer}", Authorization=anna).status == 202
    assert house.request("DELETE", box, Authorization=anna).status == 202
    found = lines(path)
    config = sha256(b'{"os": "linux", "architecture": "amd64"}')
    assert [short(one) for one in found] == [
        ("push blob", None, config, "anna", 201, "done"),
        ("push blob", None, layer, "anna", 201, "done"),
        ("push", "v", digest, "anna", 201, "done"),
        ("login", None, None, "ben", 200, "done"),
        ("pull", "v", digest, "ben", 200, "done"),
        ("pull blob", None, layer, "ben", 200, "done"),
        ("delete", "v", None, "ben", 403, "refused"),
        ("GET", None, None, None, 401, "refused"),
        ("GET", None, None, None, 401, "refused"),
        ("pull", "none", None, "anna", 404, "refused"),
        ("mount blob", None, layer, "anna", 201, "done"),
        ("delete blob", None, layer, "anna", 202, "done"),
        ("delete", "v", None, "anna", 202, "done"),
    ]
    assert {one["client"] for one in found} == {"127.0.0.1"}
    assert found[2]["repository"] == "au/box"
    assert found[6]["error"] == "ben may not delete au/box"
    assert (found[7].get("account"), found[8].get("account")) == ("anna", None)
    assert found[10]["from"] == "au/box"
    text = path.read_text()
    for secret in (SECRET, "guess", anna[6:], ben[6:], token.json()["token"]):
        assert secret not in text
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.peer
def test_logrotate_moves_it_on(watched: House, tmp_path: Path) -> None:
    house, path = watched, watched.root.parent / "audit"
    house.authorization = basic("anna", SECRET)
    house.put_blob("ro/box", b"before")
    assert house.process is not None
    configuration = tmp_path / "rotate"
    configuration.write_text(
        f"{path} {{\n rotate 3\n su root root\n create 0600\n postrotate\n"
        f"  kill -HUP {house.process.pid}\n endscript\n}}\n"
    )
    words = ["logrotate", "-f", "-s", f"{tmp_path}/state", str(configuration)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    house.said('msg="audit log reopened"')
    house.put_blob("ro/box", b"after")
    assert [one["digest"] for one in lines(path.with_name("audit.1"))] == [sha256(b"before")]
    assert [one["digest"] for one in lines(path)] == [sha256(b"after")]
    # Where it cannot be opened anew it goes on where it was.
    path.rename(path.with_name("moved"))
    path.mkdir()
    house.process.send_signal(1)
    house.said("the audit log stays where it was.*Is a directory")
    house.put_blob("ro/box", b"last")
    assert lines(path.with_name("moved"))[-1]["digest"] == sha256(b"last")


@pytest.mark.root
def test_nothing_is_changed_while_nobody_can_say_so(quick: Path) -> None:
    """On a full disk: pulls go on, and are counted; pushes and deletions do not."""
    place = Path(tempfile.mkdtemp(prefix="registry-", dir=quick))
    disk = place / "disk"
    disk.mkdir()
    mount("tmpfs", str(disk), "tmpfs", 0, "size=64k")
    house = House(place / "root", "--audit-log", f"{disk}/audit")
    try:
        house.start()
        digest = house.push("full/box", "v", b"layer")
        with (
            (disk / "filler").open("wb", buffering=0) as filler,
            pytest.raises(OSError, match="No"),
        ):
            while True:
                filler.write(bytes(100))
        box = f"/v2/full/box/manifests/{digest}"
        while house.request("POST", "/v2/full/box/blobs/uploads/").status == 202:
            assert house.request("GET", box).status == 200  # until its last page is full
        house.said("the audit log cannot be written")
        answer = house.request("DELETE", box)
        assert answer.status == 503
        assert "nothing is changed until it can" in answer.json()["errors"][0]["message"]
        assert house.request("GET", box).status == 200
        (disk / "filler").unlink()
        assert house.request("DELETE", box).status == 202
        # A line may have been torn by the full disk; all others are whole.
        found = []
        for line in (disk / "audit").read_text().splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                assert "lost" not in line
        (lost,) = (one for one in found if one["action"] == "lost")
        assert lost["records"] >= 2
        assert short(found[-1])[0] == "delete"
        assert found.index(lost) == len(found) - 2
    finally:
        house.close()
        umount(str(disk))
        shutil.rmtree(place)


def test_a_log_that_is_none_is_refused(tmp_path: Path) -> None:
    for path, said in ((tmp_path, "Is a directory"), (Path("/dev/null"), "not a regular file")):
        with pytest.raises(InvalidArgument, match=f"--audit-log {path}: {said}"):
            AuditLog(str(path))
