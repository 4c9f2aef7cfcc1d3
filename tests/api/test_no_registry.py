"""A registry that is not there is said at once, by every command that asks one: no first word to it
is tried again, and a name that there is not never is."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon_fixture import Daemon, own_root
from tests.image.archives import docker_save
from tests.storage.drivers.layers import layer

pytestmark = pytest.mark.root

NOWHERE = "nosuch.invalid"  # RFC 2606: never a name, whatever the resolver knows
TOO_LONG = f"{'a' * 64}.example"  # RFC 1035, 2.3.4: a label has 63 octets at most


@pytest.fixture(scope="module")
def closed() -> Iterator[str]:
    """An address at which nobody answers: the port is taken, and not listened on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture(scope="module")
def daemon(quick: Path) -> Iterator[Daemon]:
    """One that asks itself, and no proxy."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("NO_PROXY", "*")
        found = Daemon(own_root(quick))
        try:
            yield found.start()
        finally:
            found.close()


@pytest.fixture(params=["closed", NOWHERE, TOO_LONG])
def absent(request: pytest.FixtureRequest, closed: str) -> tuple[str, tuple[str, ...]]:
    """The address, and the words that say what is wrong with it, one of which is right."""
    if request.param == "closed":
        return closed, ("connect: connection refused",)
    host = request.param
    said = f"lookup {host}: "
    # Whether a machine without a resolver knows that there is no such name, it says itself.
    words = (f"{said}no such host", f"{said}temporary failure in name resolution")
    return host, words[: 1 if host == TOO_LONG else 2]


def test_it_is_said_at_once(daemon: Daemon, absent: tuple[str, tuple[str, ...]]) -> None:
    host, words = absent
    said = []
    loaded = docker_save([layer({"a": b"b"})], [f"{host}/one:1"])
    assert daemon.request("POST", "/images/load", loaded).status == 200
    pushed = daemon.post(f"/images/{host}/one/push", tag="1")
    told = [json.loads(line) for line in pushed.body.splitlines()]
    assert [one for one in told if "Retrying" in one.get("status", "")] == []
    said.append(told[-1]["error"])
    for answer in (
        daemon.post("/images/create", fromImage=f"{host}/one", tag="1"),
        daemon.get("/images/search", term=f"{host}/one"),
        daemon.post("/auth", {"username": "a", "password": "b", "serveraddress": host}),
        daemon.get(f"/distribution/{host}/one:1/json"),
    ):
        assert answer.status >= 400, answer.body
        said.append(answer.message)
    for text in said:
        assert any(one in text for one in words), text


def test_a_log_s_server_whose_name_can_be_none(daemon: Daemon) -> None:
    options = {"Type": "syslog", "Config": {"syslog-address": f"udp://{TOO_LONG}:514"}}
    container = daemon.create("true", HostConfig={"LogConfig": options})
    answer = daemon.post(f"/containers/{container}/start")
    assert (answer.status, "can be no host's name" in answer.message) == (400, True), answer.body
