"""Blobs on their way out: ranges, conditions, deletion."""

from __future__ import annotations

import os

import pytest

from sampan.api.distribution import ranges
from sampan.registry.server.errors import UploadInvalid
from tests.registry.registries import sha256
from tests.registry.server.house import House

DATA = os.urandom(10_000_000)  # more than one sendfile


@pytest.fixture(scope="module")
def path(house: House) -> str:
    return f"/v2/blobs/one/blobs/{house.put_blob('blobs/one', DATA)}"


def test_head_says_all_but_the_bytes(house: House, path: str) -> None:
    answer = house.request("HEAD", path)
    assert answer.status == 200
    assert answer.body == b""
    assert answer.headers["Content-Length"] == str(len(DATA))
    assert answer.headers["Docker-Content-Digest"] == sha256(DATA)
    assert answer.headers["Accept-Ranges"] == "bytes"


def test_a_connection_serves_one_after_the_other(house: House, path: str) -> None:
    connection = house.connect()
    for method, size in (("GET", len(DATA)), ("HEAD", 0), ("GET", len(DATA)), ("GET", len(DATA))):
        connection.request(method, path)
        assert len(connection.getresponse().read()) == size
    connection.close()


@pytest.mark.parametrize(
    ("field", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=5-9", 5, 9),
        ("bytes=9999990-", 9_999_990, 9_999_999),
        ("bytes=-7", 9_999_993, 9_999_999),
        ("bytes=9999999-99999999999", 9_999_999, 9_999_999),
        ("bytes=100-9999999", 100, 9_999_999),
    ],
)
def test_a_range(house: House, path: str, field: str, first: int, last: int) -> None:
    answer = house.request("GET", path, Range=field)
    assert answer.status == 206
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{len(DATA)}"
    assert answer.body == DATA[first : last + 1]


@pytest.mark.parametrize("field", ["bytes=10000000-", "bytes=99999999999-", "bytes=-0"])
def test_a_range_behind_the_end(house: House, path: str, field: str) -> None:
    answer = house.request("GET", path, Range=field)
    assert answer.status == 416
    assert answer.headers["Content-Range"] == f"bytes */{len(DATA)}"


@pytest.mark.parametrize("field", ["bytes=1-2,4-5", "lines=1-2", "bytes=5-1", "bytes=a-b", "x"])
def test_what_is_no_range_of_ours_is_all(house: House, path: str, field: str) -> None:
    answer = house.request("GET", path, Range=field)
    assert (answer.status, len(answer.body)) == (200, len(DATA))


def test_conditions(house: House, path: str) -> None:
    tag = house.request("HEAD", path).headers["ETag"]
    assert house.request("GET", path, If_None_Match=tag).status == 304
    assert house.request("GET", path, Range="bytes=1-2", If_Range=tag).status == 206
    assert house.request("GET", path, Range="bytes=1-2", If_Range='"other"').status == 200


def test_of_what_is_not_there(house: House) -> None:
    missing = f"/v2/blobs/one/blobs/{sha256(b'missing')}"
    assert house.request("HEAD", missing).status == 404
    for method in ("GET", "DELETE"):
        answer = house.request(method, missing)
        assert (answer.status, answer.codes) == (404, ["BLOB_UNKNOWN"])
    answer = house.request("GET", "/v2/blobs/one/blobs/sha256:beef")
    assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])


def test_one_repository_does_not_see_another_s(house: House, path: str) -> None:
    answer = house.request("GET", path.replace("/blobs/one/", "/blobs/two/"))
    assert (answer.status, answer.codes) == (404, ["BLOB_UNKNOWN"])


def test_deleted_from_one_repository_and_pushed_again(house: House) -> None:
    data = os.urandom(100)
    digest = house.put_blob("blobs/here", data)
    house.put_blob("blobs/there", data)
    here, there = (f"/v2/blobs/{name}/blobs/{digest}" for name in ("here", "there"))
    assert house.request("DELETE", here).status == 202
    assert house.request("GET", here).status == 404
    assert house.request("GET", there).body == data
    house.put_blob("blobs/here", data)
    assert house.request("GET", here).body == data


def test_a_blob_in_use_is_not_deleted(house: House) -> None:
    digest = house.push("blobs/used", "1", b"layer")
    answer = house.request("DELETE", f"/v2/blobs/used/blobs/{sha256(b'layer')}")
    assert (answer.status, answer.codes) == (405, ["UNSUPPORTED"])
    assert answer.json()["errors"][0]["detail"] == {"manifests": [digest]}
    assert house.request("DELETE", f"/v2/blobs/used/manifests/{digest}").status == 202
    assert house.request("DELETE", f"/v2/blobs/used/blobs/{sha256(b'layer')}").status == 202


def test_the_field_of_a_chunk() -> None:
    assert ranges.chunk(None) is None
    assert ranges.chunk("0-0") == (0, 1)
    assert ranges.chunk("bytes 5-9/10") == (5, 5)
    for wrong in ("", "5", "9-5", "-5", "5-", "a-b", "0-1-2"):
        with pytest.raises(UploadInvalid):
            ranges.chunk(wrong)


def test_a_range_of_nothing() -> None:
    assert ranges.wanted("bytes=0-", 0) == (0, 0)
    assert ranges.wanted("bytes=-5", 0) == (0, 0)
