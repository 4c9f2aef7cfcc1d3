"""Requests made up by hypothesis, byte by byte, against a real registry: each route in turn, with
names, references, fields and manifests that are right, nearly right and not at all.

Whatever comes: an answer in time, no 5xx, errors in the specification's form, no byte of what lies
beside the root, nothing written beside it, memory in bounds, and a root that fsck calls clean.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from hypothesis import strategies as st

from sampan.api.distribution.routes import PATHS
from tests.registry.registries import sha256
from tests.registry.server.accounts import htpasswd
from tests.registry.server.house import House

__all__ = ["BLOBS", "DIGESTS", "KNOWN", "SECRET", "TAGS", "Fuzzer", "Made", "requests", "two"]

SECRET = "what lies beside the root"
MEMORY = 200 << 20
_DEADLINE = 120.0
_LARGEST = 1 << 22

UPLOAD = "UPLOAD"
"""In a path: an upload that was begun just before."""

KNOWN = ["fuzz/a", "fuzz/b", "c"]
TAGS = ["v1", "latest", "1.2.3-rc.1"]
BLOBS = [b"", b"layer", b"{}", os.urandom(0) + bytes(range(256)) * 20]
DIGESTS = [sha256(one) for one in BLOBS]
_OUT = [
    "..", ".", "%2e%2e", "%2E%2E%2f", "..%2f..%2fsecret", "%252e%252e", "..%5c", "%c0%ae%c0%ae",
    "%00", "a%00b", "%ff", "//", "../../../../etc/passwd", "%2e%2e/%2e%2e/secret", "%", "%zz", "%2",
    "a/../../b", "sha256:../../../../../secret", "sha256:..%2f..%2f..%2fsecret",
    "sha256-" + "0" * 64, "sha512:" + "0" * 128, "sha256:" + "G" * 64, "md5:" + "0" * 32, "",
    "_catalog", "A", "a" * 300, "a/" * 130 + "a", "\u00e9", "-", "blobs/uploads", "manifests",
]  # fmt: skip
_MEDIA = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
    "application/octet-stream",
    "application/x-www-form-urlencoded",
    "text/plain",
    "",
]
_METHODS = ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "TRACE", "x"]
_NUMBERS = ["0", "1", "2", "-1", "1000000", "9" * 18, "9" * 400, "x", "", "1.5", "1e3", "\u0661"]


class Made(NamedTuple):
    """A request: its head's bytes, and a body (``pieces``: sent in chunks)."""

    method: str
    head: bytes
    body: bytes
    version: str


def _text(most: int = 20) -> st.SearchStrategy[str]:
    return st.text(max_size=most)


_names = st.sampled_from(KNOWN * 12 + _OUT) | _text()
_references = st.sampled_from((TAGS + DIGESTS + [UPLOAD] * 3) * 4 + _OUT) | _text()


class _Target(NamedTuple):
    path: str
    methods: list[str]


@st.composite
def _targets(draw: st.DrawFn) -> _Target:
    """One of the server's routes with things in its places; now and then anything."""
    kind = draw(st.integers(0, 19))
    if kind == 19:
        return _Target("/" + draw(_text(60)), ["GET", "PUT"])
    route = draw(st.sampled_from(PATHS))
    path, methods = route.pattern.pattern, list(route.methods)
    if kind == 18:
        return _Target(draw(st.from_regex(path, fullmatch=True)), methods)
    path = path.replace("(.+)", "\0N", 1)
    path = re.sub(r"\([^()]*\)", "\0R", path).replace("?", "")
    if "\0N" in path:
        path = path.replace("\0N", draw(_names))
    if "\0R" in path:
        path = path.replace("\0R", draw(_references))
    return _Target(path, methods)


_VALUES: dict[str, st.SearchStrategy[str]] = {
    "n": st.sampled_from(_NUMBERS),
    "limit": st.sampled_from(_NUMBERS),
    "page": st.sampled_from(_NUMBERS),
    "digest": _references,
    "mount": _references,
    "from": _names,
    "scope": st.builds("repository:{}:{}".format, _names, st.sampled_from(["pull", "*", ""])),
    "Content-Type": st.sampled_from(_MEDIA[:1] * 5 + _MEDIA),
    "Range": st.builds("bytes={}-{}".format, *[st.sampled_from(_NUMBERS)] * 2),
    "Content-Range": st.builds("{}-{}".format, *[st.sampled_from(_NUMBERS)] * 2),
    "Authorization": st.sampled_from(
        [
            "Basic YW5uYTphOnNlY3JldA==",
            "Basic",
            "Basic ====",
            "Bearer x",
            "Bearer a.b.c",
            "",
            "\xff",
        ]
    ),
    "Accept": st.sampled_from(_MEDIA),
    "Expect": st.sampled_from(["100-continue", "x"]),
}
_anything = st.sampled_from(_OUT + _NUMBERS) | _text()


