"""Blobs from registries that break off, lie, answer slowly or send us elsewhere."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from sampan.errors import Corrupt, NotFound, SampanError
from sampan.registry.client import retries
from sampan.registry.client.download import download, foreign, from_registry
from sampan.registry.client.errors import Transient, UnknownHost
from sampan.registry.client.hosts import Hosts
from sampan.registry.client.http import Deadlines, Pool
from sampan.registry.client.proxies import Proxies
from sampan.registry.client.repository import Repository
from sampan.registry.client.session import Session
from sampan.registry.client.tls import Trust
from sampan.registry.policy import Policy
from sampan.registry.types import Credentials
from sampan.storage.blobs import BlobStore
from tests.registry.registries import Authority, Liar, sha256

BLOB = random.Random(1).randbytes(5_000_000)
DIGEST = sha256(BLOB)
PATH = f"/v2/a/blobs/{DIGEST}"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The times between attempts are a table of their own (``test_budget``)."""
    monkeypatch.setattr(retries, "_FIRST", 0.001)
    monkeypatch.setattr(retries, "_LONGEST_ASKED", 0.05)


class Heard:
    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.waits: list[str] = []

    def grown(self, offset: int) -> None:
        self.offsets.append(offset)

    def waiting(self, seconds: float, error: Transient) -> None:
        self.waits.append(error.message)


def fetch(
    store: BlobStore,
    address: str,
    *,
    digest: str = DIGEST,
    size: int = len(BLOB),
    attempts: int = 3,
    urls: tuple[str, ...] = (),
    deadlines: Deadlines | None = None,
    heard: Heard | None = None,
    policy: Policy | None = None,
) -> None:
    """As the carrier does it: into the store, resumed where there is something."""

    async def main() -> None:
        rules = policy or Policy(certs=())
        hosts = Hosts(rules)
        pool = Pool(Trust(rules.certs), Proxies(), deadlines)
        endpoints = await hosts.endpoints(address, mirrors=False)
        repository = Repository(Session(pool, hosts, endpoints, Credentials()), "a")
        sources = [from_registry(repository, digest)]
        sources += [source for url in urls if (source := foreign(pool, hosts, url)) is not None]
        with store.ingest(digest, size, resume=True) as ingest:
            await download(sources, ingest, size, heard or Heard(), attempts)
            ingest.commit()
        pool.close()

    asyncio.run(main())


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(str(tmp_path))


def partials(store: BlobStore) -> list[int]:
    directory = f"{store.root}/ingest"
    return [os.path.getsize(f"{directory}/{name}") for name in os.listdir(directory)]


def breaking(count: int, every: int) -> Callable[[object], None]:
    """Sends ``every`` bytes of the rest and hangs up, ``count`` times; then tells the truth."""
    left = count

    def answer(request: object) -> None:
        nonlocal left
        wanted = request.headers.get("Range", "bytes=0-")  # type: ignore[attr-defined]
        start = int(wanted[6:].rstrip("-"))
        end = len(BLOB) if left <= 0 else min(start + every, len(BLOB))
        left -= 1
        place = f"bytes {start}-{len(BLOB) - 1}/{len(BLOB)}"
        request.send_response(206 if start else 200)  # type: ignore[attr-defined]
        request.send_header("Content-Length", str(len(BLOB) - start))  # type: ignore[attr-defined]
        if start:
            request.send_header("Content-Range", place)  # type: ignore[attr-defined]
        request.end_headers()  # type: ignore[attr-defined]
        request.wfile.write(BLOB[start:end])  # type: ignore[attr-defined]
        request.close_connection = True  # type: ignore[attr-defined]

    return answer


def test_a_blob_comes_whole(liar: Liar, store: BlobStore) -> None:
    liar.held[PATH] = "x", BLOB
    heard = Heard()
    fetch(store, liar.address, heard=heard)
    assert store.size(DIGEST) == len(BLOB)
    assert heard.offsets == sorted(heard.offsets)
    assert heard.offsets[-1] == len(BLOB)
    assert partials(store) == []


