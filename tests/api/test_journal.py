"""The log driver journald: entries with their fields, and what is said where there is no journal.

The daemon has a ``/run`` of its own, so that neither this machine's journal nor another run of
these tests is in the way.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon_fixture import Daemon, own_root

pytestmark = pytest.mark.root

_OWN_RUN = (
    'mount -t tmpfs none /run && mkdir /run/systemd && ln -s "$0" /run/systemd/journal && exec "$@"'
)


@pytest.fixture
def place(quick: Path) -> Iterator[Path]:
    """The directory that the daemon takes for the journal's."""
    place = own_root(quick)
    yield place
    shutil.rmtree(place)


@pytest.fixture
def daemon(quick: Path, place: Path) -> Iterator[Daemon]:
    one = Daemon(own_root(quick))
    one.wrapper = ("unshare", "-m", "sh", "-ec", _OWN_RUN, str(place))
    try:
        yield one.start()
    finally:
        one.close()


def test_journald_gets_entries_with_their_fields_or_says_that_it_is_absent(
    daemon: Daemon, place: Path
) -> None:
    config = {"Type": "journald", "Config": {"labels": "role", "tag": "app-{{.Name}}"}}
    container = daemon.create(
        "sh", "-c", "echo out; echo err >&2",
        name="journal", HostConfig={"LogConfig": config}, Labels={"role": "web"},
    )  # fmt: skip
    answer = daemon.post(f"/containers/{container}/start")
    assert "journald is not enabled on this host" in answer.message
    entries: dict[str, Any] = {}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(place / "socket"))
        journal.settimeout(60)
        assert daemon.post(f"/containers/{container}/start").status == 204
        for _ in range(2):
            lines = journal.recv(65536).decode().splitlines()
            fields = dict(line.split("=", 1) for line in lines)
            entries[fields["MESSAGE"]] = fields
    assert entries["out"]["PRIORITY"] == "6"
    assert entries["err"]["PRIORITY"] == "3"
    assert entries["out"]["CONTAINER_ID_FULL"] == container
    assert entries["out"]["CONTAINER_NAME"] == "journal"
    assert entries["out"]["CONTAINER_TAG"] == "app-journal"
    assert entries["out"]["ROLE"] == "web"
    daemon.wait(container)
    assert sorted(daemon.logs(container).split()) == ["err", "out"]