def _pairs(names: list[str]) -> st.SearchStrategy[list[tuple[str, str]]]:
    """Parameters, or header fields."""
    pair = st.sampled_from(names).flatmap(
        lambda name: st.tuples(st.just(name), _VALUES.get(name, _anything))
    )
    return st.lists(pair, max_size=3)


_QUERY = (
    "n last digest mount from tag artifactType q page limit digest-algorithm service scope "
    "account offline_token client_id ns sort platform"
).split()
_HEADERS = (
    "Accept Authorization Content-Range Content-Type Cookie Expect If-Match If-Modified-Since "
    "If-None-Match If-Range Origin Range Upgrade X-Forwarded-For X-Forwarded-Proto"
).split()


_plain = st.none() | st.booleans() | st.integers() | st.floats() | _anything
_json = st.recursive(
    _plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_anything, inner, max_size=3),
    max_leaves=4,
)
_known = st.sampled_from(
    [
        {"mediaType": kind, "digest": digest, "size": len(data)}
        for data, digest in zip(BLOBS, DIGESTS, strict=True)
        for kind in (_MEDIA[0], _MEDIA[5])
    ]
)
_descriptors = (
    _known
    | st.fixed_dictionaries(
        {},
        optional={
            "mediaType": st.sampled_from(_MEDIA),
            "digest": _references,
            "size": st.integers() | _plain,
            "urls": st.lists(_anything, max_size=2) | _plain,
            "annotations": st.dictionaries(_anything, _plain, max_size=2),
            "platform": st.dictionaries(
                st.sampled_from(["os", "architecture", "variant"]), _plain, max_size=3
            ),
            "data": _anything,
        },
    )
    | _plain
)