def test_what_broke_off_goes_on_where_it_was(liar: Liar, store: BlobStore) -> None:
    liar.paths["GET", PATH] = breaking(2, 2_000_000)
    fetch(store, liar.address)
    assert store.size(DIGEST) == len(BLOB)
    ranges = [fields.get("range") for fields in liar.requests("GET", PATH)]
    assert ranges == [None, "bytes=2000000-", "bytes=4000000-"]


def test_an_attempt_that_brings_a_mebibyte_costs_nothing(liar: Liar, store: BlobStore) -> None:
    liar.paths["GET", PATH] = breaking(4, 1_100_000)
    fetch(store, liar.address, attempts=2)
    assert len(liar.requests("GET", PATH)) == 5


def test_attempts_that_bring_less_are_counted_and_the_bytes_stay(
    liar: Liar, store: BlobStore
) -> None:
    liar.paths["GET", PATH] = breaking(100, 1000)
    with pytest.raises(Transient, match="closed the connection"):
        fetch(store, liar.address, attempts=4)
    assert len(liar.requests("GET", PATH)) == 4
    assert partials(store) == [4000]
    liar.paths["GET", PATH] = breaking(0, 0)
    fetch(store, liar.address)
    assert liar.requests("GET", PATH)[-1]["range"] == "bytes=4000-"


def test_a_registry_without_ranges_is_read_again_and_nothing_is_written_twice(
    liar: Liar, store: BlobStore
) -> None:
    first = breaking(1, 2_000_000)

    def answer(request: object) -> None:
        if len(liar.requests("GET", PATH)) == 1:
            first(request)
        else:
            request.answer(200, BLOB)  # type: ignore[attr-defined]

    liar.paths["GET", PATH] = answer
    heard = Heard()
    fetch(store, liar.address, heard=heard)
    assert store.size(DIGEST) == len(BLOB)
    assert heard.offsets == sorted(heard.offsets)


@pytest.mark.parametrize(
    ("place", "words"),
    [("bytes 0-4999999/5000000", "others came"), ("bytes 7-9/10", "others came"), ("x", "others")],
)
def test_a_range_that_is_another_is_not_taken(
    liar: Liar, store: BlobStore, place: str, words: str
) -> None:
    first = breaking(1, 2_000_000)

    def answer(request: object) -> None:
        if len(liar.requests("GET", PATH)) == 1:
            first(request)
        else:
            request.answer(206, BLOB, Content_Range=place)  # type: ignore[attr-defined]

    liar.paths["GET", PATH] = answer
    with pytest.raises(Transient, match=words):
        fetch(store, liar.address)
    assert partials(store) == [2_000_000]


def test_wrong_bytes_are_refused_and_gone(liar: Liar, store: BlobStore) -> None:
    liar.held[PATH] = "x", BLOB[:-1] + b"!"
    with pytest.raises(Corrupt, match=f"expected blob {DIGEST}, found sha256:"):
        fetch(store, liar.address)
    assert partials(store) == []
    assert not store.has(DIGEST)
    assert len(liar.requests("GET", PATH)) == 1


@pytest.mark.parametrize("data", [BLOB + b"more", BLOB[:-1]])
def test_another_length_than_announced_is_refused(
    liar: Liar, store: BlobStore, data: bytes
) -> None:
    liar.held[PATH] = "x", data
    with pytest.raises(Corrupt, match=f"{len(data)} bytes, announced were {len(BLOB)}"):
        fetch(store, liar.address)


