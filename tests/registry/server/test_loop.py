"""What the event loop does itself: rows that an index finds, and nothing that grows with what is
stored. Everything else is for threads.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sampan.api.distribution.server import DistributionServer
from sampan.daemon.registry.metrics import Metrics
from sampan.registry.server.backends import Where
from sampan.registry.server.core import Registry
from sampan.registry.server.database.sqlite import SqliteDatabase
from sampan.registry.server.place import Place
from tests.registry.registries import sha256
from tests.registry.server.house import House


class Inside(House):
    """The server in a thread of ours; ``asked`` are the queries that its loop ran itself."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        super().__init__(root)
        self.asked: set[str] = set()
        self.metrics = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self.place = Place(Where(str(root)), serving=True)
        for name in ("row", "rows", "write"):
            patch.setattr(SqliteDatabase, name, self._watched(getattr(SqliteDatabase, name)))

    def _watched(self, method: Any) -> Any:
        def watched(database: SqliteDatabase, query: Any, *more: Any, **options: Any) -> Any:
            if threading.current_thread() is self._thread:
                self.asked.add(query if isinstance(query, str) else "a write")
            return method(database, query, *more, **options)

        return watched

    def start(self) -> House:
        self._thread.start()
        server = DistributionServer(Registry(self.place))
        self.address = self._listen(server)
        self.metrics = self._listen(Metrics(self.place).server())
        self._server = server
        return self

    def _listen(self, factory: Any) -> str:
        listener = self._loop.create_server(factory, "127.0.0.1", 0)
        found = asyncio.run_coroutine_threadsafe(listener, self._loop).result(60)
        return f"127.0.0.1:{found.sockets[0].getsockname()[1]}"

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._server.shutdown(1), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()
        self.place.close()


@pytest.fixture
def inside(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inside]:
    one = Inside(root, monkeypatch)
    one.start()
    yield one
    one.close()


def test_the_loop_asks_only_for_what_an_index_finds(inside: Inside) -> None:
    digest = inside.push("loop/box", "v1", b"layer")
    for answer in requests(inside, digest):
        assert answer < 400
    asked = set(inside.asked)
    assert asked, "the paths that are to be quick ask at once"
    assert "a write" not in asked
    scans = {query: plan for query in asked if (plan := scanned(inside, query))}
    assert not scans


def requests(house: Inside, digest: str) -> Iterator[int]:
    """Everything that can be asked for."""
    blob = sha256(b"layer")
    for path in (
        "/v2/",
        "/v2/_catalog",
        "/v2/loop/box/tags/list",
        "/v2/loop/box/tags/list?n=1&last=a",
        "/v2/loop/box/manifests/v1",
        f"/v2/loop/box/manifests/{digest}",
        f"/v2/loop/box/blobs/{blob}",
        f"/v2/loop/box/referrers/{digest}",
        "/v1/search?q=box",
        "/api/v1/repositories",
        "/api/v1/repositories?q=box",
        "/api/v1/repositories/loop/box/tags",
        "/api/v1/repositories/loop/box/manifests/v1",
        "/readyz",
        "/",
    ):
        yield house.request("GET", path).status
        yield house.request("HEAD", path).status if "/v2/" in path else 200
    where = house.begin("loop/box")
    yield house.request("PATCH", where, b"12").status
    yield house.request("GET", where).status
    yield house.request("PUT", f"{where}?digest={sha256(b'1234')}", b"34").status
    yield house.request("DELETE", house.begin("loop/box")).status
    mount = f"/v2/loop/other/blobs/uploads/?mount={blob}&from=loop/box"
    yield house.request("POST", mount).status
    yield house.request("DELETE", f"/v2/loop/other/blobs/{blob}").status
    yield house.request("DELETE", "/v2/loop/box/manifests/v1").status
    yield house.request("DELETE", f"/v2/loop/box/manifests/{digest}").status
    with urllib.request.urlopen(f"http://{house.metrics}/metrics", timeout=60) as answer:
        assert b"sampan_registry_repositories " in answer.read()
        yield answer.status


def scanned(house: Inside, query: str) -> Sequence[str]:
    """Steps that read more than is asked for: whole tables, or rows to be sorted first."""
    connection = sqlite3.connect(f"{house.root}/registry.db")
    try:
        numbered = [int(number) for number in re.findall(r"\?(\d+)", query)]
        given = ["1"] * max(numbered, default=query.count("?"))
        steps = connection.execute(f"EXPLAIN QUERY PLAN {query}", given).fetchall()
    finally:
        connection.close()
    return [step[3] for step in steps if not step[3].startswith("SEARCH ")]
