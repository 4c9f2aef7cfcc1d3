"""Collection and fsck: what goes, what stays, why, and what is said of damage."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.registry.registries import sha256
from tests.registry.server.house import House


@pytest.fixture
def brief(root: Path) -> Iterator[House]:
    """A registry without leases, that collects only when it is told to."""
    one = House(root, "--lease", "0", "--collect-every", "0").start()
    yield one
    one.close()


def collected(house: House, *options: str) -> str:
    done = house.tool("gc", *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def clean(house: House) -> None:
    done = house.tool("fsck")
    assert (done.returncode, done.stdout) == (0, "clean\n"), done.stdout + done.stderr


def test_what_no_manifest_uses_goes_and_the_rest_stays(brief: House) -> None:
    digest = brief.push("gc/one", "v", b"kept")
    loose = brief.put_blob("gc/one", b"loose")
    brief.put_blob("gc/two", b"loose")
    said = collected(brief)
    assert f"removed blob {loose} from gc/one" in said
    assert f"removed blob {loose}, 5 bytes: no repository has it" in said
    assert said.endswith("5 bytes were freed\n")
    assert brief.request("HEAD", f"/v2/gc/one/blobs/{loose}").status == 404
    assert loose not in brief.blob_files()
    assert brief.request("GET", f"/v2/gc/one/blobs/{sha256(b'kept')}").body == b"kept"
    assert brief.request("GET", f"/v2/gc/one/manifests/{digest}").status == 200
    assert collected(brief) == "0 bytes were freed\n"
    clean(brief)


def test_deleted_then_collected_then_pushed_again(brief: House) -> None:
    for _ in range(3):
        digest = brief.push("gc/again", "v", b"layer")
        assert brief.request("DELETE", f"/v2/gc/again/manifests/{digest}").status == 202
        collected(brief)
        assert brief.blob_files() == []
        assert brief.request("GET", "/v2/_catalog").json()["repositories"] == []
    brief.push("gc/again", "v", b"layer")
    collected(brief)
    assert brief.request("GET", f"/v2/gc/again/blobs/{sha256(b'layer')}").body == b"layer"
    clean(brief)


def test_a_blob_that_another_repository_has_stays(brief: House) -> None:
    brief.push("gc/a", "v", b"shared")
    digest = brief.push("gc/b", "v", b"shared")
    assert brief.request("DELETE", f"/v2/gc/b/manifests/{digest}").status == 202
    assert collected(brief).endswith("\n0 bytes were freed\n")
    assert brief.request("GET", f"/v2/gc/a/blobs/{sha256(b'shared')}").body == b"shared"
    assert brief.request("GET", f"/v2/gc/b/blobs/{sha256(b'shared')}").status == 404


def test_a_download_is_not_cut_short(brief: House) -> None:
    data = os.urandom(30_000_000)  # more than any socket's buffers
    digest = brief.put_blob("gc/down", data)
    connection = brief.connect()
    connection.request("GET", f"/v2/gc/down/blobs/{digest}")
    response = connection.getresponse()
    first = response.read(1000)
    assert digest in collected(brief)
    assert brief.blob_files() == []
    assert first + response.read() == data
    connection.close()


def test_leases_keep_what_somebody_was_told_is_there(root: Path) -> None:
    house = House(root, "--collect-every", "0").start()
    try:
        loose = house.put_blob("gc/lease", b"loose")
        digest = house.push("gc/lease", "v", b"layer")
        assert house.request("DELETE", f"/v2/gc/lease/manifests/{digest}").status == 202
        assert collected(house) == "0 bytes were freed\n"
        # An hour later: only what was asked for meanwhile has a lease again.
        with sqlite3.connect(root / "registry.db") as database:
            database.execute("UPDATE links SET leased = leased - 3590")
        database.close()
        assert house.request("HEAD", f"/v2/gc/lease/blobs/{loose}").status == 200
        with sqlite3.connect(root / "registry.db") as database:
            database.execute("UPDATE links SET leased = leased - 60")
        database.close()
        collected(house)
        assert house.blob_files() == [loose]
        clean(house)
    finally:
        house.close()


def test_a_dry_run_removes_nothing_and_accounts_for_each_byte(brief: House) -> None:
    brief.push("gc/dry", "v", b"x" * 1000)
    loose = brief.put_blob("gc/dry", b"y" * 300)
    where = brief.begin("gc/dry")
    assert brief.request("PATCH", where, b"z" * 70).status == 202
    files = brief.blob_files()
    said = collected(brief, "--dry-run")
    sizes = {line.split("  ")[-1]: int(line.split()[0]) for line in said.splitlines()[:6]}
    there = sum(path.stat().st_size for path in brief.root.glob("*/**/*") if path.is_file())
    assert sum(sizes.values()) == there
    assert sizes["uploads under way"] == 70
    assert sizes["blobs that nothing uses"] == 300
    assert f"would remove blob {loose}, 300 bytes: no repository has it" in said
    assert said.endswith("\n300 bytes would be freed\n")
    assert brief.blob_files() == files
    assert collected(brief).endswith("\n300 bytes were freed\n")


def test_uploads_expire(brief: House) -> None:
    where = brief.begin("gc/upload")
    assert brief.request("PATCH", where, b"abc").status == 202
    assert collected(brief) == "0 bytes were freed\n"
    said = collected(brief, "--upload-age", "0")
    assert "3 bytes: nothing came for" in said
    assert brief.request("GET", where).codes == ["BLOB_UPLOAD_UNKNOWN"]
    assert brief.request("PATCH", where, b"d").codes == ["BLOB_UPLOAD_UNKNOWN"]
    assert list((brief.root / "uploads").iterdir()) == []


def test_bytes_of_nobody_go(brief: House) -> None:
    (brief.root / "uploads" / ("a" * 32)).write_bytes(b"abc")
    place = brief.root / "blobs" / "sha256" / "ab"
    place.mkdir(parents=True)
    (place / f"ab{'0' * 62}.{'b' * 32}").write_bytes(b"defg")
    assert collected(brief).endswith("\n7 bytes were freed\n")
    assert list(place.iterdir()) == []


def test_a_blob_that_was_sealed_and_not_linked_is_linked_by_the_same_request(brief: House) -> None:
    """Died between the rename and the transaction: the file has its key, the upload its row."""
    where = brief.begin("gc/sealed")
    assert brief.request("PATCH", where, b"sealed").status == 202
    brief.kill()
    identifier = where.rpartition("/")[2]
    digest = sha256(b"sealed")
    place = brief.root / "blobs" / "sha256" / digest[7:9]
    place.mkdir(parents=True)
    (brief.root / "uploads" / identifier).rename(place / f"{digest[7:]}.{identifier}")
    assert collected(brief) == "0 bytes were freed\n"
    brief.start()
    assert brief.request("PUT", f"{where}?digest={digest}").status == 201
    assert brief.request("GET", f"/v2/gc/sealed/blobs/{digest}").body == b"sealed"
    assert collected(brief, "--dry-run").endswith("\n6 bytes would be freed\n")


def test_the_server_collects_by_itself(root: Path) -> None:
    house = House(root, "--lease", "0", "--collect-every", "50ms").start()
    try:
        house.put_blob("gc/self", b"loose")
        deadline = time.monotonic() + 60
        while house.blob_files():
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        house.close()


# -- fsck ----------------------------------------------------------------------------------------


def _file(house: House, data: bytes) -> Path:
    (found,) = (house.root / "blobs").glob(f"*/*/{sha256(data)[7:]}.*")
    return found


def test_a_corrupt_blob_is_set_aside_told_and_healed_by_the_next_push(brief: House) -> None:
    brief.push("fsck/one", "v", b"layer")
    image = brief.image("fsck/two", b"layer", b"more")
    brief.put_manifest("fsck/two", "w", image)
    path = _file(brief, b"layer")
    path.chmod(0o600)
    path.write_bytes(b"lAyer")
    quick = brief.tool("fsck", "--quick")
    assert quick.stdout == "clean\n"
    done = brief.tool("fsck")
    assert done.returncode == 1
    assert f"blob {sha256(b'layer')}: its bytes are those of {sha256(b'lAyer')}" in done.stdout
    assert "  hurts fsck/one:v\n  hurts fsck/two:w\n1 problems\n" in done.stdout
    assert [path.read_bytes() for path in (brief.root / "quarantine").iterdir()] == [b"lAyer"]
    blob = f"/v2/fsck/one/blobs/{sha256(b'layer')}"
    assert brief.request("GET", blob).codes == ["BLOB_UNKNOWN"]
    assert brief.request("HEAD", blob).status == 404
    again = brief.tool("fsck")
    assert again.returncode == 1
    assert "were lost before: push it again\n  hurts fsck/one:v" in again.stdout
    brief.put_blob("fsck/one", b"layer")
    assert brief.request("GET", blob).body == b"layer"
    assert brief.request("GET", blob.replace("/one/", "/two/")).body == b"layer"
    clean(brief)


def test_missing_and_short_bytes_are_told(brief: House) -> None:
    brief.push("fsck/lost", "v", b"layer", b"other")
    _file(brief, b"layer").unlink()
    short = _file(brief, b"other")
    short.chmod(0o600)
    short.write_bytes(b"oth")
    assert brief.request("GET", f"/v2/fsck/lost/blobs/{sha256(b'layer')}").status == 404
    done = brief.tool("fsck", "--quick")
    assert f"blob {sha256(b'layer')}: its bytes are missing\n  hurts fsck/lost:v" in done.stdout
    assert f"blob {sha256(b'other')}: it has 3 bytes, not 5; set aside as" in done.stdout


def test_rows_that_disagree_are_told(brief: House) -> None:
    digest = brief.push("fsck/rows", "v", b"layer")
    brief.stop()
    database = sqlite3.connect(brief.root / "registry.db")
    database.execute("UPDATE blobs SET links = links + 1 WHERE digest = ?", (sha256(b"layer"),))
    database.execute("DELETE FROM uses WHERE blob = (SELECT min(blob) FROM uses)")
    database.execute("UPDATE documents SET data = CAST(data || ' ' AS BLOB)")
    database.commit()
    database.close()
    said = brief.tool("fsck").stdout
    assert f"blob {sha256(b'layer')} counts 2 links and has 1" in said
    assert f"manifest {digest}: its bytes are wrong\n  hurts fsck/rows:v" in said


def test_there_must_be_a_registry(root: Path) -> None:
    for command in ("gc", "fsck"):
        done = House(root).tool(command)
        assert done.returncode == 1
        assert f"there is no registry in {root}" in done.stderr
