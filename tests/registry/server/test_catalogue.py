"""``/api/v1`` and the commands that show it: repositories, tags, and all that is known of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.registry.registries import sha256
from tests.registry.server.accounts import basic, htpasswd
from tests.registry.server.house import Answer, House

API = "/api/v1/repositories"
INDEX = "application/vnd.oci.image.index.v1+json"
ARM = {"os": "linux", "architecture": "arm64", "variant": "v8"}


def pages(house: House, path: str, key: str) -> list[list[Any]]:
    """Every page's entries, by ``next``."""
    found = []
    while path:
        answer = house.request("GET", path)
        assert answer.status == 200, answer
        said = answer.json()
        found.append(said[key])
        if said["next"]:
            assert answer.headers["Link"] == f'<{said["next"]}>; rel="next"'
        path = said["next"]
    return found


def names(found: list[list[Any]]) -> list[str]:
    return [one["name"] for page in found for one in page]


@pytest.fixture(scope="module")
def stocked(house: House) -> House:
    for number, tag in enumerate(("1.9", "1.10", "latest", "1.10-rc1", "edge", "2.0")):
        house.push("shelf/app", tag, b"layer %d" % number, config=ARM)
    house.push("shelf/other", "v", b"other", annotations={"description": "of jam"})
    return house


def push_index(house: House, name: str, tag: str) -> dict[str, Any]:
    """Two platforms and BuildKit's attestation of one."""
    entries = []
    for platform in ({"os": "linux", "architecture": "amd64"}, ARM):
        image = house.image(name, b"shared", platform["architecture"].encode(), config=platform)
        data = json.dumps(image).encode()
        house.put_manifest(name, sha256(data), data)
        entries.append(
            {
                "mediaType": image["mediaType"],
                "digest": sha256(data),
                "size": len(data),
                "platform": platform,
            }
        )
    data = json.dumps(house.image(name, b"attests")).encode()
    house.put_manifest(name, sha256(data), data)
    attested = {
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": entries[0]["digest"],
    }
    entries.append(
        {
            **entries[0],
            "digest": sha256(data),
            "size": len(data),
            "platform": {"os": "unknown", "architecture": "unknown"},
            "annotations": attested,
        }
    )
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
    assert house.put_manifest(name, tag, index).status == 201
    return index


def test_tags_come_in_pages_in_the_order_of_versions_of_names_and_of_time(stocked: House) -> None:
    by_version = ["latest", "2.0", "1.10", "1.10-rc1", "1.9", "edge"]
    for order, expected in {
        "version": by_version,
        "name": sorted(by_version),
        "pushed": ["2.0", "edge", "1.10-rc1", "latest", "1.10", "1.9"],
    }.items():
        found = pages(stocked, f"{API}/shelf/app/tags?n=2&order={order}", "tags")
        assert names(found) == expected
        assert [len(page) for page in found] == [2, 2, 2]
    assert names(pages(stocked, f"{API}/shelf/app/tags?q=1.10&n=1", "tags")) == ["1.10", "1.10-rc1"]
    assert names(pages(stocked, f"{API}/shelf/app/tags?q=%25", "tags")) == []


def test_a_tag_is_told_with_what_is_known_of_it(stocked: House) -> None:
    answer = stocked.request("GET", f"{API}/shelf/app/tags?q=2.0")
    (tag,) = answer.json()["tags"]
    head = stocked.request("HEAD", "/v2/shelf/app/manifests/2.0")
    assert tag["digest"] == head.headers["Docker-Content-Digest"]
    assert tag["size"] == len(json.dumps(ARM)) + len(b"layer 5")
    assert tag["platforms"] == ["linux/arm64/v8"]
    assert (tag["pulls"], tag["pulled"], tag["referrers"]) == (0, None, 0)
    assert tag["pushed"].endswith("Z")
    assert answer.json()["repository"]["tags"] == 6