def test_more_than_announced_without_saying_so_is_cut_off(liar: Liar, store: BlobStore) -> None:
    def answer(request: object) -> None:
        request.send_response(200)  # type: ignore[attr-defined]
        request.send_header("Connection", "close")  # type: ignore[attr-defined]
        request.end_headers()  # type: ignore[attr-defined]
        try:
            while True:
                request.wfile.write(BLOB)  # type: ignore[attr-defined]
        except OSError:
            return

    liar.paths["GET", PATH] = answer
    with pytest.raises(Corrupt, match="longer than the 5000000 bytes announced"):
        fetch(store, liar.address)
    assert partials(store) == []


def test_a_registry_that_fails_for_a_while_is_asked_again(liar: Liar, store: BlobStore) -> None:
    answers = iter((500, 503, 429))

    def answer(request: object) -> None:
        status = next(answers, 200)
        if status == 200:
            request.answer(200, BLOB)  # type: ignore[attr-defined]
        else:
            request.answer(status, b"", Retry_After="1")  # type: ignore[attr-defined]

    liar.paths["GET", PATH] = answer
    heard = Heard()
    fetch(store, liar.address, attempts=4, heard=heard)
    assert store.has(DIGEST)
    assert ["HTTP 500" in heard.waits[0], "HTTP 503" in heard.waits[1]] == [True, True]


@pytest.mark.parametrize(("status", "count"), [(500, 3), (404, 1), (403, 1), (400, 1), (416, 1)])
def test_only_what_may_pass_is_asked_again(
    liar: Liar, store: BlobStore, status: int, count: int
) -> None:
    liar.paths["GET", PATH] = lambda request: request.answer(status, b"no \x1b[31m words")
    with pytest.raises(SampanError) as raised:
        fetch(store, liar.address)
    assert "\x1b" not in raised.value.message
    assert len(liar.requests("GET", PATH)) == count


def test_redirects_end(liar: Liar, store: BlobStore) -> None:
    liar.paths["GET", PATH] = lambda request: request.answer(307, Location=PATH)
    with pytest.raises(SampanError, match="stopped after 10 redirects"):
        fetch(store, liar.address)
    assert len(liar.requests("GET", PATH)) == 11


def test_a_redirect_is_followed_with_the_range_and_without_the_password(
    liar: Liar, store: BlobStore
) -> None:
    other = Liar()
    try:
        other.held["/elsewhere"] = "x", BLOB
        target = f"http://{other.address}/elsewhere?signature=1"
        liar.paths["GET", PATH] = lambda request: request.answer(307, Location=target)
        with store.ingest(DIGEST, len(BLOB), resume=True) as ingest:
            ingest.write(BLOB[:777])
            ingest.abort(keep=True)
        fetch(store, liar.address)
        assert store.has(DIGEST)
        (fields,) = other.requests("GET", "/elsewhere")
        assert fields["range"] == "bytes=777-"
    finally:
        other.close()


@pytest.mark.parametrize("location", ["", "ftp://a/b", "http://", "javascript:x"])
def test_a_redirect_to_nowhere_is_refused(liar: Liar, store: BlobStore, location: str) -> None:
    liar.paths["GET", PATH] = lambda request: request.answer(302, Location=location)
    with pytest.raises(SampanError, match="redirected"):
        fetch(store, liar.address)


def test_a_redirect_from_https_to_a_stranger_in_the_clear_is_refused(
    authority: Authority, store: BlobStore, tmp_path: Path
) -> None:
    secure = Liar(authority.issue("redirecting"))
    try:
        certs = tmp_path / "certs.d" / secure.address
        certs.mkdir(parents=True)
        (certs / "ca.crt").write_bytes(authority.certificate.read_bytes())
        secure.paths["GET", PATH] = lambda request: request.answer(
            307, Location="http://192.0.2.1/x"
        )
        policy = Policy(certs=(str(tmp_path / "certs.d"),))
        with pytest.raises(SampanError, match="redirected from HTTPS to plain HTTP"):
            fetch(store, secure.address, policy=policy)
    finally:
        secure.close()


