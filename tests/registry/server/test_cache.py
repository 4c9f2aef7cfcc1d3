"""A cache of another registry that is honest, slow, down, gone half-way, or lies."""

from __future__ import annotations

import http.client
import itertools
import os
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.cli.client import Client
from sampan.cli.commands.registry import serve
from sampan.errors import InvalidArgument
from tests.registry.registries import OCI_MANIFEST, Liar, image_of, sha256
from tests.registry.server.house import Answer, House

SIZE = 3_000_000
DAY = 86400


class Pair:
    """A cache, the registry behind it, and a repository of a test's own."""

    numbers = itertools.count()

    def __init__(self, cache: House, liar: Liar) -> None:
        self.cache = cache
        self.liar = liar
        self.name = f"c/box{next(self.numbers)}"
        self.big = os.urandom(SIZE)
        self.small = os.urandom(100)

    def hold(self, tag: str, *layers: bytes) -> str:
        """Behind the cache; the manifest's digest."""
        manifest, blobs = image_of(list(layers))
        self.liar.hold(self.name, tag, manifest, blobs)
        return sha256(manifest)

    def blob(self, data: bytes) -> str:
        return f"/v2/{self.name}/blobs/{sha256(data)}"

    def tag(self, name: str) -> str:
        return f"/v2/{self.name}/manifests/{name}"

    def get(self, path: str, **fields: str) -> Answer:
        return self.cache.request("GET", path, **fields)


def options(liar: Liar) -> tuple[str, ...]:
    """It asks for each tag, each time."""
    return ("--proxy", f"http://{liar.address}", "--proxy-expiry", "0s", "--collect-every", "0")


@pytest.fixture
def liar() -> Iterator[Liar]:
    one = Liar()
    yield one
    one.close()


@pytest.fixture(scope="module")
def shared(quick: Path) -> Iterator[tuple[House, Liar]]:
    place = Path(tempfile.mkdtemp(prefix="registry-", dir=quick))
    liar = Liar()
    house = House(place / "root", *options(liar)).start()
    yield house, liar
    house.close()
    liar.close()
    shutil.rmtree(place)


@pytest.fixture
def pair(shared: tuple[House, Liar]) -> Pair:
    return Pair(*shared)


@pytest.fixture
def own(root: Path, liar: Liar) -> Iterator[Pair]:
    """One that may be killed, and whose other registry may go."""
    house = House(root, *options(liar)).start()
    yield Pair(house, liar)
    house.close()


def clean(house: House) -> None:
    assert house.tool("fsck").stdout == "clean\n"


