"""Blobs on their way in: every way to push one, continued, cancelled, taken over, and bad ones."""

from __future__ import annotations

import hashlib
import http.client
import os
import socket
from pathlib import Path

import pytest

from tests.registry.registries import sha256
from tests.registry.server.house import Answer, House

DATA = os.urandom(3_000_000)


def blob(house: House, repository: str, digest: str) -> bytes:
    answer = house.request("GET", f"/v2/{repository}/blobs/{digest}")
    assert answer.status == 200, answer
    assert answer.headers["Docker-Content-Digest"] == digest
    assert int(answer.headers["Content-Length"]) == len(answer.body)
    return answer.body


def test_a_blob_in_one_request(house: House) -> None:
    digest = sha256(DATA)
    answer = house.request("POST", f"/v2/up/one/blobs/uploads/?digest={digest}", DATA)
    assert answer.status == 201
    assert answer.headers["Location"] == f"/v2/up/one/blobs/{digest}"
    assert blob(house, "up/one", digest) == DATA


def test_a_blob_in_two_requests(house: House) -> None:
    assert blob(house, "up/two", house.put_blob("up/two", DATA)) == DATA


def test_a_blob_as_a_stream_of_unknown_length(house: House) -> None:
    where = house.begin("up/stream")
    pieces = (DATA[n : n + 70_000] for n in range(0, len(DATA), 70_000))
    answer = house.request("PATCH", where, pieces)
    assert answer.status == 202
    assert answer.headers["Range"] == f"0-{len(DATA) - 1}"
    assert house.request("PUT", f"{where}?digest={sha256(DATA)}").status == 201
    assert blob(house, "up/stream", sha256(DATA)) == DATA


def test_a_blob_in_chunks_which_must_continue_where_it_is(house: House) -> None:
    where = house.begin("up/chunks")
    assert house.request("GET", where).headers["Range"] == "0-0"
    first, rest = DATA[:1_000_000], DATA[1_000_000:]
    assert house.request("PATCH", where, first, Content_Range="0-999999").status == 202
    for wrong in ("0-999999", "1000001-2000000", "999999-1999998", "9000000-9999999"):
        answer = house.request("PATCH", where, first, Content_Range=wrong)
        assert answer.status == 416, wrong
        assert answer.codes == ["BLOB_UPLOAD_INVALID"]
        assert answer.headers["Range"] == "0-999999"
    said = house.request("GET", where)
    assert said.status == 204
    assert said.headers["Range"] == "0-999999"
    assert said.headers["Location"] == where
    last = f"1000000-{len(DATA) - 1}"
    done = house.request("PUT", f"{where}?digest={sha256(DATA)}", rest, Content_Range=last)
    assert done.status == 201
    assert blob(house, "up/chunks", sha256(DATA)) == DATA


def test_chunks_that_lie_about_their_length(house: House) -> None:
    where = house.begin("up/lies")
    assert house.request("PATCH", where, b"abc", Content_Range="0-7").codes == ["SIZE_INVALID"]
    answer = house.request("PATCH", where, iter([b"abc"]), Content_Range="0-1")
    assert (answer.status, answer.codes) == (400, ["SIZE_INVALID"])
    answer = house.request("PATCH", where, b"abc", Content_Range="7-0")
    assert (answer.status, answer.codes) == (400, ["BLOB_UPLOAD_INVALID"])


def test_wrong_bytes_are_refused_and_gone(house: House) -> None:
    where = house.begin("up/wrong")
    wrong = sha256(b"something else")
    answer = house.request("PUT", f"{where}?digest={wrong}", b"this")
    assert answer.status == 400
    assert answer.codes == ["DIGEST_INVALID"]
    assert answer.json()["errors"][0]["detail"] == {"digest": wrong, "found": sha256(b"this")}
    assert house.request("GET", where).codes == ["BLOB_UPLOAD_UNKNOWN"]
    for digest in (wrong, sha256(b"this")):
        assert house.request("HEAD", f"/v2/up/wrong/blobs/{digest}").status == 404


@pytest.mark.parametrize("digest", ["", "?digest=", "?digest=sha256:12", "?digest=md5:" + "0" * 32])
def test_a_digest_that_is_none_leaves_the_upload_as_it_is(house: House, digest: str) -> None:
    where = house.begin("up/none")
    assert house.request("PATCH", where, b"abc").status == 202
    answer = house.request("PUT", where + digest, b"def")
    assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])
    assert house.request("PUT", f"{where}?digest={sha256(b'abc')}").status == 201


def test_other_algorithms(house: House) -> None:
    digest = f"sha512:{hashlib.sha512(DATA).hexdigest()}"
    house.put_blob("up/long", DATA, digest)
    assert blob(house, "up/long", digest) == DATA
    started = house.request("POST", "/v2/up/long/blobs/uploads/?digest-algorithm=sha512")
    assert started.status == 202
    other = f"sha512:{hashlib.sha512(b'abc').hexdigest()}"
    put = house.request("PUT", f"{started.headers['Location']}?digest={other}", b"abc")
    assert put.status == 201
    answer = house.request("POST", "/v2/up/long/blobs/uploads/?digest-algorithm=md5")
    assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])


