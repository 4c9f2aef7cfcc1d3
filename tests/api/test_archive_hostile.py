"""Copies from containers that mean harm (CVE-2018-15664, CVE-2019-14271), and many at once."""

from __future__ import annotations

import bz2
import http.client
import io
import json
import lzma
import os
import sysconfig
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.api.busybox import import_image, tar_of
from tests.api.copying import get, image, members_raw, put, sleeping, stopped
from tests.daemon_fixture import Daemon

__all__ = ["image"]

pytestmark = pytest.mark.root


SWAP = """
cd /data; mkdir -p real; echo of the container >real/secret
while :; do
  rm -rf swapped 2>/dev/null; ln -s TARGET swapped 2>/dev/null
  rm -f swapped 2>/dev/null; mv real swapped 2>/dev/null; mv swapped real 2>/dev/null
  mkdir -p real; echo of the container >real/secret
done
"""


@pytest.mark.parametrize("state", ["in-root", "in-volume"])
def test_a_container_that_swaps_a_directory_for_a_link_all_the_time_cve_2018_15664(
    daemon: Daemon, tmp_path: Path, state: str
) -> None:
    """From inside, by a container's own shell: nothing of the machine comes out or is written."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("of the machine\n")
    # The same path leads somewhere inside the container too, as a link there may.
    host = {"Binds": ["swapped:/data"]} if state == "in-volume" else {}
    script = SWAP.replace("TARGET", str(outside))
    container = daemon.run("sh", "-c", script, Image="cp:1", HostConfig=host)
    seen: set[bytes] = set()
    written = tar_of({"swapped": None, "swapped/secret": b"written", "swapped/new": b"w"})
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        for path in ("/data", "/data/swapped/", "/data/swapped/secret"):
            try:
                answer = get(daemon, container, path)
            except http.client.HTTPException:
                continue  # a file became shorter while it was read
            if answer.status == 200:
                seen |= set(members_raw(answer).values())
        for path in ("/data", "/data/swapped"):
            put(daemon, container, path, written)
    assert seen and b"of the machine\n" not in seen
    assert (outside / "secret").read_text() == "of the machine\n"
    assert os.listdir(outside) == ["secret"]


def test_nothing_is_imported_from_a_container_cve_2019_14271(daemon: Daemon) -> None:
    """An image that brings a library of Python's own, at the paths ours has, is not believed."""
    library = sysconfig.get_paths()["stdlib"].lstrip("/")
    evil = b"open('/sampan-imported', 'w').close()\n"
    entries: dict[str, Any] = {}
    at = ""
    for part in library.split("/"):
        at = f"{at}/{part}" if at else part
        entries[at] = None
    for module in ("bz2.py", "lzma.py", "linecache.py", "tracemalloc.py", "encodings.py"):
        entries[f"{library}/{module}"] = evil
    import_image(daemon, "evil:1", entries)
    container = daemon.run("sleep", "100", Image="evil:1")
    for pack in (bz2.compress, lzma.compress):
        assert put(daemon, container, "/tmp", pack(tar_of({"f": b"x"}))).status == 200
    assert get(daemon, container, "/tmp/f").status == 200
    assert not os.path.exists("/sampan-imported")
    assert get(daemon, container, "/sampan-imported").status == 404
    maps = Path(f"/proc/{daemon.pid}/maps").read_text()
    assert "overlay" not in maps


def test_many_copies_at_once(daemon: Daemon) -> None:
    container = stopped(daemon)
    results: list[int] = []

    def work(number: int) -> None:
        data = tar_of({f"f{number}": os.urandom(200_000)})
        results.append(put(daemon, container, "/tmp", data).status)
        results.append(get(daemon, container, f"/tmp/f{number}").status)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert results == [200] * 24
    daemon.post(f"/containers/{container}/start")
    daemon.wait(container)


def test_many_copies_of_one_file_at_once(daemon: Daemon) -> None:
    """Each of them is whole, and the last one stays."""
    container = stopped(daemon)
    results: set[tuple[int, str]] = set()

    def work(number: int) -> None:
        data = tar_of({"same": bytes([number]) * 1000})
        for _ in range(15):
            answer = put(daemon, container, "/tmp", data)
            results.add((answer.status, answer.message if answer.status != 200 else ""))

    workers = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert results == {(200, "")}
    with tarfile.open(fileobj=io.BytesIO(get(daemon, container, "/tmp/same").body)) as archive:
        (member,) = archive.getmembers()
        file = archive.extractfile(member)
        assert file is not None
        content = file.read()
    assert content == content[:1] * 1000
    daemon.delete(f"/containers/{container}")


def test_an_events_listener_hears_of_copies(daemon: Daemon) -> None:
    begin = time.time()
    container = sleeping(daemon)
    put(daemon, container, "/tmp", tar_of({"f": b""}))
    get(daemon, container, "/tmp")
    daemon.get(f"/containers/{container}/export")
    filters = json.dumps({"container": [container]})
    lines = daemon.get("/events", since=begin, until=time.time(), filters=filters).body
    actions = [json.loads(line)["Action"] for line in lines.splitlines()]
    assert actions[2:] == ["extract-to-dir", "archive-path", "export"]