def test_a_foreign_layer_comes_from_its_address_when_the_registry_has_it_not(
    liar: Liar, store: BlobStore
) -> None:
    other = Liar()
    try:
        other.held["/layer"] = "x", BLOB
        urls = ("nonsense", f"http://{other.address}/gone", f"http://{other.address}/layer")
        fetch(store, liar.address, urls=urls)
        assert store.has(DIGEST)
    finally:
        other.close()


def test_a_blob_that_nobody_has_is_not_found(liar: Liar, store: BlobStore) -> None:
    with pytest.raises(NotFound, match=DIGEST):
        fetch(store, liar.address)


def test_a_registry_that_stops_in_the_middle_is_left_and_continued(
    liar: Liar, store: BlobStore
) -> None:
    first = True

    def answer(request: object) -> None:
        nonlocal first
        if first:
            first = False
            request.send_response(200)  # type: ignore[attr-defined]
            request.send_header("Content-Length", str(len(BLOB)))  # type: ignore[attr-defined]
            request.end_headers()  # type: ignore[attr-defined]
            request.wfile.write(BLOB[:3_000_000])  # type: ignore[attr-defined]
            request.connection.recv(1)  # type: ignore[attr-defined]  # until the client goes
        else:
            liar.held[PATH] = "x", BLOB
            liar.truth(request, PATH)  # type: ignore[arg-type]

    liar.paths["GET", PATH] = answer
    fetch(store, liar.address, deadlines=Deadlines(quiet=0.3))
    assert liar.requests("GET", PATH)[1]["range"] == "bytes=3000000-"


def test_a_registry_that_dies_and_comes_back_is_found_again(
    store: BlobStore, liar: Liar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "_FIRST", 0.2)
    liar.paths["GET", PATH] = breaking(1, 2_000_000)
    back: list[Liar] = []

    class Reviving(Heard):
        def waiting(self, seconds: float, error: Transient) -> None:
            super().waiting(seconds, error)
            if len(self.waits) == 1:
                liar.close()
            elif len(self.waits) == 2:
                back.append(at_port(liar.port))
                back[0].held[PATH] = "x", BLOB

    heard = Reviving()
    try:
        fetch(store, liar.address, attempts=4, heard=heard)
        assert "connection refused" in heard.waits[1]
        assert back[0].requests("GET", PATH)[0]["range"] == "bytes=2000000-"
    finally:
        for one in back:
            one.close()


def at_port(port: int) -> Liar:
    liar = Liar()
    liar.server.socket.close()
    liar.server.socket = socket.create_server(("127.0.0.1", port))
    return liar


def test_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)

    async def main() -> None:
        budget = retries.Budget(9)
        for _ in range(8):
            await budget.spend(Transient("x"))
        with pytest.raises(Transient):
            await budget.spend(Transient("x"))
        asked = retries.Budget(4)
        await asked.spend(Transient("x", after=7))
        await asked.spend(Transient("x", after=7000))
        with pytest.raises(UnknownHost):
            await retries.Budget(9).spend(UnknownHost("no such host"))

    asyncio.run(main())
    assert slept == [0.5, 1, 2, 4, 8, 16, 30, 30, 7, 60]


def test_a_full_disk_is_said_and_its_room_given_back(liar: Liar, tmp_path: Path) -> None:
    from sampan.kernel.mounts import mount, umount

    if os.geteuid() != 0:
        pytest.skip("needs root")
    place = tmp_path / "small"
    place.mkdir()
    mount("tmpfs", str(place), "tmpfs", 0, "size=2m")
    try:
        store = BlobStore(str(place / "content"))
        liar.held[PATH] = "x", BLOB
        with pytest.raises(SampanError, match="no space left on device while storing blob"):
            fetch(store, liar.address)
        assert partials(store) == []
        assert len(liar.requests("GET", PATH)) == 1
    finally:
        umount(str(place))


def test_hashes_are_right() -> None:
    assert hashlib.sha256(BLOB).hexdigest() == DIGEST[7:]
