"""Copies that do not come to an end: clients vanish, containers start or go, disks are full."""

from __future__ import annotations

import gzip
import http.client
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from sampan.engine.archive import GRACE
from tests.api.busybox import tar_of
from tests.api.copying import get, image, members, members_raw, memory, put, sleeping, stopped
from tests.daemon_fixture import Daemon

__all__ = ["image"]

pytestmark = pytest.mark.root


def descriptors(daemon: Daemon) -> int:
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


def raw(daemon: Daemon, head: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(60)
    sock.connect(daemon.socket)
    sock.sendall(head.encode())
    return sock


@pytest.mark.parametrize("running", [True, False])
def test_a_client_that_vanishes_leaves_nothing(daemon: Daemon, running: bool) -> None:
    container = sleeping(daemon) if running else stopped(daemon)
    large = tar_of({"large": os.urandom(8 << 20)})
    assert put(daemon, container, "/tmp", large).status == 200
    before = descriptors(daemon)
    url = f"/v1.51/containers/{container}/archive?path=/tmp"
    for _ in range(3):
        reading = raw(daemon, f"GET {url} HTTP/1.1\r\nHost: x\r\n\r\n")
        assert reading.recv(1000).startswith(b"HTTP/1.1 200")
        reading.close()
        head = f"PUT {url} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(large)}\r\n\r\n"
        writing = raw(daemon, head)
        writing.sendall(large[: 1 << 20])
        writing.close()
    daemon.wait_for(lambda: descriptors(daemon) <= before)
    daemon.wait_for(lambda: not any("sampan-copy" in name for name in thread_names(daemon)))
    assert get(daemon, container, "/data/file").status == 200
    # What was cut off in its middle is not there by halves.
    answer = get(daemon, container, "/tmp/large")
    assert answer.status == 404 or len(members_raw(answer)["large"]) == 8 << 20


def thread_names(daemon: Daemon) -> list[str]:
    found = []
    for task in Path(f"/proc/{daemon.pid}/task").iterdir():
        try:
            found.append((task / "comm").read_text())
        except OSError:
            continue
    return found


def test_an_error_is_told_to_a_client_that_sends_no_more(daemon: Daemon) -> None:
    container = sleeping(daemon)
    bad = tar_of({"../evil": b""})
    head = (
        f"PUT /containers/{container}/archive?path=/tmp HTTP/1.1\r\nHost: x\r\n"
        "Content-Length: 100000000\r\n\r\n"
    )
    sock = raw(daemon, head)
    sock.sendall(bad)
    answer = sock.recv(4000)
    assert answer.startswith(b"HTTP/1.1 400")
    sock.close()


def test_a_start_waits_for_a_copy_and_then_cuts_it_off(
    daemon: Daemon, tmp_path_factory: pytest.TempPathFactory
) -> None:
    container = stopped(daemon)
    assert put(daemon, container, "/tmp", tar_of({"large": bytes(8 << 20)})).status == 200
    sock = raw(daemon, f"GET /containers/{container}/archive?path=/tmp HTTP/1.1\r\nHost: x\r\n\r\n")
    assert sock.recv(1000).startswith(b"HTTP/1.1 200")
    begin = time.monotonic()
    assert daemon.post(f"/containers/{container}/start").status == 204
    assert GRACE - 1 < time.monotonic() - begin < GRACE + 4
    received = 0
    while data := sock.recv(1 << 20):
        received += len(data)
    assert received < 8 << 20
    sock.close()
    daemon.wait(container)


def test_a_removal_does_not_wait(daemon: Daemon) -> None:
    container = sleeping(daemon)
    assert put(daemon, container, "/tmp", tar_of({"large": bytes(8 << 20)})).status == 200
    sock = raw(daemon, f"GET /containers/{container}/archive?path=/tmp HTTP/1.1\r\nHost: x\r\n\r\n")
    assert sock.recv(1000).startswith(b"HTTP/1.1 200")
    assert daemon.delete(f"/containers/{container}", force=1).status == 204
    while sock.recv(1 << 20):
        pass
    sock.close()
    daemon.wait_for(lambda: not any("sampan-copy" in name for name in thread_names(daemon)))


def test_a_volume_stays_where_it_is_for_a_copy_that_outlives_its_container(
    daemon: Daemon,
) -> None:
    """What is put into a volume lands there, though the container ends meanwhile."""
    container = sleeping(daemon, HostConfig={"Binds": ["kept:/v"]})
    data = tar_of({"first": b"1", "large": bytes(4 << 20), "last": b"2"})
    head = (
        f"PUT /containers/{container}/archive?path=/v HTTP/1.1\r\nHost: x\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    sock = raw(daemon, head)
    sock.sendall(data[: 1 << 20])
    volume = daemon.data_root / "volumes/kept/_data"
    daemon.wait_for((volume / "first").exists)
    daemon.post(f"/containers/{container}/kill")
    sock.sendall(data[1 << 20 :])
    assert sock.recv(4000).startswith(b"HTTP/1.1 200")
    sock.close()
    assert {path.name for path in volume.iterdir()} == {"first", "large", "last"}


def test_a_full_disk_is_said_and_leaves_no_half_file(daemon: Daemon) -> None:
    container = sleeping(daemon, HostConfig={"Tmpfs": {"/t": "size=1m"}})
    answer = put(daemon, container, "/t", tar_of({"small": b"x", "large": bytes(2 << 20)}))
    assert answer.status == 500
    assert "no space left on device while copying large" in answer.message
    assert members(get(daemon, container, "/t")) == {"t": "", "t/small": "x"}


def test_a_bomb_is_contained(daemon: Daemon) -> None:
    """A few kilobytes that say they are a terabyte fill what the container may fill, and no more;
    and none of it the daemon's memory."""
    container = sleeping(daemon, HostConfig={"Tmpfs": {"/t": "size=8m"}})
    data = bytearray(gzip.compress(tar_of({"bomb": bytes(64 << 20)})))
    before = memory(daemon)
    answer = put(daemon, container, "/t", bytes(data))
    assert (answer.status, "no space left" in answer.message) == (500, True)
    assert memory(daemon) - before < 48 << 20
    for name in ("../../etc/passwd", "a/../../x"):
        assert put(daemon, container, "/t", tar_of({name: b"evil"})).status == 400
    links = tar_of({"l": "/../../../../etc", "l/sampan-evil": b"evil"})
    assert put(daemon, container, "/t", links).status == 200
    assert not os.path.exists("/etc/sampan-evil")
    assert get(daemon, container, "/etc/sampan-evil").status == 200


def test_a_killed_daemon_leaves_no_view(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)
    try:
        daemon.start()
        container = daemon.create("true")
        head = f"GET /containers/{container}/archive?path=/usr HTTP/1.1\r\nHost: x\r\n\r\n"
        sock = raw(daemon, head)
        assert sock.recv(1000).startswith(b"HTTP/1.1 200")
        daemon.stop(signal.SIGKILL)
        with pytest.raises((ConnectionError, http.client.HTTPException, AssertionError)):
            while sock.recv(1 << 20):
                pass
            raise ConnectionError
        sock.close()
        daemon.start()
        assert daemon.post(f"/containers/{container}/start").status == 204
        assert daemon.wait(container) == 0
    finally:
        daemon.close()
