"""A registry whose blobs are in a bucket of a real S3 server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from sampan.errors import Conflict, InvalidArgument
from sampan.registry.server.backends import Where
from sampan.registry.server.errors import Unreachable
from sampan.registry.server.place import Place
from sampan.registry.server.storage.bucket import parse
from tests.registry.registries import sha256
from tests.registry.server.buckets import Bucket, Faulty
from tests.registry.server.house import House

DATA = os.urandom(9_000_000)
"""A part, and something behind it."""


def house_at(root: Path, address: str, *options: str) -> House:
    house = House(root, "--lease", "0", "--collect-every", "0", *options)
    house.where = (*house.where, "--storage", address)
    return house


class Stored(NamedTuple):
    """A registry without leases; ``before`` are the keys of those who were here earlier."""

    house: House
    folder: Path
    before: frozenset[str]

    def keys(self) -> dict[str, Path]:
        return objects(self.folder, self.before)


def objects(folder: Path, before: frozenset[str] = frozenset()) -> dict[str, Path]:
    """Files of what is stored, by key."""
    found = {path.name: path for path in (folder / "data").glob("[0-9a-f]*")}
    return {key: path for key, path in found.items() if key not in before}


@pytest.fixture(scope="module")
def serving(quick: Path, bucket: Bucket) -> Iterator[tuple[House, Path]]:
    place = Path(tempfile.mkdtemp(prefix="registry-", dir=quick))
    one = house_at(place / "root", bucket.address(place.name)).start()
    yield one, bucket.folder(place.name)
    one.close()
    shutil.rmtree(place)


@pytest.fixture
def stored(serving: tuple[House, Path]) -> Stored:
    return Stored(*serving, frozenset(objects(serving[1])))


def test_blobs_are_pushed_to_the_bucket_and_fetched_from_it(stored: Stored) -> None:
    house = stored.house
    house.push("s3/box", "v", b"small", DATA)
    digest = sha256(DATA)
    path = f"/v2/s3/box/blobs/{digest}"
    assert house.fetch(path) == DATA
    assert house.fetch(path, Range="bytes=8999990-") == DATA[-10:]
    head = house.request("HEAD", path)
    assert (head.status, head.headers["Content-Length"]) == (200, str(len(DATA)))
    assert house.fetch(f"/v2/s3/box/blobs/{sha256(b'small')}") == b"small"
    # One object a blob, the configuration's among them, and nothing beside.
    assert len(stored.keys()) == 3
    assert list((house.root / "spool").iterdir()) == []
    # Pushed once more it is the same blob.
    house.put_blob("s3/other", DATA)
    assert len(stored.keys()) == 3
    assert house.tool("fsck").stdout == "clean\n"


def test_a_client_follows_to_the_bucket(stored: Stored, tmp_path: Path) -> None:
    house = stored.house
    digest = house.push("s3/skopeo", "v", DATA)
    source = f"docker://127.0.0.1:{house.port}/s3/skopeo:v"
    plain = ("--src-tls-verify=false", source, f"dir:{tmp_path}/image")
    subprocess.run(["skopeo", "copy", "-q", *plain], check=True, timeout=60)
    assert sha256((tmp_path / "image" / "manifest.json").read_bytes()) == digest
    assert (tmp_path / "image" / sha256(DATA)[7:]).read_bytes() == DATA


def test_a_push_goes_on_after_the_server_was_killed(stored: Stored) -> None:
    house = stored.house
    data = os.urandom(9_000_000)
    where = house.begin("s3/kill")
    for begin, end in ((0, 100), (100, 8_500_000), (8_500_000, 8_600_000)):
        answer = house.request("PATCH", where, data[begin:end])
        assert (answer.status, answer.headers["Range"]) == (202, f"0-{end - 1}")
    house.kill()
    house.start()
    assert house.request("GET", where).headers["Range"] == "0-8599999"
    assert house.request("PATCH", where, data[8_600_000:]).status == 202
    house.kill()
    house.start()
    assert house.request("PUT", f"{where}?digest={sha256(data)}").status == 201
    assert house.fetch(f"/v2/s3/kill/blobs/{sha256(data)}") == data
    assert house.tool("gc").returncode == 0
    assert stored.keys() == {}


def test_wrong_bytes_are_no_blob_and_leave_nothing(stored: Stored) -> None:
    house = stored.house
    for data in (b"wrong", DATA):
        where = house.begin("s3/wrong")
        answer = house.request("PUT", f"{where}?digest={sha256(b'right')}", data)
        assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])
    where = house.begin("s3/wrong")
    assert house.request("PATCH", where, DATA).status == 202
    assert house.request("DELETE", where).status == 204
    assert stored.keys() == {}
    assert "0 bytes in        0  uploads under way" in house.tool("gc", "--dry-run").stdout


def test_a_collection_accounts_for_the_bucket_and_clears_it(stored: Stored) -> None:
    house = stored.house
    digest = house.push("s3/gc", "v", b"x" * 1000)
    house.put_blob("s3/gc", b"y" * 300)
    assert house.request("PATCH", house.begin("s3/gc"), DATA).status == 202
    said = house.tool("gc", "--dry-run").stdout
    sizes = {line.split("  ")[-1]: int(line.split()[0]) for line in said.splitlines()[:6]}
    assert sizes["blobs that nothing uses"] == 300
    there = sum(path.stat().st_size for path in objects(stored.folder).values())
    # Of the upload the bucket's own listing has the part, and the object with the rest.
    assert sum(sizes.values()) == there + (8 << 20), said
    assert house.request("DELETE", f"/v2/s3/gc/manifests/{digest}").status == 202
    assert house.tool("gc", "--upload-age", "0").returncode == 0
    assert stored.keys() == {}


def test_a_corrupt_blob_is_set_aside_and_healed(root: Path, bucket: Bucket) -> None:
    folder = bucket.folder(root.parent.name)
    house = house_at(root, bucket.address(root.parent.name), "--no-redirect").start()
    try:
        house.push("s3/fsck", "v", b"layer")
        key, path = next(one for one in objects(folder).items() if one[1].stat().st_size == 5)
        path.write_bytes(b"lAyer")
        done = house.tool("fsck")
        assert done.returncode == 1
        assert f"blob {sha256(b'layer')}: its bytes are those of {sha256(b'lAyer')}" in done.stdout
        assert "hurts s3/fsck:v" in done.stdout
        blob = f"/v2/s3/fsck/blobs/{sha256(b'layer')}"
        assert house.request("GET", blob).codes == ["BLOB_UNKNOWN"]
        house.put_blob("s3/fsck", b"layer")
        # Without redirects the bytes come through the server, in parts too.
        assert house.request("GET", blob).body == b"layer"
        assert house.request("GET", blob, Range="bytes=1-2").body == b"ay"
        assert house.tool("gc").returncode == 0
        assert path.read_bytes() == b"lAyer"
        assert [path.name for path in (folder / "quarantine").iterdir()] == [key]
    finally:
        house.close()


def test_a_bucket_that_fails_loses_nothing_that_was_acknowledged(
    root: Path, bucket: Bucket
) -> None:
    faulty = Faulty(bucket.endpoint)
    house = house_at(root, bucket.address(root.parent.name, faulty.endpoint)).start()
    try:
        kept = house.push("s3/fail", "kept", b"kept")
        where = house.begin("s3/fail")
        assert house.request("PATCH", where, DATA[:1000]).status == 202
        for mode in ("503", "cut"):
            faulty.be(mode)
            before = faulty.failed
            answer = house.request("PATCH", where, DATA[1000:])
            assert (answer.status, answer.codes) == (503, ["UNAVAILABLE"])
            assert faulty.failed > before
        faulty.be("503")
        assert house.request("GET", "/readyz").status == 503
        assert house.request("GET", "/v2/s3/fail/manifests/kept").status == 200
        faulty.be("")
        assert house.request("GET", "/readyz").status == 200
        # It goes on where it was when somebody was last told.
        assert house.request("GET", where).headers["Range"] == "0-999"
        digest = sha256(DATA)
        assert house.request("PUT", f"{where}?digest={digest}", DATA[1000:]).status == 201
        assert house.fetch(f"/v2/s3/fail/blobs/{digest}") == DATA
        assert house.request("GET", f"/v2/s3/fail/manifests/{kept}").status == 200
        assert house.tool("fsck").stdout == "clean\n"
    finally:
        house.close()
        faulty.close()


def opened(root: Path, storage: str = "") -> None:
    Place(Where(str(root), storage), serving=True).close()


def test_another_registrys_bucket_is_refused(root: Path, bucket: Bucket) -> None:
    address = bucket.address(root.parent.name)
    opened(root, address)
    opened(root, address)
    with pytest.raises(Conflict, match="is another registry's"):
        opened(root.parent / "other", address)
    with pytest.raises(Conflict, match="are in a bucket: say which by --storage"):
        opened(root)
    local = House(root.parent / "local").start()
    local.put_blob("a", b"layer")
    local.close()
    with pytest.raises(Conflict, match="has blobs of its own"):
        opened(local.root, bucket.address("elsewhere"))


def test_what_cannot_begin_says_why(
    root: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unreachable, match="cannot reach the bucket: 404"):
        opened(root, bucket.address("x").replace("//bucket/", "//missing/"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(Unreachable, match="cannot reach the bucket: 403"):
        opened(root, bucket.address("x"))
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    with pytest.raises(InvalidArgument, match=r"pip install 'sampan\[s3\]'"):
        opened(root, bucket.address("x"))


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("bucket", "expected s3://BUCKET"),
        ("s3://key:secret@bucket", "expected s3://BUCKET"),
        ("s3://bucket/../x", "expected s3://BUCKET"),
        ("s3://x", r'"x" is no bucket.s name: it has 3 to 63 lower-case'),
        ("s3://", '"" is no bucket.s name'),
        ("s3://Bucket/x", '"Bucket" is no bucket.s name'),
        ("s3://bucket-", "begins and ends with a letter or a digit"),
        ("s3://two..dots", "no two dots in a row"),
        ("s3://127.0.0.1/x", "is no IP address"),
        ("s3://" + "b" * 64, "is no bucket.s name"),
        ("s3://bucket?acl=public", "there is no acl"),
        ("s3://bucket?endpoint=here", "expected https://"),
    ],
)
def test_addresses_that_are_none(address: str, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why):
        parse(address)
