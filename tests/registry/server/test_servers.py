"""Several servers, one bucket, one PostgreSQL: any of them will do, and any of them may die."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest

from sampan.errors import InvalidArgument
from sampan.registry.server.backends import Where
from sampan.registry.server.place import Place
from tests.registry.registries import sha256
from tests.registry.server.accounts import basic, htpasswd
from tests.registry.server.buckets import Bucket
from tests.registry.server.clusters import Cluster
from tests.registry.server.house import Answer, House
from tests.registry.server.load import Load

DATA = os.urandom(10_000_000)
"""A part, and something behind it."""
ANNA = basic("anna", "secret")


class Pair(NamedTuple):
    """Two servers with nothing in common but what is behind them."""

    first: House
    second: House
    database: str
    objects: Path


@contextlib.contextmanager
def serving(directory: Path, bucket: Bucket, cluster: Cluster) -> Iterator[Pair]:
    place = Path(tempfile.mkdtemp(prefix="servers-", dir=directory))
    htpasswd(place / "accounts", anna="secret")
    database = cluster.make()
    where = ("--storage", bucket.address(place.name), "--database", database)
    options = ("--htpasswd", str(place / "accounts"), "--lease", "2s", "--collect-every", "300ms")
    houses = [House(place / name, *options) for name in ("first", "second")]
    for one in houses:
        one.where = (*one.where, *where)
        one.authorization = ANNA
    objects = bucket.place / "bucket" / place.name / "data"
    try:
        yield Pair(houses[0].start(), houses[1].start(), database, objects)
    finally:
        for one in houses:
            one.close()
        shutil.rmtree(place)


@pytest.fixture(scope="module")
def pair(quick: Path, bucket: Bucket, cluster: Cluster) -> Iterator[Pair]:
    with serving(quick, bucket, cluster) as found:
        yield found


def test_what_one_has_the_other_has(pair: Pair) -> None:
    first, second, *_ = pair
    digest = first.push("two/box", "v", b"layer")
    manifest = second.request("GET", "/v2/two/box/manifests/v")
    assert manifest.headers["Docker-Content-Digest"] == digest
    assert second.fetch(f"/v2/two/box/blobs/{sha256(b'layer')}") == b"layer"
    assert second.request("GET", "/v2/two/box/tags/list").json()["tags"] == ["v"]
    assert second.request("GET", "/v1/search?q=box").json()["num_results"] == 1
    assert second.request("DELETE", f"/v2/two/box/manifests/{digest}").status == 202
    assert first.request("GET", "/v2/two/box/manifests/v").codes == ["MANIFEST_UNKNOWN"]
    # A token of the one is good for the other.
    scope = "service=x&scope=repository:two/box:pull"
    token = first.request("GET", f"/token?{scope}").json()["token"]
    said = second.request("GET", "/v2/two/box/tags/list", Authorization=f"Bearer {token}")
    assert said.status == 200


def test_an_upload_changes_servers(pair: Pair) -> None:
    first, second, *_ = pair
    where = first.begin("two/up")
    turns = [(first, 9_000_000), (second, 9_100_000), (first, 9_100_010), (second, len(DATA))]
    begin = 0
    for house, end in turns:
        assert house.request("GET", where).headers["Range"] == f"0-{max(0, begin - 1)}"
        answer = house.request("PATCH", where, DATA[begin:end])
        assert (answer.status, answer.headers["Range"]) == (202, f"0-{end - 1}")
        begin = end
    # The first has hashed a part of it once, which is not all.
    assert first.request("PUT", f"{where}?digest={sha256(DATA)}").status == 201
    assert second.fetch(f"/v2/two/up/blobs/{sha256(DATA)}") == DATA


def test_a_request_that_hangs_is_overtaken_by_the_other_server(pair: Pair) -> None:
    """Its client lies: what it sends to one is not what it sends to the other."""
    first, second, *_ = pair
    where = first.begin("two/hang")
    evil = bytes(len(DATA))
    with socket.create_connection(("127.0.0.1", first.port), timeout=60) as sock:
        head = f"PATCH {where} HTTP/1.1\r\nHost: x\r\nAuthorization: {ANNA}\r\n"
        sock.sendall(f"{head}Content-Length: {len(evil)}\r\n\r\n".encode() + evil[:9_000_000])
        wait_for_bytes(second, where, 8 << 20)
        # What has come counts, so this is not what it says it is.
        offset = wait_for_bytes(second, where, 8 << 20)
        answer = second.request("PUT", f"{where}?digest={sha256(DATA)}", DATA[offset:])
        assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])
        sock.sendall(evil[9_000_000:])
        response = http.client.HTTPResponse(sock)
        response.begin()
        answer = Answer(response.status, response.headers, response.read())
        assert answer.status in (400, 404)
        assert answer.codes[0] in ("BLOB_UPLOAD_INVALID", "BLOB_UPLOAD_UNKNOWN")
    assert first.request("HEAD", f"/v2/two/hang/blobs/{sha256(DATA)}").status == 404


def wait_for_bytes(house: House, where: str, count: int) -> int:
    """How many bytes of an upload are safe, as soon as these are so many."""
    deadline = time.monotonic() + 60
    while True:
        last = int(house.request("GET", where).headers["Range"].partition("-")[2])
        if last + 1 >= count:
            return last + 1
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_client_of_a_server_that_was_killed_goes_on_with_the_other(pair: Pair) -> None:
    first, second, *_ = pair
    where = first.begin("two/kill")
    with socket.create_connection(("127.0.0.1", first.port), timeout=60) as sock:
        head = f"PATCH {where} HTTP/1.1\r\nHost: x\r\nAuthorization: {ANNA}\r\n"
        sock.sendall(f"{head}Content-Length: {len(DATA)}\r\n\r\n".encode() + DATA[:9_000_000])
        wait_for_bytes(second, where, 8 << 20)
        first.kill()
    offset = wait_for_bytes(second, where, 8 << 20)
    answer = second.request("PUT", f"{where}?digest={sha256(DATA)}", DATA[offset:])
    assert answer.status == 201, answer
    assert second.fetch(f"/v2/two/kill/blobs/{sha256(DATA)}") == DATA
    first.start()


def test_a_database_that_goes_and_comes_back(pair: Pair, cluster: Cluster) -> None:
    first, second, database, _ = pair
    digest = first.push("two/gone", "v", b"layer")
    name = database.partition("@/")[2].partition("?")[0]
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
    with psycopg.connect(cluster.url("postgres"), autocommit=True) as admin:
        admin.execute(end, [name])
        # Whoever had a connection gets another.
        assert first.request("GET", "/v2/two/gone/manifests/v").status == 200
        assert second.request("GET", f"/v2/two/gone/manifests/{digest}").status == 200
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        admin.execute(end, [name])
        for house in (first, second):
            for method, path in (("GET", "manifests/v"), ("POST", "blobs/uploads/")):
                answer = house.request(method, f"/v2/two/gone/{path}")
                assert (answer.status, answer.codes) == (503, ["UNAVAILABLE"])
            assert house.request("GET", "/readyz").status == 503
            assert house.request("GET", "/healthz").status == 200
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())
    assert second.push("two/gone", "w", b"layer") == digest
    assert first.request("GET", "/v2/two/gone/manifests/w").status == 200


def test_counting_keeps_nobody_waiting(pair: Pair, cluster: Cluster) -> None:
    digest = pair.first.push("two/metrics", "v", b"layer")
    house = House(pair.first.root.parent / "third", "--metrics", "127.0.0.1:0")
    house.where = ("--root", str(house.root), *pair.first.where[2:])
    house.start()
    try:
        port = int(house.said(r'msg="serving metrics" address=127\.0\.0\.1:(\d+)')[1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        with psycopg.connect(pair.database) as database:
            database.execute("LOCK TABLE trash IN ACCESS EXCLUSIVE MODE")
            connection.request("GET", "/metrics")
            waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessShareLock'"
            with psycopg.connect(pair.database, autocommit=True) as other:
                deadline = time.monotonic() + 60
                while other.execute(waits).fetchone() == (0,):
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
            assert house.request("GET", "/healthz").status == 200
            assert house.request("GET", f"/v2/two/metrics/manifests/{digest}").status == 200
        text = connection.getresponse().read().decode()
        assert "sampan_registry_counted 1.0\n" in text
        assert "sampan_registry_trash " in text
        connection.close()
    finally:
        house.close()


class Front:
    """One name for the servers that are there, as a load balancer is."""

    def __init__(self, *houses: House) -> None:
        self.there = list(houses)

    def request(self, method: str, path: str, body: Any = b"", **fields: str) -> Answer:
        house = random.choice(self.there)
        answer = house.request(method, path, body, **fields)
        if answer.status != 307:
            return answer
        return Answer(200, answer.headers, house.fetch(path, **fields))


def kill_servers_under_load(pair: Pair, kills: int, seed: int) -> Load:
    """One of the two after the other; what was acknowledged is held after each."""
    front = Front(pair.first, pair.second)
    load = Load(front, 3, seed)  # type: ignore[arg-type]  # it makes requests, and no more
    for turn in range(kills):
        victim = (pair.first, pair.second)[turn % 2]
        before = load.pushed
        load.start()
        deadline = time.monotonic() + 60
        while load.pushed < before + 4:
            assert time.monotonic() < deadline, victim.log.read_text()
            time.sleep(0.01)
        victim.kill()
        load.join()
        front.there.remove(victim)
        load.verify()
        victim.start()
        front.there.append(victim)
    load.verify()
    return load


def test_nothing_is_lost_when_servers_are_killed_and_nothing_else_is_kept(pair: Pair) -> None:
    load = kill_servers_under_load(pair, 2, seed=3)
    done = pair.first.tool("fsck")
    assert (done.returncode, done.stdout) == (0, "clean\n"), done.stdout + done.stderr
    used = nothing_is_kept_for_ever(pair)
    assert sum(path.stat().st_size for path in pair.objects.glob("*")) == used
    load.verify()


def nothing_is_kept_for_ever(pair: Pair) -> int:
    """Bytes that manifests use, when nothing else is there."""
    deadline = time.monotonic() + 60
    leased = "SELECT (SELECT count(*) FROM links WHERE refs = 0) + (SELECT count(*) FROM trash)"
    with psycopg.connect(pair.database, autocommit=True) as database:
        # The servers collect by themselves, the one or the other.
        while database.execute(leased).fetchone() != (0,):
            assert time.monotonic() < deadline, pair.first.log.read_text()
            time.sleep(0.05)
    assert pair.second.tool("gc", "--upload-age", "0").returncode == 0
    done = pair.second.tool("gc", "--dry-run", "--upload-age", "0")
    used, *others = (int(line.split()[0]) for line in done.stdout.splitlines()[:6])
    assert not any(others), done.stdout
    return used


@pytest.mark.parametrize(
    ("storage", "database", "why"),
    [
        ("", "postgresql://db/registry", "give --storage"),
        ("s3://bucket", "mysql://db/registry", "expected postgresql://"),
        ("s3://bucket", "postgresql://anna:secret@db/registry", "PGPASSWORD"),
        ("s3://bucket", "postgresql://db/registry?password=secret", "PGPASSWORD"),
    ],
)
def test_what_makes_no_sense_is_refused(root: Path, storage: str, database: str, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why) as raised:
        Place(Where(str(root), storage, database), serving=True)
    assert "secret" not in str(raised.value)