def test_repositories_come_in_pages_and_by_words(stocked: House) -> None:
    found = pages(stocked, f"{API}?n=1", "repositories")
    shelf = [name for name in names(found) if name.startswith("shelf/")]
    assert shelf == ["shelf/app", "shelf/other"]
    assert names(pages(stocked, f"{API}?q=jam", "repositories")) == ["shelf/other"]
    assert names(pages(stocked, f"{API}?q=shelf&n=1", "repositories")) == shelf
    (other,) = pages(stocked, f"{API}?q=jam", "repositories")[0]
    assert (other["description"], other["tags"]) == ("of jam", 1)
    assert other["platforms"] == ["linux/amd64"]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/nothing/here/tags", 404, "NAME_UNKNOWN"),
        ("/shelf/app/manifests/none", 404, "MANIFEST_UNKNOWN"),
        ("/shelf/app/tags?n=x", 400, "PAGINATION_NUMBER_INVALID"),
        ("/shelf/app/tags?order=size", 400, "PAGINATION_NUMBER_INVALID"),
        ("/shelf/app/tags?order=pushed&last=1.9&at=nan", 400, "PAGINATION_NUMBER_INVALID"),
        ("/shelf/../app/tags", 400, "NAME_INVALID"),
    ],
)
def test_what_cannot_be_answered_is_said_in_the_specifications_form(
    stocked: House, path: str, status: int, code: str
) -> None:
    answer = stocked.request("GET", API + path)
    assert (answer.status, answer.codes) == (status, [code])


def test_an_images_configuration_layers_and_history(house: House) -> None:
    config = {
        **ARM,
        "created": "2026-01-02T03:04:05Z",
        "config": {"Env": ["A=b", 7], "Cmd": ["run"], "Labels": {"k": "v"}, "User": ["no", "text"]},
        "history": [
            {"created_by": "ADD base"},
            {"created_by": "ENV A=b", "empty_layer": True},
            {"created_by": "RUN thing", "comment": 3},
            "not an object",
        ],
    }
    digest = house.push("told/app", "v1", b"one", b"two", config=config)
    house.put_manifest("told/app", "v2", house.image("told/app", b"one", b"two", config=config))
    said = house.request("GET", f"{API}/told/app/manifests/v1").json()
    assert (said["digest"], said["tags"], said["isIndex"]) == (digest, ["v2", "v1"], False)
    told = said["configuration"]
    assert (told["platform"], told["env"], told["cmd"]) == ("linux/arm64/v8", ["A=b"], ["run"])
    assert (told["labels"], told["user"]) == ({"k": "v"}, "")
    assert [layer["size"] for layer in said["layers"]] == [3, 3]
    steps = [(step["createdBy"], step["layer"]) for step in said["history"]]
    assert steps == [("ADD base", 0), ("ENV A=b", None), ("RUN thing", 1), ("", 2)]


def test_an_indexs_platforms_and_what_refers_to_it(house: House) -> None:
    index = push_index(house, "told/many", "v1")
    digest = house.request("HEAD", "/v2/told/many/manifests/v1").headers["Docker-Content-Digest"]
    subject = {"mediaType": INDEX, "digest": digest, "size": len(json.dumps(index))}
    house.push("told/many", "list", b"{}", artifactType="application/spdx+json", subject=subject)
    house.push("told/many", f"{digest.replace(':', '-')}.sig", b"signs")
    said = house.request("GET", f"{API}/told/many/manifests/v1").json()
    assert said["isIndex"] is True
    sizes = {one["platform"]: one["size"] for one in said["platforms"]}
    amd, arm = (
        len(b"shared" + name) + len(json.dumps(platform))
        for name, platform in (
            (b"amd64", {"os": "linux", "architecture": "amd64"}),
            (b"arm64", ARM),
        )
    )
    assert sizes == {"linux/amd64": amd, "linux/arm64/v8": arm}
    kinds = [one["kind"] or one["artifactType"] for one in said["referrers"]]
    assert kinds == ["application/spdx+json", "signature", "attestation"]
    tags = house.request("GET", f"{API}/told/many/tags").json()["tags"]
    (tag,) = [one for one in tags if one["name"] == "v1"]
    assert tag["platforms"] == ["linux/amd64", "linux/arm64/v8"]
    # Each blob once: "shared" is in both images, one configuration in an image and its attestation.
    assert tag["size"] == amd + arm - len(b"shared") + len(b"attests")
    assert tag["referrers"] == 1


def test_pulls_are_counted_by_what_was_pulled_and_an_index_once(root: Path) -> None:
    one = House(root).start()
    try:
        index = push_index(one, "many", "v1")
        one.push("many", "other", b"other")
        for reference in ("v1", index["manifests"][0]["digest"], "v1"):
            assert one.request("GET", f"/v2/many/manifests/{reference}").status == 200
        assert one.request("GET", f"{API}/many/manifests/other").status == 200
        assert one.stop() == 0
        one.start()
        said = one.request("GET", f"{API}/many/tags").json()
        assert {tag["name"]: tag["pulls"] for tag in said["tags"]} == {"v1": 2, "other": 0}
        assert {tag["name"]: tag["pulled"] is None for tag in said["tags"]}["v1"] is False
        assert said["repository"]["pulls"] == 2
    finally:
        one.close()