@st.composite
def _manifests(draw: st.DrawFn) -> bytes:
    kind = draw(st.integers(0, 11))
    if kind == 0:
        return b"[" * draw(st.sampled_from([10, 5000, 200_000]))
    if kind == 1:
        depth = draw(st.sampled_from([100, 1000, 100_000]))
        return b'{"config":' * depth + b"1" + b"}" * depth
    if kind == 2:
        return b'{"schemaVersion":2,"x":"' + b"x" * draw(st.sampled_from([100, _LARGEST])) + b'"}'
    value: dict[str, Any] = {"schemaVersion": 2}
    value["mediaType"] = draw(st.sampled_from(_MEDIA))
    lists = st.lists(_descriptors, max_size=3)
    if kind > 7:
        # It would be taken, but for one place.
        value["mediaType"] = _MEDIA[0]
        value["config"] = draw(_known)
        value["layers"] = draw(st.lists(_known, max_size=3))
        if kind > 9:
            return json.dumps(value).encode()
    elif draw(st.booleans()):
        value["config"] = draw(_descriptors)
        value["layers"] = draw(lists | _json)
    else:
        value["manifests"] = draw(lists | _json)
    for name in draw(st.sets(st.sampled_from(["subject", "annotations", "artifactType", "blobs"]))):
        value[name] = draw(_descriptors)
    for name in draw(st.sets(st.sampled_from(sorted(value)), max_size=1)):
        value[name] = draw(_json)
    data = json.dumps(value).encode("utf-8", "surrogatepass")
    return data[: len(data) // 2] if kind == 3 else data


@st.composite
def requests(draw: st.DrawFn) -> Made:
    """Mostly well-formed; a field may be anything, a length may lie."""
    path, methods = draw(_targets())
    method = draw(st.sampled_from(methods * 4 + _METHODS))
    body = b""
    if method in ("PUT", "POST", "PATCH"):
        body = draw(_manifests() | st.sampled_from(BLOBS))
    pairs = draw(_pairs(_QUERY))
    if "/uploads/" in path and draw(st.booleans()):
        pairs.append(("digest", sha256(body)))
    query = "&".join(f"{name}={value}" for name, value in pairs)
    target = f"{path}?{query}" if query else path
    fields = draw(_pairs(_HEADERS))
    length = draw(st.sampled_from([""] * 20 + ["+1", "-1", "x", "9" * 20, "chunked", "chunked"]))
    if length == "chunked":
        fields.append(("Transfer-Encoding", "chunked"))
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if draw(st.booleans()) else body
    elif body or length:
        said = {"": len(body), "+1": len(body) + 1, "-1": max(0, len(body) - 1)}.get(length, length)
        fields.append(("Content-Length", str(said)))
    version = draw(st.sampled_from(["1.1"] * 30 + ["1.0", "2.0"]))
    if draw(st.integers(0, 19)):
        target = quote(target, safe="/?&=%:+,;@!$'()*~#[]")
    lines = [f"{method} {_wire(target)} HTTP/{version}", "Host: fuzz"]
    lines += [f"{name}: {_wire(value, ' ')}" for name, value in fields]
    lines += ["User-Agent: hypothesis", "Connection: close", "", ""]
    return Made(method, "\r\n".join(lines).encode("utf-8", "surrogatepass"), body, version)


def _wire(text: str, more: str = "") -> str:
    """As bytes of a head may be: without what would end the line or the target."""
    return "".join(c for c in text if c > " " or c in more)


class Fuzzer:
    """One registry, and what there is in it to hit. ``place`` holds its root and a secret."""

    def __init__(self, place: Path, *options: str) -> None:
        self.place = place
        (place / "secret").write_text(SECRET)
        self.house = House(place / "root", *options).start()
        self.statuses: dict[int, int] = {}
        self._seeded = False
        self._before = self._beside()

    def seed(self) -> None:
        self._seeded = True
        for repository in KNOWN:
            for data in BLOBS:
                self.house.put_blob(repository, data)
            self.house.push(repository, TAGS[0], *BLOBS)

    def _beside(self) -> set[str]:
        return {path.name for path in self.place.iterdir()}

    def send(self, made: Made) -> None:
        """Raises AssertionError for an answer that should not be."""
        if self._seeded and UPLOAD.encode() in made.head:
            upload = self.house.begin(KNOWN[0]).rpartition("/")[2]
            made = made._replace(head=made.head.replace(UPLOAD.encode(), upload.encode()))
        with socket.create_connection(("127.0.0.1", self.house.port), timeout=_DEADLINE) as sock:
            try:
                sock.sendall(made.head + made.body)
                sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # it has answered before it had read all, and closed
            response = http.client.HTTPResponse(sock, method=made.method)
            try:
                response.begin()
                status, body = response.status, response.read()
            except (
                ConnectionError,
                http.client.IncompleteRead,
                http.client.BadStatusLine,
            ) as error:
                # A connection may be cut; a server may not be gone.
                assert self.house.process is not None
                assert self.house.process.poll() is None, (made, error)
                assert self.house.request("GET", "/healthz").status == 200, (made, error)
                return
        self.statuses[status] = self.statuses.get(status, 0) + 1
        fine = status < 500 or (status == 505 and made.version == "2.0")
        assert fine, (made, status, body[:1000])
        assert SECRET.encode() not in body, made
        if status >= 400 and made.method != "HEAD" and b" /v2/" in made.head.split(b"\r\n")[0]:
            errors = json.loads(body)["errors"]
            assert errors[0]["code"], made
            assert isinstance(errors[0]["message"], str), made

    def memory(self) -> int:
        """The most that the process ever had."""
        assert self.house.process is not None
        text = Path(f"/proc/{self.house.process.pid}/status").read_text()
        match = re.search(r"VmHWM:\s*(\d+) kB", text)
        assert match is not None
        return int(match[1]) << 10

    def close(self) -> None:
        """Raises AssertionError for what is left that should not be."""
        try:
            assert self._beside() == self._before
            assert self.memory() < MEMORY
            for path in (self.house.root / "blobs").glob("*/*/*"):
                assert re.fullmatch(r"[0-9a-f]{64,128}\.[0-9a-f]+", path.name), path
            for path in (self.house.root / "uploads").iterdir():
                assert re.fullmatch(r"[0-9a-f]+", path.name), path
            log = self.house.log.read_text()
            assert "request crashed" not in log, log[-4000:]
            assert "Traceback" not in log, log[-4000:]
            assert self.house.tool("fsck").stdout == "clean\n"
        finally:
            self.house.close()


@contextlib.contextmanager
def two(directory: str | Path) -> Iterator[tuple[Fuzzer, Fuzzer]]:
    """An open registry with something in it, and an empty one where one has to log in."""
    with contextlib.ExitStack() as stack:
        place = Path(tempfile.mkdtemp(prefix="registry-fuzz-", dir=directory))
        stack.callback(shutil.rmtree, place)
        htpasswd(place / "accounts", anna="a:secret")
        for name in ("open", "guarded"):
            (place / name).mkdir()
        guard = ("--htpasswd", f"{place}/accounts", "--anonymous-pull", "--auth", "token")
        one = Fuzzer(place / "open")
        stack.callback(one.close)
        other = Fuzzer(place / "guarded", *guard)
        stack.callback(other.close)
        one.seed()
        yield one, other