def test_nothing_is_a_blob_too(house: House) -> None:
    assert blob(house, "up/empty", house.put_blob("up/empty", b"")) == b""
    digest = sha256(b"")
    assert house.request("PUT", f"{house.begin('up/empty2')}?digest={digest}").status == 201


def test_an_upload_is_cancelled(house: House) -> None:
    where = house.begin("up/cancelled")
    assert house.request("PATCH", where, b"abc").status == 202
    assert house.request("DELETE", where).status == 204
    for method in ("GET", "PATCH", "DELETE"):
        answer = house.request(method, where)
        assert (answer.status, answer.codes) == (404, ["BLOB_UPLOAD_UNKNOWN"])
    assert not list((house.root / "uploads").iterdir()) or where.rpartition("/")[2] not in [
        path.name for path in (house.root / "uploads").iterdir()
    ]


def test_an_upload_belongs_to_its_repository(house: House) -> None:
    where = house.begin("up/mine").replace("/up/mine/", "/up/yours/")
    assert house.request("PATCH", where, b"abc").codes == ["BLOB_UPLOAD_UNKNOWN"]


def test_a_blob_is_mounted_from_another_repository(house: House) -> None:
    digest = house.put_blob("up/source", DATA)
    before = house.blob_files()
    path = f"/v2/up/target/blobs/uploads/?mount={digest}&from="
    assert house.request("POST", path + "up/nowhere").status == 202
    assert house.request("HEAD", f"/v2/up/target/blobs/{digest}").status == 404
    answer = house.request("POST", path + "up/source")
    assert answer.status == 201
    assert answer.headers["Location"] == f"/v2/up/target/blobs/{digest}"
    assert blob(house, "up/target", digest) == DATA
    anywhere = house.request("POST", f"/v2/up/third/blobs/uploads/?mount={digest}")
    assert anywhere.status == 201
    assert house.blob_files() == before


def test_a_blob_is_stored_once(house: House) -> None:
    data = os.urandom(1000)
    house.put_blob("up/a", data)
    house.put_blob("up/b", data)
    assert house.blob_files().count(sha256(data)) == 1


def _broken_off(house: House, where: str, data: bytes) -> None:
    """Announce more than is sent, and leave."""
    with socket.create_connection(("127.0.0.1", house.port)) as sock:
        head = f"PATCH {where} HTTP/1.1\r\nHost: x\r\nContent-Length: {2 * len(data)}\r\n\r\n"
        sock.sendall(head.encode() + data)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(4096):
            continue


def test_what_a_broken_request_brought_counts(house: House) -> None:
    where = house.begin("up/broken")
    _broken_off(house, where, DATA[:1_500_000])
    answer = house.request("GET", where)
    came = int(answer.headers["Range"].partition("-")[2]) + 1
    assert came == 1_500_000
    done = house.request("PUT", f"{where}?digest={sha256(DATA)}", DATA[came:])
    assert done.status == 201


def test_a_client_that_comes_back_takes_over_from_itself(house: House) -> None:
    """Its first connection hangs half-way; on the second it asks how far it got and goes on."""
    where = house.begin("up/over")
    with socket.create_connection(("127.0.0.1", house.port), timeout=60) as sock:
        head = f"PATCH {where} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(DATA)}\r\n\r\n"
        sock.sendall(head.encode() + DATA[:1000])
        came = 0
        while came != 1000:
            field = house.request("GET", where).headers["Range"]
            came = int(field.partition("-")[2]) + (field != "0-0")
        assert house.request("PATCH", where, DATA[1000:2000]).status == 202
        sock.sendall(DATA[1000:2000])
        response = http.client.HTTPResponse(sock)
        response.begin()
        answer = Answer(response.status, response.headers, response.read())
        assert (answer.status, answer.codes) == (400, ["BLOB_UPLOAD_INVALID"])
    assert house.request("PUT", f"{where}?digest={sha256(DATA)}", DATA[2000:]).status == 201


def test_an_upload_outlives_the_server(root: Path) -> None:
    house = House(root).start()
    try:
        where = house.begin("up/long")
        assert house.request("PATCH", where, DATA[:2_000_000]).status == 202
        house.kill()
        house.start()
        assert house.request("GET", where).headers["Range"] == "0-1999999"
        done = house.request("PUT", f"{where}?digest={sha256(DATA)}", DATA[2_000_000:])
        assert done.status == 201
        assert blob(house, "up/long", sha256(DATA)) == DATA
        empty = house.begin("up/long")
        house.kill()
        house.start()
        assert house.request("PUT", f"{empty}?digest={sha256(b'')}").status == 201
    finally:
        house.close()


def test_one_server_for_one_root(root: Path) -> None:
    house = House(root).start()
    try:
        second = house.tool("serve", "--listen", "127.0.0.1:0")
        assert second.returncode == 1
        assert "is served by another process" in second.stderr
    finally:
        assert house.stop() == 0