def wait(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def half(data: bytes, go: threading.Event) -> Callable[[Any], None]:
    """An answer that stops in the middle, until ``go``."""

    def answer(request: Any) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data[: len(data) // 2])
        request.wfile.flush()
        assert go.wait(60)
        request.wfile.write(data[len(data) // 2 :])

    return answer


# -- blobs ---------------------------------------------------------------------------------------


def test_what_two_want_at_once_comes_once_and_while_it_comes(pair: Pair) -> None:
    go = threading.Event()
    pair.liar.paths["GET", pair.blob(pair.big)] = half(pair.big, go)
    clients = [pair.cache.connect() for _ in range(2)]
    answers = []
    for client in clients:
        client.request("GET", pair.blob(pair.big))
        answers.append(client.getresponse())
    # The other registry has sent half, and both have some of it.
    assert [one.status for one in answers] == [200, 200]
    assert [one.read(1_000_000) for one in answers] == [pair.big[:1_000_000]] * 2
    go.set()
    assert [one.read() for one in answers] == [pair.big[1_000_000:]] * 2
    for client in clients:
        client.close()
    assert pair.get(pair.blob(pair.big)).body == pair.big
    assert pair.get(pair.blob(pair.big), Range="bytes=-7").body == pair.big[-7:]
    assert len(pair.liar.requests("GET", pair.blob(pair.big))) == 1
    clean(pair.cache)


def test_a_range_of_what_is_not_here_yet(pair: Pair) -> None:
    pair.hold("1", pair.big)
    answer = pair.get(pair.blob(pair.big), Range=f"bytes={len(pair.big) - 5}-")
    assert (answer.status, answer.body) == (206, pair.big[-5:])
    assert (
        answer.headers["Content-Range"]
        == f"bytes {len(pair.big) - 5}-{len(pair.big) - 1}/{len(pair.big)}"
    )
    assert pair.cache.request("HEAD", pair.blob(pair.small)).status == 404
    pair.hold("2", pair.small)
    assert pair.cache.request("HEAD", pair.blob(pair.small)).headers["Content-Length"] == str(
        len(pair.small)
    )
    assert sha256(pair.small) not in pair.cache.blob_files()


@pytest.mark.parametrize("kind", ["big", "small"])
def test_wrong_bytes_reach_nobody_whole(pair: Pair, kind: str) -> None:
    data = pair.big if kind == "big" else pair.small
    wrong = data[:-1] + bytes([data[-1] ^ 1])
    pair.liar.held[pair.blob(data)] = "x", wrong
    if kind == "small":
        answer = pair.get(pair.blob(data))
        assert answer.status == 502
        assert "sent something wrong" in answer.json()["errors"][0]["message"]
    else:
        with pytest.raises(http.client.IncompleteRead):
            pair.get(pair.blob(data))
    wait(lambda: list((pair.cache.root / "uploads").iterdir()) == [])
    assert not {sha256(data), sha256(wrong)} & set(pair.cache.blob_files())
    pair.liar.held[pair.blob(data)] = "x", data
    assert pair.get(pair.blob(data)).body == data
    clean(pair.cache)


def test_a_connection_that_breaks_is_gone_on_with(pair: Pair) -> None:
    pair.hold("1", pair.big)

    def dying(request: Any) -> None:
        del pair.liar.paths["GET", pair.blob(pair.big)]
        request.send_response(200)
        request.send_header("Content-Length", str(len(pair.big)))
        request.end_headers()
        request.wfile.write(pair.big[:2_000_000])
        request.wfile.flush()
        request.close_connection = True

    pair.liar.paths["GET", pair.blob(pair.big)] = dying
    assert pair.get(pair.blob(pair.big)).body == pair.big
    first, second = pair.liar.requests("GET", pair.blob(pair.big))
    assert "range" not in first
    assert second["range"].startswith("bytes=")


def test_a_client_that_leaves_ends_nothing_and_a_kill_leaves_nothing_wrong(own: Pair) -> None:
    pair = own
    go = threading.Event()
    pair.liar.paths["GET", pair.blob(pair.big)] = half(pair.big, go)
    client = pair.cache.connect()
    client.request("GET", pair.blob(pair.big))
    client.getresponse().read(1000)
    client.close()
    go.set()
    wait(lambda: sha256(pair.big) in pair.cache.blob_files())
    other = os.urandom(len(pair.big))
    go.clear()
    pair.liar.paths["GET", pair.blob(other)] = half(other, go)
    client = pair.cache.connect()
    client.request("GET", pair.blob(other))
    client.getresponse().read(1000)
    pair.cache.kill()
    client.close()
    go.set()
    pair.cache.start()
    clean(pair.cache)
    assert pair.cache.tool("gc", "--upload-age", "0").returncode == 0
    assert list((pair.cache.root / "uploads").iterdir()) == []
    assert pair.get(pair.blob(pair.big)).body == pair.big
    pair.liar.held[pair.blob(other)] = "x", other
    del pair.liar.paths["GET", pair.blob(other)]
    assert pair.get(pair.blob(other)).body == other


def test_another_repositorys_blob_is_asked_for_and_not_fetched_again(pair: Pair) -> None:
    pair.hold("1", pair.small)
    assert pair.get(pair.blob(pair.small)).status == 200
    elsewhere = pair.blob(pair.small).replace("/c/", "/secret/")
    assert pair.get(elsewhere).status == 404
    pair.liar.held[elsewhere] = "x", pair.small
    assert pair.get(elsewhere).body == pair.small
    assert pair.liar.requests("GET", elsewhere) == []
    assert len(pair.liar.requests("HEAD", elsewhere)) == 2


# -- tags ----------------------------------------------------------------------------------------


def test_tags_are_looked_up_again_and_old_ones_serve_while_nobody_answers(own: Pair) -> None:
    pair = own
    first = pair.hold("v", pair.small)
    answer = pair.get(pair.tag("v"))
    assert answer.headers["Docker-Content-Digest"] == first
    assert "Warning" not in answer.headers
    second = pair.hold("v", pair.small, pair.small)
    assert pair.cache.request("HEAD", pair.tag("v")).headers["Docker-Content-Digest"] == second
    # The same digest by HEAD: nothing is fetched.
    pair.liar.paths["HEAD", pair.tag("v")] = lambda request: request.answer(
        200, Docker_Content_Digest=second
    )
    fetched = len(pair.liar.requests("GET", pair.tag("v")))
    assert pair.get(pair.tag("v")).status == 200
    assert len(pair.liar.requests("GET", pair.tag("v"))) == fetched
    # Busy, and then down.
    pair.liar.paths["HEAD", pair.tag("v")] = lambda request: request.answer(503)
    answer = pair.get(pair.tag("v"))
    assert (answer.status, answer.headers["Warning"]) == (200, '110 - "Response is Stale"')
    assert answer.headers["Docker-Content-Digest"] == second
    pair.cache.said("serving what is here, which may be old")
    assert pair.get(pair.tag(first)).status == 200
    pair.liar.close()
    assert pair.cache.request("HEAD", pair.tag("v")).headers["Warning"] == answer.headers["Warning"]
    answer = pair.get(f"/v2/{pair.name}/tags/list")
    assert (answer.json()["tags"], answer.headers["Warning"][:3]) == (["v"], "110")
    assert pair.get(pair.tag("other")).codes == ["UNAVAILABLE"]


def test_a_tag_that_is_gone_there_is_gone_here(pair: Pair) -> None:
    digest = pair.hold("v", pair.small)
    assert pair.get(pair.tag("v")).status == 200
    del pair.liar.held[pair.tag("v")]
    answer = pair.get(pair.tag("v"))
    assert (answer.status, answer.codes) == (404, ["MANIFEST_UNKNOWN"])
    assert pair.get(pair.tag(digest)).status == 200


def test_what_the_other_registry_refuses_is_told_in_its_words(pair: Pair) -> None:
    def say(status: int, **fields: str) -> Answer:
        body = b'{"errors":[{"code":"X","message":"words of its own"}]}'
        for path in (pair.tag("v"), pair.blob(pair.small)):
            pair.liar.paths["GET", path] = lambda request: request.answer(status, body, **fields)
        one = pair.get(pair.tag("v"))
        other = pair.get(pair.blob(pair.small))
        assert one.status == other.status
        assert "WWW-Authenticate" not in one.headers
        return one

    assert say(403).codes == ["DENIED"]
    assert say(401, WWW_Authenticate='Basic realm="x"').codes == ["DENIED"]
    answer = say(429, Retry_After="17")
    assert (answer.codes, answer.headers["Retry-After"]) == (["TOOMANYREQUESTS"], "17")
    answer = say(500)
    assert (answer.status, answer.codes) == (503, ["UNAVAILABLE"])
    assert "words of its own" in answer.json()["errors"][0]["message"]
    # A manifest that is none, and one that is not what was asked for.
    del pair.liar.paths["GET", pair.tag("v")]
    pair.liar.held[pair.tag("v")] = OCI_MANIFEST, b"{"
    assert pair.get(pair.tag("v")).status == 502
    pair.liar.held[pair.tag(sha256(b"x"))] = OCI_MANIFEST, b"{}"
    assert pair.get(pair.tag(sha256(b"x"))).status == 502
    for method, path in (
        ("PUT", pair.tag("v")),
        ("DELETE", pair.blob(pair.small)),
        ("DELETE", pair.tag("v")),
    ):
        answer = pair.cache.request(method, path)
        assert (answer.status, answer.codes) == (405, ["UNSUPPORTED"])


# -- what is kept --------------------------------------------------------------------------------


def test_what_nobody_uses_goes_and_so_does_what_is_too_much(root: Path, liar: Liar) -> None:
    layers = [os.urandom(1_200_000) for _ in range(3)]
    proxy = ("--proxy", f"http://{liar.address}", "--proxy-size", "3000000")
    house = House(root, *proxy, "--collect-every", "50ms").start()
    pair = Pair(house, liar)
    pair.hold("v", *layers)

    def set_back(query: str, *parameters: object) -> None:
        database = sqlite3.connect(root / "registry.db")
        database.execute(query, parameters)
        database.commit()
        database.close()

    try:
        assert house.request("GET", pair.tag("v")).status == 200
        for one in layers[:2]:
            assert house.request("GET", pair.blob(one)).body == one
        older = "UPDATE links SET leased = leased - 600 WHERE blob = (SELECT id FROM blobs"
        set_back(f"{older} WHERE digest = ?)", sha256(layers[1]))
        assert house.request("GET", pair.blob(layers[2])).body == layers[2]
        # The one that was not used for longest.
        wait(lambda: sha256(layers[1]) not in house.blob_files())
        assert house.blob_files() == sorted(sha256(one) for one in (layers[0], layers[2]))
        assert house.request("GET", pair.blob(layers[1])).body == layers[1]
        set_back(f"UPDATE links SET leased = leased - {8 * DAY}")
        set_back(f"UPDATE manifests SET touched = touched - {8 * DAY}")
        wait(lambda: house.blob_files() == [])
        wait(lambda: house.request("GET", "/v2/_catalog").json()["repositories"] == [])
        clean(house)
        assert house.request("GET", pair.tag("v")).status == 200
    finally:
        house.close()


def test_a_cache_and_a_registry_are_not_taken_for_one_another(root: Path, liar: Liar) -> None:
    house = House(root).start()
    house.push("own/box", "v", b"layer")
    house.stop()
    proxy = ("--proxy", f"http://{liar.address}")
    for place, words, said in (
        (root, proxy, "has images of its own"),
        (root.parent / "cache", (), f"is a cache of http://{liar.address}: serve it with --proxy"),
        (root.parent / "cache", ("--proxy", "https://other"), "a root of its own"),
    ):
        if place != root and not place.exists():
            other = House(place, *proxy).start()
            other.close()
        done = House(place).tool("serve", "--listen", "127.0.0.1:0", *words)
        assert done.returncode == 1
        assert said in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--proxy", "registry"), "--proxy registry: write https://"),
        (("--proxy", "https://me:secret@host"), "--proxy .*credentials have a file"),
        (("--proxy", "https://host/path"), "nothing may stand behind the host"),
        (("--proxy-keep", "1h"), "--proxy-keep is for a cache"),
        (("--proxy", "https://host", "--proxy-keep", "0s"), "--proxy-keep"),
        (("--proxy", "https://host", "--read-only"), "--read-only with --proxy"),
        (("--proxy", "https://host", "--lease", "1h"), "--lease with --proxy"),
        (("--proxy", "https://host", "--proxy-credentials", "/nowhere"), "/nowhere: No such"),
    ],
)
def test_options_that_make_no_cache_are_refused(words: tuple[str, ...], said: str) -> None:
    client = Client.__new__(Client)  # there is no daemon in this
    with pytest.raises(InvalidArgument, match=said):
        serve(client, list(words))


def test_a_password_in_the_clear_and_a_file_of_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "credentials"
    client = Client.__new__(Client)
    for url, text, said in (
        ("http://192.0.2.1", 'username = "a"\npassword = "b"', "in the clear"),
        ("https://host", 'username = "a"\npassword = 3', "line 2, password: Expected `str`"),
        ("https://host", 'username = "a"', "missing required field `password`"),
        ("https://host", 'username = ""\npassword = "hush"', "line 1: username: may not"),
    ):
        path.write_text(text)
        with pytest.raises(InvalidArgument, match=said) as caught:
            serve(client, ["--proxy", url, "--proxy-credentials", str(path)])
        assert "hush" not in str(caught.value)
