"""Tags that go by rules, tags that never move."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.cli.client import Client
from sampan.cli.commands.registry import retention
from sampan.errors import InvalidArgument
from sampan.registry.server.policy.policy import Policy, read_policy
from sampan.registry.server.retention import Tag, judge
from tests.registry.registries import sha256
from tests.registry.server.house import House

DAY = 86400.0


def policy(path: Path, text: str) -> Policy:
    path.write_text(text)
    return read_policy(str(path))


@pytest.fixture
def brief(root: Path) -> Iterator[House]:
    one = House(root, "--lease", "0", "--collect-every", "0").start()
    yield one
    one.close()


def names(text: str, tmp_path: Path, *, fixed: str = "") -> dict[str, str]:
    """What the rules say of v1 (a hundred days old) to v9 (twenty)."""
    tags = [Tag(f"v{n}", n, 1000 * DAY - (110 - 10 * n) * DAY) for n in range(9, 0, -1)]
    rules = policy(tmp_path / "p", f'[[retention]]\nrepositories = ["a/*"]\n{text}')
    assert rules.retention("b/d") == []
    verdicts = judge(rules.retention("a/c"), tags, 1000 * DAY, lambda tag: tag == fixed)
    return {one.tag.name: one.why for one in verdicts if one.goes}


def test_rules_let_go_what_none_of_them_keeps(tmp_path: Path) -> None:
    gone = names("keep-last = 7", tmp_path)
    assert gone == {
        "v2": "number 8 from the newest, 7 are kept",
        "v1": "number 9 from the newest, 7 are kept",
    }
    assert sorted(names('keep-for = "85d"', tmp_path)) == ["v1", "v2"]
    assert names('keep-for = "85d"', tmp_path)["v2"] == "pushed 90.0 d ago, kept for 85d"
    assert sorted(names('keep = ["v1", "*9"]\nkeep-last = 2', tmp_path)) == [
        f"v{n}" for n in range(2, 7)
    ]
    assert list(names('tags = ["v3", "v4"]\nkeep-last = 1', tmp_path)) == ["v3"]
    two = 'keep-last = 1\n[[retention]]\nrepositories = ["*/c"]\ntags = ["v1"]\nkeep-last = 1'
    assert "v1" not in names(two, tmp_path)
    assert "v4" not in names("keep-last = 0", tmp_path, fixed="v4")


def test_what_goes_is_explained_and_goes_only_when_told(brief: House, tmp_path: Path) -> None:
    path = tmp_path / "policy"
    path.write_text('[[retention]]\nrepositories = ["ci/*"]\nkeep-last = 2\nkeep = ["stable"]\n')
    digests = [brief.push("ci/app", f"b{n}", b"shared", b"layer %d" % n) for n in range(4)]
    image = brief.request("GET", f"/v2/ci/app/manifests/{digests[0]}").body
    brief.put_manifest("ci/app", "stable", image)
    brief.push("other/app", "b0", b"layer 1")
    # A signature, by both of its ways: they go with what they refer to and count as no tags.
    subject = {"mediaType": "m", "digest": digests[1], "size": 1}
    signed = brief.image("ci/app", b"signature", subject=subject)
    assert brief.put_manifest("ci/app", sha256(b"x"), b"{}", "a/b").codes == ["DIGEST_INVALID"]
    assert brief.put_manifest("ci/app", "by-digest", signed).status == 201
    assert brief.request("DELETE", "/v2/ci/app/manifests/by-digest").status == 202
    brief.push("ci/app", f"{digests[1].replace(':', '-')}.sig", b"cosign")
    words = ("retention", "--policy", str(path))
    said = brief.tool(*words, "--all").stdout
    assert "keeps ci/app:stable: kept by its name\n" in said
    assert "would remove ci/app:b1: number 3 from the newest, 2 are kept\n" in said
    assert "would remove ci/app:b0: number 4 from the newest, 2 are kept\n" in said
    assert f"would remove ci/app@{digests[1]}: no tag is left\n" in said
    assert f"{digests[1].replace(':', '-')}.sig: what it refers to goes\n" in said
    assert f"@{digests[0]}" not in said
    assert "3 tags, 3 manifests would be removed\n" in said
    # layer 1 has another repository, shared another image.
    assert f"\n{len(b'signature') + len(b'cosign')} bytes of blobs" in said
    assert len(brief.request("GET", "/v2/ci/app/tags/list").json()["tags"]) == 6
    said = brief.tool(*words, "--apply").stdout
    assert said.endswith("\n3 tags, 3 manifests were removed\n"), said
    assert brief.request("GET", "/v2/ci/app/tags/list").json()["tags"] == ["b2", "b3", "stable"]
    assert brief.request("HEAD", f"/v2/ci/app/manifests/{digests[1]}").status == 404
    with sqlite3.connect(brief.root / "registry.db") as database:
        database.execute("UPDATE links SET leased = 0")  # an hour later
    database.close()
    assert brief.tool("gc").returncode == 0
    assert sha256(b"signature") not in brief.blob_files()
    assert {sha256(b"layer 0"), sha256(b"layer 1"), sha256(b"shared")} <= set(brief.blob_files())
    assert brief.tool("fsck").stdout == "clean\n"


def test_an_index_takes_what_only_it_lists(brief: House, tmp_path: Path) -> None:
    path = tmp_path / "policy"
    text = 'keep-last = 0\ntags = ["old"]\nuntagged = "10d"\n'
    path.write_text(f'[[retention]]\nrepositories = ["*"]\n{text}')
    media_type = "application/vnd.oci.image.index.v1+json"
    children = [brief.push("ix/a", f"p{n}", b"platform %d" % n) for n in range(3)]

    def index(*digests: str) -> dict[str, object]:
        listed = []
        for digest in digests:
            answer = brief.request("HEAD", f"/v2/ix/a/manifests/{digest}")
            kind, size = answer.headers["Content-Type"], int(answer.headers["Content-Length"])
            listed.append({"mediaType": kind, "digest": digest, "size": size})
        return {"schemaVersion": 2, "mediaType": media_type, "manifests": listed}

    brief.put_manifest("ix/a", "old", index(*children))
    brief.put_manifest("ix/a", "new", index(children[2]))
    assert brief.request("DELETE", "/v2/ix/a/manifests/p0").status == 202
    assert brief.request("DELETE", "/v2/ix/a/manifests/p2").status == 202
    lost = brief.push("ix/a", "moving", b"lost")
    brief.push("ix/a", "moving", b"found")
    said = brief.tool("retention", "--policy", str(path), "--apply").stdout
    assert said.endswith("\n1 tags, 2 manifests were removed\n"), said
    assert f"{children[0]}: its index goes" in said
    there = [brief.request("HEAD", f"/v2/ix/a/manifests/{one}").status for one in children]
    assert there == [404, 200, 200]
    with sqlite3.connect(brief.root / "registry.db") as database:
        database.execute(f"UPDATE manifests SET touched = touched - {11 * DAY}")
    database.close()
    said = brief.tool("retention", "--policy", str(path), "--apply").stdout
    assert said.startswith(f"removed ix/a@{lost}: no tag stands for it, and no index lists it\n")
    assert said.endswith("\n0 tags, 1 manifests were removed\n")
    assert brief.tool("fsck").stdout == "clean\n"


def test_a_run_that_is_killed_has_removed_whole_images_and_the_next_goes_on(
    brief: House, tmp_path: Path
) -> None:
    path = tmp_path / "policy"
    path.write_text('[[retention]]\nrepositories = ["*"]\nkeep-last = 3\n')
    image = brief.image("k/app", b"layer")
    for number in range(220):  # three transactions
        one = {**image, "annotations": {"number": str(number)}}
        assert brief.put_manifest("k/app", f"b{number:03}", one).status == 201
    words = ["registry", "retention", "--root", str(brief.root), "--policy", str(path), "--apply"]
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "sampan.cli", *words], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()  # the first is over
        process.kill()
    with sqlite3.connect(brief.root / "registry.db") as database:
        (tags,) = database.execute("SELECT count(*) FROM tags").fetchone()
        (manifests,) = database.execute("SELECT count(*) FROM manifests").fetchone()
    database.close()
    assert 3 <= tags == manifests < 220
    assert brief.tool("fsck").stdout == "clean\n"
    assert brief.tool("retention", "--policy", str(path), "--apply").returncode == 0
    left = brief.request("GET", "/v2/k/app/tags/list").json()["tags"]
    assert left == ["b217", "b218", "b219"]


def test_a_server_applies_it_when_told_and_tags_that_never_move_do_not(root: Path) -> None:
    path = root.parent / "policy"
    path.write_text(
        '[[immutable]]\nrepositories = ["*"]\ntags = ["v*"]\n'
        '[[immutable]]\nrepositories = ["*"]\ntags = ["once-*"]\ndelete = true\n'
    )
    options = ("--policy", str(path), "--collect-every", "50ms")
    house = House(root, *options, "--apply-retention").start()
    try:
        first = house.push("im/box", "v1", b"one")
        assert house.push("im/box", "v1", b"one") == first  # the same again moves nothing
        other = house.image("im/box", b"two")
        answer = house.put_manifest("im/box", "v1", other)
        assert (answer.status, answer.codes) == (403, ["DENIED"])
        assert answer.json()["errors"][0]["detail"] == {"tag": "v1", "digest": first}
        digest = house.push("im/box", "once-1", b"two")
        path_v1 = "/v2/im/box/manifests/v1"
        for where in (path_v1, f"/v2/im/box/manifests/{first}"):
            answer = house.request("DELETE", where)
            assert (answer.status, answer.codes) == (403, ["DENIED"])
        assert house.request("HEAD", path_v1).headers["Docker-Content-Digest"] == first
        assert house.put_manifest("im/box", "once-1", house.image("im/box", b"3")).status == 403
        assert house.request("DELETE", f"/v2/im/box/manifests/{digest}").status == 202
        house.push("im/box", "nightly", b"three")
        assert house.process is not None
        with path.open("a") as file:
            file.write('[[retention]]\nrepositories = ["*"]\nkeep-last = -1\n')
        house.process.send_signal(1)
        house.said(r"stay as they were.*line 10.*keep-last")
        path.write_text(path.read_text().replace("-1", "0"))
        house.process.send_signal(1)
        house.said('msg="retention removed" repository=im/box what=nightly')
        assert house.request("GET", "/v2/im/box/tags/list").json()["tags"] == ["v1"]
    finally:
        house.close()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x", "Expected '='"),
        ("\nretain = 1", "line 2: Object contains unknown field `retain`"),
        ("[retention]", "line 1, retention: Expected `array`"),
        ("\n[[retention]]\nkeep-last = 1", "line 2, retention.0.: .*`repositories`"),
        (
            '[[immutable]]\nrepositories = ["a"]\n[[retention]]\n'
            'repositories = ["a"]\nkeep-last = "x"',
            "line 5, retention.0..keep-last: Expected `int",
        ),
        ('[[retention]]\nrepositories = ["a"]\nkeep-for = "3y"', 'line 3, .*"3y" is no length'),
        ('[[retention]]\nrepositories = ["a"]', "line 1, .*would remove every tag"),
        ("[[immutable]]\nrepositories = []", "line 2, .*repositories: at least one"),
        ('[[immutable]]\nrepositories = ["a"]\nfoo = 1', "line 3, .*`foo`"),
    ],
)
def test_policies_that_are_none_are_refused_by_line_and_key(
    tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(InvalidArgument, match=f"--policy .*: {said}"):
        policy(tmp_path / "p", text)


def test_retention_without_rules_is_refused() -> None:
    client = Client.__new__(Client)  # there is no daemon in this
    with pytest.raises(InvalidArgument, match="--policy"):
        retention(client, [])
