"""What clients and clocks do wrong, that no other file of tests has: pushes at once, slowness,
depth, ``..`` however it is written, and time that jumps.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sampan.api.distribution import context
from sampan.api.http.messages import HttpError, Request, Response
from sampan.api.http.server import Server
from sampan.api.http.stream import Answer as HttpAnswer
from sampan.registry.server.clock import Clock
from tests.registry.registries import OCI_INDEX, OCI_MANIFEST, sha256
from tests.registry.server.house import House

PATIENCE = 60.0


def at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    """The same by so many clients, who begin together."""
    gate, found = threading.Barrier(count), [None] * count

    def one(number: int) -> None:
        gate.wait(PATIENCE)
        found[number] = work(number)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    return found


def test_pushes_of_one_tag_at_once_leave_one_of_them(house: House) -> None:
    manifest = house.image("bad/race", b"layer")
    documents = [
        json.dumps(manifest | {"annotations": {"by": str(number)}}).encode() for number in range(8)
    ]
    answers = at_once(8, lambda one: house.put_manifest("bad/race", "tag", documents[one]))
    assert [answer.status for answer in answers] == [201] * 8
    assert house.request("GET", "/v2/bad/race/manifests/tag").body in documents
    for data in documents:  # what was acknowledged is there, tagged or not
        assert house.request("GET", f"/v2/bad/race/manifests/{sha256(data)}").body == data


def test_one_blob_uploaded_by_many_at_once_is_stored_once(house: House) -> None:
    data = os.urandom(500_000)
    places = [house.begin("bad/same") for _ in range(6)]
    target = f"?digest={sha256(data)}"
    answers = at_once(6, lambda one: house.request("PUT", places[one] + target, data))
    assert [answer.status for answer in answers] == [201] * 6
    assert house.tool("gc").returncode == 0
    assert house.blob_files().count(sha256(data)) == 1
    assert house.request("GET", f"/v2/bad/same/blobs/{sha256(data)}").body == data


def test_deleting_and_pushing_a_tag_at_once_leaves_it_whole_or_gone(house: House) -> None:
    digest = house.push("bad/both", "tag", b"layer")
    data = house.request("GET", f"/v2/bad/both/manifests/{digest}").body

    def work(number: int) -> int:
        if number % 2:
            return house.put_manifest("bad/both", "tag", data).status
        return house.request("DELETE", f"/v2/bad/both/manifests/{digest}").status

    assert set(at_once(8, work)) <= {201, 202, 404}
    left = house.request("GET", "/v2/bad/both/manifests/tag")
    assert left.status == 404 or left.body == data
    assert house.put_manifest("bad/both", "tag", data).status == 201
    for one in (*json.loads(data)["layers"], json.loads(data)["config"]):
        assert house.request("HEAD", f"/v2/bad/both/blobs/{one['digest']}").status == 200


def test_an_index_of_an_index_of_an_index(house: House) -> None:
    """A hundred deep: nothing of ours follows it down."""
    data = json.dumps(house.image("bad/deep", b"layer")).encode()
    kind = OCI_MANIFEST
    digests = []
    for _ in range(100):
        answer = house.put_manifest("bad/deep", sha256(data), data, kind)
        assert answer.status == 201, answer
        digests.append(sha256(data))
        listed = [{"mediaType": kind, "digest": sha256(data), "size": len(data)}]
        kind = OCI_INDEX
        index = {"schemaVersion": 2, "mediaType": kind, "manifests": listed}
        data = json.dumps(index).encode()
    assert house.put_manifest("bad/deep", "top", data).status == 201
    for path in ("/v2/bad/deep/manifests/top", "/v2/bad/deep/tags/list", "/v1/search?q=deep"):
        assert house.request("GET", path).status == 200
    for path in ("tags", "manifests/top"):
        assert house.request("GET", f"/api/v1/repositories/bad/deep/{path}").status == 200
    refused = house.request("DELETE", f"/v2/bad/deep/manifests/{digests[0]}")
    assert (refused.status, refused.codes) == (405, ["UNSUPPORTED"])
    for digest in (sha256(data), *reversed(digests)):
        assert house.request("DELETE", f"/v2/bad/deep/manifests/{digest}").status == 202


def test_a_manifest_cannot_list_itself(house: House) -> None:
    """Nor what lists it: its digest would have to be known before its bytes."""
    entry = {"mediaType": OCI_INDEX, "digest": sha256(b"a guess"), "size": 7}
    value = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
    data = json.dumps(value).encode()
    answer = house.put_manifest("bad/cycle", sha256(b"a guess"), data)
    assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])
    answer = house.put_manifest("bad/cycle", "tag", data)
    assert (answer.status, answer.codes) in (
        (400, ["MANIFEST_BLOB_UNKNOWN"]),
        (404, ["MANIFEST_BLOB_UNKNOWN"]),
        (404, ["MANIFEST_UNKNOWN"]),
    )


@pytest.mark.parametrize(
    "out",
    ["..", "%2e%2e", "%2E.", "..%2f..", "%252e%252e", "%c0%ae%c0%ae", "..%5c..", ".%00.", "%ff"],
)
def test_dots_lead_nowhere(house: House, out: str) -> None:
    house.push("bad/dots", "1", b"layer")
    (house.root.parent / "beside").write_text("beside the root")
    before = sorted(os.listdir(house.root.parent))
    for path in (
        f"/v2/{out}/manifests/beside",
        f"/v2/bad/{out}/dots/blobs/{sha256(b'layer')}",
        f"/v2/bad/dots/blobs/{out}/{out}/beside",
        f"/v2/bad/dots/blobs/sha256:{out}%2fbeside",
        f"/v2/bad/dots/blobs/uploads/{out}%2f{out}%2fbeside",
        f"/{out}/beside",
    ):
        for method in ("GET", "PUT", "DELETE"):
            answer = house.request(method, path, b"x" if method == "PUT" else b"")
            assert 400 <= answer.status < 500, (method, path, answer)
            assert b"beside the root" not in answer.body
    assert sorted(os.listdir(house.root.parent)) == before
    assert (house.root.parent / "beside").read_text() == "beside the root"


def test_a_body_that_stops_arriving_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "_STALL_SECONDS", 0.1)
    said: list[HttpError] = []

    async def handler(request: Request) -> HttpAnswer:
        waiting: Any = SimpleNamespace(request=request)
        try:
            if request.path == "/whole":
                await context.Context.whole_body(waiting, 100)
            else:
                await context.Context._next(waiting)
        except HttpError as error:
            said.append(error)
            return Response(error.status)
        raise AssertionError("nothing had come")

    async def work(path: str) -> bytes:
        server = Server(handler, lambda error: Response(error.status), said.append, fields={})  # type: ignore[arg-type]
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(server, ours)
        head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
        await loop.sock_sendall(theirs, head.encode())
        with theirs:
            answer = await loop.sock_recv(theirs, 1000)
            await server.shutdown(PATIENCE)
        return answer

    for path in ("/whole", "/piece"):
        found = asyncio.run(asyncio.wait_for(work(path), PATIENCE))
        assert found.startswith(b"HTTP/1.1 408 ")
    assert [error.status for error in said] == [408, 408]


def test_our_time_never_runs_backwards() -> None:
    clock = Clock(1000.0)
    before = clock.now()
    clock.follow(500.0)
    assert clock.now() >= before
    clock.follow(5000.0)
    assert clock.now() >= 5000.0


@pytest.mark.parametrize("years", [-20, 20])
def test_a_clock_that_was_set_between_two_starts(root: Path, years: int) -> None:
    """By twenty years, either way: nothing that is used goes, and it can be pushed to."""
    house = House(root).start()
    try:
        digest = house.push("bad/clock", "1", b"layer")
        begun = house.begin("bad/clock")
        assert house.stop() == 0
        with sqlite3.connect(root / "registry.db") as database:
            jump = years * 365 * 86400
            database.execute("UPDATE facts SET value = value - ? WHERE name = 'clock'", (jump,))
            database.execute("UPDATE uploads SET touched = touched - ?", (jump,))
            database.execute("UPDATE links SET leased = leased - ?", (jump,))
        database.close()
        house.start()
        assert house.tool("gc").returncode == 0
        assert house.request("GET", f"/v2/bad/clock/manifests/{digest}").status == 200
        assert house.request("GET", f"/v2/bad/clock/blobs/{sha256(b'layer')}").status == 200
        # An upload is over after twenty years, and not before it began.
        assert house.request("GET", begun).status == (404 if years > 0 else 204)
        house.push("bad/clock", "2", os.urandom(100))
        assert house.tool("fsck").stdout == "clean\n"
    finally:
        house.close()