# -- who may ---------------------------------------------------------------------------------------

RULES = """
[[rule]]
users = ["anna"]
repositories = ["*"]
actions = ["*"]
[[rule]]
users = ["ben"]
repositories = ["team/*"]
actions = ["pull"]
"""
ANNA, BEN = basic("anna", "secret"), basic("ben", "another")


@pytest.fixture(scope="module")
def guarded(quick: Path) -> Iterator[House]:
    import shutil
    import tempfile

    place = Path(tempfile.mkdtemp(prefix="registry-", dir=quick))
    htpasswd(place / "accounts", anna="secret", ben="another")
    (place / "rules").write_text(RULES)
    options = ("--htpasswd", f"{place}/accounts", "--access", f"{place}/rules")
    one = House(place / "root", *options).start()
    one.authorization = ANNA
    for name in ("team/one", "secret/box", "team/two"):
        one.push(name, "v", b"layer")
    one.authorization = ""
    yield one
    one.close()
    shutil.rmtree(place)


def test_one_is_told_of_what_one_may_pull(guarded: House) -> None:
    def listed(**fields: str) -> Answer:
        return guarded.request("GET", f"{API}?n=1", **fields)

    assert listed().headers["WWW-Authenticate"].endswith(',scope="registry:catalog:list"')
    assert listed().status == 401
    for user, expected in (
        (ANNA, ["secret/box", "team/one", "team/two"]),
        (BEN, ["team/one", "team/two"]),
    ):
        guarded.authorization = user
        assert names(pages(guarded, f"{API}?n=1", "repositories")) == expected
        assert names(pages(guarded, f"{API}?q=v2+OR", "repositories")) == []
        found = names(pages(guarded, f"{API}?q=box", "repositories"))
        assert found == [name for name in expected if "box" in name]
        guarded.authorization = ""
    box = f"{API}/secret/box/tags"
    assert guarded.request("GET", box).status == 401
    assert guarded.request("GET", box, Authorization=BEN).status == 403


def test_a_token_lists_only_if_it_was_given_for_that(guarded: House) -> None:
    def token(scope: str) -> str:
        answer = guarded.request("GET", f"/token?scope={scope}", Authorization=BEN)
        return f"Bearer {answer.json()['token']}"

    pull = token("repository:team/one:pull")
    assert guarded.request("GET", API, Authorization=pull).status == 401
    assert guarded.request("GET", f"{API}/team/one/tags", Authorization=pull).status == 200
    both = token("registry:catalog:list")
    assert names([guarded.request("GET", API, Authorization=both).json()["repositories"]]) == [
        "team/one",
        "team/two",
    ]
    assert guarded.request("GET", "/v2/_catalog", Authorization=both).status == 401


# -- commands --------------------------------------------------------------------------------------


def command(house: House, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sampan.cli", "--config", str(home), "registry", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
    )


def test_the_commands_show_repositories_and_tags(stocked: House, tmp_path: Path) -> None:
    done = command(stocked, tmp_path, "ls", stocked.address, "shelf")
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        ["NAME", "TAGS"],
        ["shelf/app", "6"],
        ["shelf/other", "1"],
    ]
    done = command(stocked, tmp_path, "tags", "-q", "--limit", "4", f"{stocked.address}/shelf/app")
    assert done.stdout.split() == ["latest", "2.0", "1.10", "1.10-rc1"], done.stderr
    layout = "{{.Tag}} {{.Size}} {{.Platforms}} {{.Pulls}}"
    where = f"{stocked.address}/shelf/app"
    done = command(stocked, tmp_path, "tags", "--format", layout, where, "edge")
    assert done.stdout == "edge 64B linux/arm64/v8 0\n"
    done = command(stocked, tmp_path, "tags", f"{stocked.address}/no/such")
    assert (done.returncode, done.stdout) == (1, "")
    assert "there is no repository no/such" in done.stderr


def test_the_commands_log_in_as_the_user_has(guarded: House, tmp_path: Path) -> None:
    done = command(guarded, tmp_path, "ls", guarded.address)
    assert done.returncode == 1
    assert "log in with 'sampan login" in done.stderr
    auth = {"auths": {guarded.address: {"auth": BEN.removeprefix("Basic ")}}}
    (tmp_path / "config.json").write_text(json.dumps(auth))
    done = command(guarded, tmp_path, "ls", "-q", guarded.address)
    assert done.stdout.split() == ["team/one", "team/two"], done.stderr
    done = command(guarded, tmp_path, "tags", "-q", f"{guarded.address}/team/one")
    assert done.stdout.split() == ["v"], done.stderr
