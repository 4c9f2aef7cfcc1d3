"""What a daemon weighs that stays for months."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.daemon_fixture import Daemon

pytestmark = pytest.mark.root

_IDLE = 22 * 1024
"""KiB of an idle daemon; it is about 17 MB."""


def _weight(pid: int) -> int:
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith("Pss:"))


def test_an_idle_daemon_is_small_and_has_no_openssl(daemon: Daemon) -> None:
    assert daemon.get("/_ping").status == 200
    maps = Path(f"/proc/{daemon.pid}/maps").read_text()
    assert "libssl" not in maps
    assert "libcrypto" not in maps
    assert _weight(daemon.pid) < _IDLE


def test_a_container_more_is_some_kilobytes_more(daemon: Daemon) -> None:
    for _ in range(5):
        daemon.create("true")
    before = _weight(daemon.pid)
    for _ in range(50):
        daemon.create("true")
    assert (_weight(daemon.pid) - before) / 50 < 100
    daemon.remove_all()
