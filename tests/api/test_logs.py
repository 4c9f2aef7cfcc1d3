"""Logs through the API: streams, the last lines, times, following, and every driver."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon_fixture import DOCKER, Daemon

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
    connection.sock.settimeout(60)
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


def log_config(driver: str, **options: str) -> dict[str, Any]:
    config = {name.replace("_", "-"): value for name, value in options.items()}
    return {"LogConfig": {"Type": driver, "Config": config}}


def follow(daemon: Daemon, container: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.settimeout(60)
    connection.sock.connect(daemon.socket)
    connection.request("GET", f"/containers/{container}/logs?stdout=1&follow=1")
    return connection.getresponse()


def test_the_local_driver_rotates_compresses_and_is_read_as_one(daemon: Daemon) -> None:
    """Lines that are read together stay together, so each waits until the last is written."""
    config = log_config("local", max_size="1", max_file="4")
    command = "for i in 1 2 3 4; do echo $i; read x; done; printf end"
    container = daemon.create("sh", "-c", command, OpenStdin=True, HostConfig=config)
    daemon.post(f"/containers/{container}/start")
    with attach_input(daemon, container) as feeder:
        for number in range(1, 5):
            daemon.wait_for(lambda line=f"{number}\n": line in daemon.logs(container))
            feeder.sendall(b"\n")
        daemon.wait(container)
    place = daemon.data_root / "containers" / container / "local-logs"
    names = sorted(path.name for path in place.iterdir())
    assert names == ["container.log", *(f"container.log.{n}.gz" for n in (1, 2, 3))]
    assert daemon.logs(container) == "2\n3\n4\nend"
    assert daemon.logs(container, tail=3) == "3\n4\nend"
    assert daemon.get(f"/containers/{container}/json").json()["LogPath"] == ""


def test_following_goes_on_over_rotation_and_the_daemons_death(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path).start()
    try:
        config = log_config("json-file", max_size="1k", max_file="3", compress="true")
        command = "i=0; while read x; do for k in `seq 9`; do echo $i $k; done; i=$((i+1)); done"
        container = daemon.create(
            "sh", "-c", command, OpenStdin=True, HostConfig=config, name="rotating"
        )
        daemon.post(f"/containers/{container}/start")
        feeder = attach_input(daemon, container)
        response = follow(daemon, container)
        expected = b""
        for number in range(15):
            feeder.sendall(b"\n")
            for k in range(1, 10):
                text = b"%d %d\n" % (number, k)
                assert response.read(8 + len(text))[8:] == text
                expected += text
        daemon.kill()
        feeder.sendall(b"\n")
        daemon.start()
        daemon.wait_for(lambda: "15 9\n" in daemon.logs(container))
        lines = daemon.logs(container).splitlines()
        assert lines[-1] == "15 9"
        response = follow(daemon, container)
        assert response.read(8 + len(lines[0]) + 1)[8:].decode() == lines[0] + "\n"
        response.close()
        feeder.close()
    finally:
        daemon.close()


def attach_input(daemon: Daemon, container: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(60)
    sock.connect(daemon.socket)
    sock.sendall(
        f"POST /containers/{container}/attach?stream=1&stdin=1 HTTP/1.1\r\nHost: x\r\n"
        "Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n".encode()
    )
    head = b""
    while b"\r\n\r\n" not in head:
        head += sock.recv(4096)
    return sock


def test_details_times_and_tags_are_dockers(daemon: Daemon) -> None:
    config = log_config("json-file", tag="{{.Name}}/{{.ID}}", labels="one,two", env="V")
    container = daemon.run(
        "echo", "hi", HostConfig=config, Labels={"one": "a b", "three": "x"}, Env=["V=1,2"],
        name="tagged",
    )  # fmt: skip
    daemon.wait(container)
    details = f"V=1%2C2,one=a+b,tag=tagged%2F{container[:12]} hi\n"
    assert daemon.logs(container, details=1) == details
    both = daemon.logs(container, details=1, timestamps=1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z ", both[: both.index(" ") + 1])
    assert both.endswith(f"Z {details}")
    path = daemon.data_root / "containers" / container / f"{container}-json.log"
    assert json.loads(path.read_text())["attrs"]["tag"] == f"tagged/{container[:12]}"


@contextlib.contextmanager
def syslogd(kind: socket.SocketKind) -> Iterator[tuple[str, list[bytes]]]:
    """A server that listens; its address, and the messages it got."""
    received: list[bytes] = []
    server = socket.socket(socket.AF_INET, kind)
    server.bind(("127.0.0.1", 0))
    server.settimeout(60)
    port = server.getsockname()[1]
    if kind == socket.SOCK_STREAM:
        server.listen()

    def serve() -> None:
        with contextlib.suppress(OSError):
            if kind == socket.SOCK_DGRAM:
                while True:
                    received.append(server.recv(65536))
            connection, _ = server.accept()
            with connection, connection.makefile("rb") as lines:
                received.extend(lines)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    scheme = "tcp" if kind == socket.SOCK_STREAM else "udp"
    try:
        yield f"{scheme}://127.0.0.1:{port}", received
    finally:
        # What is still in the socket was sent before this.
        server.settimeout(0.1)
        thread.join(1)
        server.close()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
def test_syslog_gets_each_line_and_logs_are_read_from_the_copy(
    daemon: Daemon, kind: socket.SocketKind
) -> None:
    with syslogd(kind) as (address, received):
        config = log_config(
            "syslog", syslog_address=address, syslog_facility="local3", tag="{{.Name}}"
        )
        config["LogConfig"]["Config"]["syslog-format"] = "rfc3164"
        command = "echo one; echo; echo two >&2; printf three"
        container = daemon.run("sh", "-c", command, HostConfig=config)
        name = daemon.get(f"/containers/{container}/json").json()["Name"][1:]
        daemon.wait(container)
        daemon.wait_for(lambda: len(received) == 3)
    host = os.uname().nodename
    stamp = r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d"
    texts = {}
    for message in received:
        match = re.fullmatch(rf"<(\d+)>{stamp} {host} {name}\[\d+\]: (\w+)\n", message.decode())
        assert match is not None, message
        texts[match[2]] = int(match[1])
    # Facility 19, severities informational and error.
    assert texts == {"one": 158, "two": 155, "three": 158}
    assert sorted(daemon.logs(container).split()) == ["one", "three", "two"]


def test_a_syslog_server_that_is_not_there_is_the_starts_error(daemon: Daemon) -> None:
    config = log_config("syslog", syslog_address="tcp://127.0.0.1:1")
    container = daemon.create("true", HostConfig=config)
    answer = daemon.post(f"/containers/{container}/start")
    assert answer.status == 503
    assert answer.message == (
        "failed to initialize logging driver: the syslog server at tcp://127.0.0.1:1 cannot be "
        "reached: Connection refused"
    )
    assert daemon.leftovers(container) == []


def test_without_a_copy_a_log_that_was_sent_cannot_be_read(daemon: Daemon) -> None:
    with syslogd(socket.SOCK_DGRAM) as (address, _):
        config = log_config("syslog", syslog_address=address, cache_disabled="true")
        container = daemon.run("echo", "x", HostConfig=config)
        daemon.wait(container)
    answer = daemon.get(f"/containers/{container}/logs", stdout=1)
    assert (answer.status, answer.message) == (
        501,
        "configured logging driver does not support reading",
    )


def test_a_container_waits_for_a_syslog_server_that_is_gone_for_a_while(daemon: Daemon) -> None:
    listener = socket.socket(socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    port = listener.getsockname()[1]
    config = log_config("syslog", syslog_address=f"tcp://127.0.0.1:{port}")
    container = daemon.create(
        "sh", "-c", "echo first; read x; seq 3000", OpenStdin=True, HostConfig=config
    )
    daemon.post(f"/containers/{container}/start")
    feeder = attach_input(daemon, container)
    connection, _ = listener.accept()
    assert b"first" in connection.recv(4096)
    connection.close()
    listener.close()
    feeder.sendall(b"\n")
    time.sleep(1)
    assert daemon.state(container)["Status"] in ("running", "exited")
    listener = socket.socket(socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    listener.settimeout(60)
    connection, _ = listener.accept()
    with connection, connection.makefile("rb") as lines:
        numbers = [int(line.split()[-1]) for line in lines]
    listener.close()
    feeder.close()
    assert numbers == list(range(1, 3001))
    assert daemon.wait(container) == 0


def test_only_a_container_that_must_wait_waits_for_a_server_that_takes_nothing(
    daemon: Daemon,
) -> None:
    """``mode=non-blocking``: it runs on, and what had no room is dropped."""
    with socket.socket(socket.AF_INET) as listener:
        # What is sent stays in the kernel's buffers, of which there are few.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        script = "seq 2000000; touch /tmp/through; sleep 600"
        containers = {}
        for mode in ("non-blocking", "blocking"):
            options = {"syslog_address": address, "mode": mode}
            if mode == "non-blocking":
                options["max_buffer_size"] = "64k"
            config = log_config("syslog", **options)
            containers[mode] = daemon.run("sh", "-c", script, HostConfig=config)
        marks = {
            mode: Path(f"/proc/{daemon.state(container)['Pid']}/root/tmp/through")
            for mode, container in containers.items()
        }
        daemon.wait_for(marks["non-blocking"].exists)
        time.sleep(0.5)
        assert not marks["blocking"].exists()
        # The last lines of both are waited for: they are taken now.
        drains = [threading.Thread(target=drain, args=(listener,)) for _ in containers]
        for thread in drains:
            thread.start()
        for container in containers.values():
            daemon.delete(f"/containers/{container}", force=1)
        for thread in drains:
            thread.join(60)


def drain(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        while connection.recv(1 << 20):
            pass


@pytest.mark.peer
@pytest.mark.skipif(not DOCKER, reason="needs the docker client")
def test_the_real_client_reads_logs(daemon: Daemon) -> None:
    made = daemon.docker(
        "run", "-d", "--network=none", "--log-driver=local", "--log-opt=max-size=1m", "host",
        "sh", "-c", "echo one; echo two >&2; echo three",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    name = made.stdout.strip()
    daemon.wait(name)
    shown = daemon.docker("logs", "--tail", "2", name)
    assert shown.returncode == 0
    assert len((shown.stdout + shown.stderr).splitlines()) == 2
    stamped = daemon.docker("logs", "-t", "--since", "1h", name)
    assert re.search(r"^\d{4}-.*\.\d{9}Z three$", stamped.stdout, re.MULTILINE)
    assert daemon.docker("logs", "--until", "1h", name).stdout == ""
    refused = daemon.docker("run", "--log-driver=gelf", "--network=none", "host", "true")
    assert refused.returncode == 125
    assert "no log driver named 'gelf' is registered" in refused.stderr


@pytest.mark.peer
def test_docker_py_reads_and_follows_line_by_line(daemon: Daemon) -> None:
    import docker  # not everywhere where tests are collected

    client = docker.DockerClient(base_url=daemon.host)
    container = client.containers.run(
        "host", ["sh", "-c", "echo one; echo two >&2; echo three"], detach=True,
        network_mode="none",
    )  # fmt: skip
    container.wait()
    assert sorted(container.logs().splitlines()) == [b"one", b"three", b"two"]
    assert container.logs(stderr=False, tail=3) == b"one\nthree\n"
    assert list(container.logs(stream=True, follow=True, stdout=True, stderr=False)) == [
        b"one\n",
        b"three\n",
    ]
    client.close()


def test_clients_that_vanish_while_they_follow_leave_nothing(daemon: Daemon) -> None:
    container = daemon.run("sh", "-c", "while :; do echo noise; done")
    before = len(os.listdir(f"/proc/{daemon.pid}/fd"))
    for _ in range(20):
        response = follow(daemon, container)
        response.read(1000)
        response.close()
    daemon.wait_for(lambda: len(os.listdir(f"/proc/{daemon.pid}/fd")) <= before + 1)
    daemon.delete(f"/containers/{container}", force=1)
