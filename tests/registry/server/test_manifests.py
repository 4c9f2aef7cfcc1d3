"""Manifests, tags, lists and referrers."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

import pytest

from tests.registry.registries import sha256
from tests.registry.server.house import House


@pytest.fixture(scope="module")
def house(anywhere: House) -> House:
    return anywhere


MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
EMPTY = "application/vnd.oci.empty.v1+json"


def index(*children: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(children), **more}


def descriptor(house: House, repository: str, reference: str) -> dict[str, Any]:
    answer = house.request("HEAD", f"/v2/{repository}/manifests/{reference}")
    assert answer.status == 200
    return {
        "mediaType": answer.headers["Content-Type"],
        "digest": answer.headers["Docker-Content-Digest"],
        "size": int(answer.headers["Content-Length"]),
    }


def test_a_manifest_by_tag_and_by_digest_as_it_was_put(house: House) -> None:
    data = json.dumps(house.image("m/one", b"layer"), indent=3).encode()
    answer = house.put_manifest("m/one", "v1", data)
    assert answer.status == 201
    assert answer.headers["Docker-Content-Digest"] == sha256(data)
    assert answer.headers["Location"] == f"/v2/m/one/manifests/{sha256(data)}"
    for reference in ("v1", sha256(data), sha256(data).replace(":", "%3A")):
        got = house.request("GET", f"/v2/m/one/manifests/{reference}", Accept="text/plain")
        assert (got.status, got.body) == (200, data)
        assert got.headers["Content-Type"] == MANIFEST
        head = house.request("HEAD", f"/v2/m/one/manifests/{reference}")
        assert (head.status, head.body) == (200, b"")
        assert head.headers["Content-Length"] == str(len(data))
    tag = got.headers["ETag"]
    assert house.request("GET", "/v2/m/one/manifests/v1", If_None_Match=tag).status == 304


def test_a_tag_moves_and_what_it_left_stays(house: House) -> None:
    first, second = house.push("m/moves", "v", b"1"), house.push("m/moves", "v", b"2")
    assert descriptor(house, "m/moves", "v")["digest"] == second
    assert house.request("GET", f"/v2/m/moves/manifests/{first}").status == 200


def test_by_digest_with_tags_and_by_sha512(house: House) -> None:
    data = json.dumps(house.image("m/digest", b"layer")).encode()
    answer = house.put_manifest("m/digest", f"{sha256(data)}?tag=a&tag=b", data)
    assert answer.status == 201
    assert answer.headers["OCI-Tag"] == "a, b"
    assert house.request("GET", "/v2/m/digest/tags/list").json()["tags"] == ["a", "b"]
    long = f"sha512:{hashlib.sha512(data).hexdigest()}"
    assert house.put_manifest("m/digest", long, data).status == 201
    assert house.request("GET", f"/v2/m/digest/manifests/{long}").body == data
    wrong = house.put_manifest("m/digest", sha256(b"other"), data)
    assert (wrong.status, wrong.codes) == (400, ["DIGEST_INVALID"])


def test_docker_s_own_types_and_an_index_of_an_index(house: House) -> None:
    image = house.image("m/docker", b"layer") | {"mediaType": DOCKER}
    assert house.put_manifest("m/docker", "image", image).status == 201
    child = descriptor(house, "m/docker", "image")
    many = index(child, {**child, "platform": {"os": "linux", "architecture": "arm64"}})
    assert house.put_manifest("m/docker", "list", many | {"mediaType": LIST}).status == 201
    above = index(descriptor(house, "m/docker", "list"))
    assert house.put_manifest("m/docker", "above", above).status == 201


def test_what_a_manifest_names_must_be_there(house: House) -> None:
    whole = house.image("m/names", b"layer")
    missing = {"mediaType": "x/y", "digest": sha256(b"missing"), "size": 7}
    for wrong in (whole | {"layers": [missing]}, whole | {"config": missing}):
        answer = house.put_manifest("m/names", "v", wrong)
        assert (answer.status, answer.codes) == (404, ["MANIFEST_BLOB_UNKNOWN"])
        assert answer.json()["errors"][0]["detail"] == {"blobs": [missing["digest"]]}
    answer = house.put_manifest("m/names", "v", index(missing))
    assert answer.json()["errors"][0]["detail"] == {"manifests": [missing["digest"]]}
    elsewhere = house.put_manifest("m/elsewhere", "v", whole)
    assert elsewhere.codes == ["MANIFEST_BLOB_UNKNOWN"]
    longer = {**whole["layers"][0], "size": 99}
    answer = house.put_manifest("m/names", "v", whole | {"layers": [longer]})
    assert (answer.status, answer.codes) == (400, ["MANIFEST_INVALID"])
    assert house.request("GET", "/v2/m/names/manifests/v").status == 404


def test_foreign_layers_need_not_be_there(house: House) -> None:
    image = house.image("m/foreign", b"layer")
    kinds = (
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", ["https://example.com/a"]),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar", None),
    )
    for kind, urls in kinds:
        layer = {"mediaType": kind, "digest": sha256(kind.encode()), "size": 5, "urls": urls}
        answer = house.put_manifest("m/foreign", "v", image | {"layers": [layer]})
        assert answer.status == 201, answer


def test_an_artifact_and_bytes_of_any_type(house: House) -> None:
    empty = house.described("m/artifact", b"{}", EMPTY)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": "application/x-song",
        "config": empty,
        "layers": [house.described("m/artifact", b"la la", "audio/x-la")],
    }
    assert house.put_manifest("m/artifact", "song", manifest).status == 201
    answer = house.put_manifest("m/artifact", "bytes", b"\x00\xff", "application/x-bytes")
    assert answer.status == 201
    got = house.request("GET", "/v2/m/artifact/manifests/bytes")
    assert (got.body, got.headers["Content-Type"]) == (b"\x00\xff", "application/x-bytes")


def test_blobs_of_an_unknown_type_are_kept_with_it(house: House) -> None:
    layer = house.described("m/other", b"kept", "x/y")
    value = {"mediaType": "application/x-own+json", "layers": [layer]}
    assert house.put_manifest("m/other", "v", value).status == 201
    assert house.request("DELETE", f"/v2/m/other/blobs/{layer['digest']}").status == 405


@pytest.mark.parametrize(
    ("media_type", "data"),
    [
        (MANIFEST, b""),
        (MANIFEST, b"{"),
        (MANIFEST, b"[]"),
        (MANIFEST, b"\xff\xfe"),
        (MANIFEST, b'{"schemaVersion":2}'),
        (MANIFEST, b'{"schemaVersion":1,"config":{},"layers":[]}'),
        (INDEX, b'{"schemaVersion":2,"manifests":[{"digest":"nope","mediaType":"x","size":1}]}'),
        (INDEX, b'{"schemaVersion":2,"manifests":[],"layers":[]}'),
        (INDEX, b'{"schemaVersion":2,"mediaType":"x/y","manifests":[]}'),
        (INDEX, b'{"schemaVersion":2,"manifests":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        (INDEX, b'{"schemaVersion":2,"manifests":[],"x":' + b"[" * 99_999 + b"]" * 99_999 + b"}"),
    ],
)
def test_a_manifest_that_is_none(house: House, media_type: str, data: bytes) -> None:
    answer = house.put_manifest("m/bad", "v", data, media_type)
    assert (answer.status, answer.codes) == (400, ["MANIFEST_INVALID"])


def test_a_manifest_and_index_in_one_is_refused(house: House) -> None:
    both = house.image("m/both", b"layer") | {"manifests": []}
    assert house.put_manifest("m/both", "v", both).codes == ["MANIFEST_INVALID"]


def test_a_manifest_too_large(house: House) -> None:
    data = b" " * ((4 << 20) + 1)
    answer = house.put_manifest("m/large", "v", data, MANIFEST)
    assert (answer.status, answer.codes) == (413, ["MANIFEST_INVALID"])


def test_schema_1_is_refused_by_name(house: House) -> None:
    kind = "application/vnd.docker.distribution.manifest.v1+prettyjws"
    answer = house.put_manifest("m/old", "v", b'{"schemaVersion":1}', kind)
    assert (answer.status, answer.codes) == (405, ["UNSUPPORTED"])


@pytest.mark.parametrize("tag", [".hidden", "-x", "a" * 129, "a%20b", "%C3%A4"])
def test_a_tag_that_is_none(house: House, tag: str) -> None:
    image = house.image("m/tag", b"layer")
    assert house.put_manifest("m/tag", tag, image).codes == ["MANIFEST_INVALID"]
    assert house.request("GET", f"/v2/m/tag/manifests/{tag}").codes == ["MANIFEST_UNKNOWN"]


# -- deletion ------------------------------------------------------------------------------------


def test_a_tag_is_deleted_and_its_manifest_stays(house: House) -> None:
    digest = house.push("m/untag", "v", b"layer")
    assert house.request("DELETE", "/v2/m/untag/manifests/v").status == 202
    assert house.request("GET", "/v2/m/untag/manifests/v").codes == ["MANIFEST_UNKNOWN"]
    assert house.request("GET", f"/v2/m/untag/manifests/{digest}").status == 200
    assert house.request("GET", "/v2/m/untag/tags/list").json()["tags"] == []
    assert house.request("DELETE", "/v2/m/untag/manifests/v").status == 404


def test_a_manifest_is_deleted_with_its_tags_and_pushed_again(house: House) -> None:
    digest = house.push("m/delete", "a", b"layer")
    assert house.push("m/delete", "b", b"layer") == digest
    path = f"/v2/m/delete/manifests/{digest}"
    assert house.request("DELETE", path).status == 202
    assert house.request("GET", path).codes == ["MANIFEST_UNKNOWN"]
    assert house.request("GET", "/v2/m/delete/tags/list").json()["tags"] == []
    assert house.request("DELETE", path).status == 404
    assert house.push("m/delete", "a", b"layer") == digest
    assert house.request("GET", path).status == 200


def test_a_manifest_of_an_index_goes_after_it(house: House) -> None:
    child = house.push("m/tree", "child", b"layer")
    done = house.put_manifest("m/tree", "top", index(descriptor(house, "m/tree", "child")))
    top = done.headers["Docker-Content-Digest"]
    answer = house.request("DELETE", f"/v2/m/tree/manifests/{child}")
    assert (answer.status, answer.codes) == (405, ["UNSUPPORTED"])
    assert answer.json()["errors"][0]["detail"] == {"manifests": [top]}
    assert house.request("DELETE", f"/v2/m/tree/manifests/{top}").status == 202
    assert house.request("DELETE", f"/v2/m/tree/manifests/{child}").status == 202


# -- lists ---------------------------------------------------------------------------------------


def pages(house: House, path: str, key: str) -> list[list[str]]:
    """Every page, by its Link."""
    found = []
    while path:
        answer = house.request("GET", path)
        assert answer.status == 200
        found.append(answer.json()[key])
        link = answer.headers["Link"]
        assert link is None or link.endswith('>; rel="next"')
        path = link.partition(">")[0][1:] if link else ""
    return found


def test_tags_in_order_and_in_pages(house: House) -> None:
    wanted = ["1", "10", "2", "A", "a", "B", "c_1", "C_2"]
    manifest = house.image("m/tags", b"layer")
    for tag in reversed(wanted):
        assert house.put_manifest("m/tags", tag, manifest).status == 201
    assert pages(house, "/v2/m/tags/tags/list", "tags") == [wanted]
    assert pages(house, "/v2/m/tags/tags/list?n=3", "tags") == [
        wanted[:3],
        wanted[3:6],
        wanted[6:],
    ]
    assert pages(house, "/v2/m/tags/tags/list?n=8", "tags") == [wanted]
    assert pages(house, "/v2/m/tags/tags/list?last=A", "tags") == [wanted[4:]]
    assert pages(house, "/v2/m/tags/tags/list?last=b&n=0", "tags") == [[]]
    answer = house.request("GET", "/v2/m/tags/tags/list?n=x")
    assert (answer.status, answer.codes) == (400, ["PAGINATION_NUMBER_INVALID"])
    answer = house.request("GET", "/v2/m/nowhere/tags/list")
    assert (answer.status, answer.codes) == (404, ["NAME_UNKNOWN"])


def test_the_catalog_in_pages(house: House) -> None:
    names = [f"zzz/{n}" for n in range(5)]
    for name in names:
        house.push(name, "v", b"layer")
    found = pages(house, "/v2/_catalog?n=2&last=zzy", "repositories")
    assert found == [names[:2], names[2:4], names[4:]]


# -- referrers -----------------------------------------------------------------------------------


def refer(house: House, repository: str, subject: Any, kind: str, text: str) -> dict[str, Any]:
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": kind,
        "config": house.described(repository, b"{}", EMPTY),
        "layers": [],
        "subject": subject,
        "annotations": {"text": text},
    }
    data = json.dumps(manifest).encode()
    answer = house.put_manifest(repository, sha256(data), data)
    assert answer.status == 201
    assert answer.headers["OCI-Subject"] == subject["digest"]
    return {
        "mediaType": MANIFEST,
        "digest": sha256(data),
        "size": len(data),
        "artifactType": kind,
        "annotations": {"text": text},
    }


def test_referrers_and_their_filter(house: House) -> None:
    house.push("m/refer", "v", b"layer")
    subject = descriptor(house, "m/refer", "v")
    path = f"/v2/m/refer/referrers/{subject['digest']}"
    assert house.request("GET", path).json()["manifests"] == []
    signature = refer(house, "m/refer", subject, "x/signature", "signed")
    bill = refer(house, "m/refer", subject, "x/sbom", "listed")
    answer = house.request("GET", path)
    assert answer.headers["Content-Type"] == INDEX
    assert answer.headers["OCI-Filters-Applied"] is None
    assert answer.json() == {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [signature, bill],
    }
    only = house.request("GET", f"{path}?artifactType=x/sbom")
    assert only.headers["OCI-Filters-Applied"] == "artifactType"
    assert only.json()["manifests"] == [bill]
    assert house.request("GET", f"{path}?artifactType=x/none").json()["manifests"] == []
    assert house.request("DELETE", f"/v2/m/refer/manifests/{bill['digest']}").status == 202
    assert house.request("GET", path).json()["manifests"] == [signature]
    wrong = house.request("GET", "/v2/m/refer/referrers/v")
    assert (wrong.status, wrong.codes) == (400, ["DIGEST_INVALID"])


def test_a_subject_may_come_later_or_never_and_may_go(house: House) -> None:
    image = json.dumps(house.image("m/later", b"layer")).encode()
    subject = {"mediaType": MANIFEST, "digest": sha256(image), "size": len(image)}
    found = refer(house, "m/later", subject, "x/note", "early")
    path = f"/v2/m/later/referrers/{subject['digest']}"
    assert house.request("GET", path).json()["manifests"] == [found]
    assert house.put_manifest("m/later", "v", image).status == 201
    assert house.request("DELETE", f"/v2/m/later/manifests/{subject['digest']}").status == 202
    assert house.request("GET", path).json()["manifests"] == [found]


def test_what_the_fallback_s_tag_lists_is_listed(house: House) -> None:
    subject = house.push("m/fallback", "v", b"layer")
    note = house.image("m/fallback", os.urandom(10), artifactType="x/note")
    assert house.put_manifest("m/fallback", "note", note).status == 201
    listed = {**descriptor(house, "m/fallback", "note"), "artifactType": "x/note"}
    tag = subject.replace(":", "-")
    assert house.put_manifest("m/fallback", tag, index(listed)).status == 201
    path = f"/v2/m/fallback/referrers/{subject}"
    assert house.request("GET", path).json()["manifests"] == [listed]
    assert house.request("GET", f"{path}?artifactType=x/sbom").json()["manifests"] == []


# -- what is none of these -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "UPPER",
        "a//b",
        "..",
        "a/../b",
        "%2e%2e",
        "a/%2E%2E/b",
        "a%2f..%2fb",
        "%252e%252e",
        "-a",
        "a_",
        "a..b",
        "%00",
        "%C3%A4",
        "a" * 256,
    ],
)
def test_a_repository_s_name_that_is_none(house: House, name: str) -> None:
    for path in ("manifests/v", f"blobs/{sha256(b'')}", "tags/list", f"referrers/{sha256(b'')}"):
        answer = house.request("GET", f"/v2/{name}/{path}")
        assert (answer.status, answer.codes) == (400, ["NAME_INVALID"])
    answer = house.request("POST", f"/v2/{name}/blobs/uploads/")
    assert (answer.status, answer.codes) == (400, ["NAME_INVALID"])


def test_methods_and_paths_that_are_none(house: House) -> None:
    assert house.request("GET", "/v2/").status == 200
    answer = house.request("POST", "/v2/m/one/tags/list")
    assert (answer.status, answer.codes) == (405, ["UNSUPPORTED"])
    answer = house.request("GET", "/v3/")
    assert (answer.status, answer.codes) == (404, ["NOT_FOUND"])
    for path in ("/x", "/v2/x", "/v2/x/tags", "/v2/x/blobs/", "/v2//"):
        assert house.request("GET", path).status == 404
