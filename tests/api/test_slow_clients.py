"""Clients that do not take what a container said, and who else waits for that: nobody."""

from __future__ import annotations

import pytest

from tests.api.test_streams import attach, texts
from tests.daemon_fixture import Daemon

pytestmark = pytest.mark.root

SIZE = 500_000
"""More than a socket's buffer takes, less than a container has to wait for."""


def test_who_has_not_taken_the_last_output_holds_up_no_other_start(daemon: Daemon) -> None:
    container = daemon.create("head", "-c", str(SIZE), "/dev/zero")
    slow = attach(daemon, container, "stream=1&stdout=1")
    assert daemon.post(f"/containers/{container}/start").status == 204
    assert daemon.wait(container) == 0
    assert daemon.post(f"/containers/{container}/start").status == 204
    assert daemon.wait(container) == 0
    assert len(texts(slow.rest(), 1)) == SIZE
    assert daemon.delete(f"/containers/{container}").status == 204
