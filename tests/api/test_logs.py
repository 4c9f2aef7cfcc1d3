"""Logs: streams, the last lines, times, following, rotation, and a daemon that comes later."""

from __future__ import annotations

import http.client
import socket
import time

import pytest

from tests.daemon_fixture import Daemon

pytestmark = pytest.mark.root


def test_streams_can_be_chosen(daemon: Daemon) -> None:
    container = daemon.run("sh", "-c", "echo out; echo err >&2")
    daemon.wait(container)
    answer = daemon.get(f"/containers/{container}/logs", stderr=1)
    assert answer.body == b"\2\0\0\0\0\0\0\4err\n"
    assert answer.headers["Content-Type"] == "application/vnd.docker.multiplexed-stream"
    answer = daemon.get(f"/v1.41/containers/{container}/logs", stdout=1)
    assert answer.headers["Content-Type"] == "application/vnd.docker.raw-stream"
    answer = daemon.get(f"/containers/{container}/logs")
    assert answer.status == 400
    assert "choose at least one stream" in answer.message


@pytest.mark.parametrize(("tail", "first"), [(1, 20000), (10, 19991), (19999, 2), (99999, 1)])
def test_the_last_lines_are_found_from_the_end(daemon: Daemon, tail: int, first: int) -> None:
    container = _counting(daemon)
    lines = daemon.logs(container, tail=tail).splitlines()
    assert lines == [str(number) for number in range(first, 20001)]


_made: dict[str, str] = {}


def _counting(daemon: Daemon) -> str:
    if daemon.socket not in _made:
        _made[daemon.socket] = daemon.run("seq", "20000")
        daemon.wait(_made[daemon.socket])
    return _made[daemon.socket]


def test_rotated_files_are_one_log(daemon: Daemon) -> None:
    config = {"LogConfig": {"Type": "json-file", "Config": {"max-size": "20k", "max-file": "3"}}}
    container = daemon.run("seq", "1000", HostConfig=config)
    daemon.wait(container)
    lines = daemon.logs(container).splitlines()
    assert lines[-1] == "1000"
    assert lines == [str(number) for number in range(int(lines[0]), 1001)]
    directory = daemon.data_root / "containers" / container
    assert len(list(directory.glob("*-json.log*"))) == 3
    assert daemon.logs(container, tail=400).splitlines()[0] == "601"


def test_times_select_lines_and_are_shown(daemon: Daemon) -> None:
    container = daemon.run("sh", "-c", "echo a; sleep 1.2; echo b")
    daemon.wait(container)
    middle = time.time() - 0.7
    assert daemon.logs(container, since=f"{middle:.9f}") == "b\n"
    assert daemon.logs(container, until=f"{middle:.9f}") == "a\n"
    stamp, text = daemon.logs(container, timestamps=1, tail=1).split()
    assert text == "b"
    assert stamp.endswith("Z")
    assert stamp.startswith(time.strftime("%Y-", time.gmtime()))


def test_following_sees_each_line_as_it_comes_and_ends_with_the_container(daemon: Daemon) -> None:
    container = daemon.run("sh", "-c", "echo one; read x; echo two", OpenStdin=True)
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.settimeout(10)
    connection.sock.connect(daemon.socket)
    connection.request("GET", f"/containers/{container}/logs?stdout=1&follow=1")
    response = connection.getresponse()
    assert response.read(12)[8:] == b"one\n"
    daemon.delete(f"/containers/{container}", force=1)
    assert response.read() == b""
    connection.close()


def test_a_container_without_a_log_says_so(daemon: Daemon) -> None:
    container = daemon.run("echo", "x", HostConfig={"LogConfig": {"Type": "none"}})
    daemon.wait(container)
    answer = daemon.get(f"/containers/{container}/logs", stdout=1)
    assert answer.status == 501
    assert "does not support reading" in answer.message
