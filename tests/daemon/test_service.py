"""The daemon as a service: sockets handed over, states told, signals answered, figures served."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.daemon_fixture import Daemon, own_root

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root


@pytest.fixture
def root(quick: Path) -> Path:
    return own_root(quick)


@pytest.fixture
def own(root: Path) -> Iterator[Daemon]:
    one = Daemon(root)
    try:
        yield one
    finally:
        one.close()


def configured(own: Daemon, text: dict[str, Any]) -> Path:
    path = own.root / "daemon.json"
    path.write_text(json.dumps(text))
    own.options = ("--config-file", str(path))
    return path


class Listener:
    """What NOTIFY_SOCKET hears."""

    def __init__(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind("")
        self.sock.settimeout(60)
        self.name = "@" + self.sock.getsockname()[1:].decode()

    def hear(self, word: str) -> list[str]:
        """Wait for a message with ``word``; its lines."""
        while True:
            lines = self.sock.recv(4096).decode().split("\n")
            if word in lines:
                return lines


def test_states_are_told_and_the_watchdog_is_fed(own: Daemon) -> None:
    listener = Listener()
    process = own.spawn(NOTIFY_SOCKET=listener.name, WATCHDOG_USEC="200000")
    assert f"MAINPID={process.pid}" in listener.hear("READY=1")
    moments = [time.monotonic() for _ in range(4) if listener.hear("WATCHDOG=1")]
    assert moments[-1] - moments[0] < 0.2 * 3
    process.send_signal(signal.SIGHUP)
    lines = listener.hear("RELOADING=1")
    assert any(line.startswith("MONOTONIC_USEC=") for line in lines)
    listener.hear("READY=1")
    process.send_signal(signal.SIGTERM)
    listener.hear("STOPPING=1")
    assert process.wait(60) == 0


ACTIVATE = """
import os, socket, sys
path = sys.argv[1]
sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
sock.bind(path + ".new")
sock.listen(5)
os.rename(path + ".new", path)
os.dup2(sock.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="api")
os.execv(sys.executable, [sys.executable, "-m", "sampan.daemon", *sys.argv[2:]])
"""


@pytest.mark.parametrize("host", ["fd://", "fd://3", "fd://api"])
def test_a_socket_that_was_handed_over_is_served_and_stays(own: Daemon, host: str) -> None:
    listener = Listener()
    with own.log.open("ab") as log:
        own._process = subprocess.Popen(
            [sys.executable, "-c", ACTIVATE, own.socket, "-H", host, "--data-root",
             str(own.data_root), "--exec-root", str(own.exec_root), "--cgroup-parent", own.cgroup],
            stdout=log, stderr=log, env={**os.environ, "NOTIFY_SOCKET": listener.name},
        )  # fmt: skip
    # A client that came before the daemon waits for it.
    own.wait_for(lambda: os.path.exists(own.socket))
    assert own.get("/_ping").body == b"OK"
    listener.hear("READY=1")
    environment = Path(f"/proc/{own.zygotes()[0]}/environ").read_bytes()
    assert b"LISTEN" not in environment
    assert b"NOTIFY" not in environment
    assert own.wait(own.run("true")) == 0
    own.remove_all()
    assert own.stop() == 0
    assert os.path.exists(own.socket)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, "no such socket was passed"),
        ({"LISTEN_FDS": "1", "LISTEN_PID": "1"}, "no such socket was passed"),
        ({"LISTEN_FDS": "x"}, "LISTEN_FDS=x: not a number"),
        ({"LISTEN_FDS": "900"}, "descriptor"),
    ],
)
def test_a_socket_that_was_not_handed_over_is_named(
    root: Path, environment: dict[str, str], words: str
) -> None:
    one = Daemon(root, "-H", "fd://")
    try:
        assert one.spawn(**environment).wait(60) == 1
        assert words in one.log.read_text()
    finally:
        one.close()


def test_a_reload_takes_up_what_may_change(own: Daemon) -> None:
    path = configured(own, {"labels": ["a=1"], "max-concurrent-downloads": 2, "log-opts": {}})
    own.start()
    assert own.get("/info").json()["Labels"] == ["a=1"]
    events: list[dict[str, Any]] = []

    def listen() -> None:
        answer = own.get("/events", until=int(time.time()) + 3, filters='{"type":["daemon"]}')
        events.extend(json.loads(line) for line in answer.body.splitlines())

    listening = threading.Thread(target=listen)
    listening.start()
    own.wait_for(lambda: own.get("/info").json()["NEventsListener"] == 1)
    path.write_text(json.dumps({"labels": ["a=2"], "log-opts": {"max-size": "1m"}}))
    os.kill(own.pid, signal.SIGHUP)
    own.wait_for(lambda: own.get("/info").json()["Labels"] == ["a=2"])
    said = own.log.read_text()
    assert 'msg="these take a new start of the daemon to change" keys=log-opts' in said
    path.write_text('{"labels": 5}')
    os.kill(own.pid, signal.SIGHUP)
    own.wait_for(lambda: "labels: expected a list of texts" in own.log.read_text())
    assert own.get("/info").json()["Labels"] == ["a=2"]
    listening.join()
    assert [(event["Type"], event["Action"]) for event in events] == [("daemon", "reload")]
    attributes = events[0]["Actor"]["Attributes"]
    assert attributes["labels"] == '["a=2"]'
    assert attributes["max-concurrent-downloads"] == "3"


def test_defaults_of_containers_are_theirs(own: Daemon) -> None:
    configured(
        own,
        {
            "log-opts": {"max-size": "1m", "max-file": "2"},
            "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 77, "Hard": 99}},
            "default-shm-size": "8m",
            "no-new-privileges": True,
            "init": True,
            "dns": ["192.0.2.7"],
            "dns-search": ["example.org"],
        },
    )
    own.start()
    script = (
        "ulimit -n; stat -f -c '%b %S' /dev/shm; grep NoNewPrivs /proc/self/status;"
        "cat /etc/resolv.conf; cat /proc/1/comm"
    )
    container = own.run("sh", "-c", script)
    assert own.wait(container) == 0
    said = own.logs(container)
    lines = said.splitlines()
    assert lines[0] == "77"
    blocks, size = map(int, lines[1].split())
    assert blocks * size == 8 * 1024 * 1024
    assert lines[2].split() == ["NoNewPrivs:", "1"]
    assert "nameserver 192.0.2.7" in lines
    assert "search example.org" in lines
    assert lines[-1] != "sh"
    shown = own.get(f"/containers/{container}/json").json()["HostConfig"]
    assert shown["LogConfig"] == {
        "Type": "json-file",
        "Config": {"max-size": "1m", "max-file": "2"},
    }
    asked = own.run("sh", "-c", "ulimit -n; grep NoNew /proc/self/status; cat /proc/1/comm",
                    HostConfig={"Ulimits": [{"Name": "nofile", "Soft": 50, "Hard": 60}],
                                "SecurityOpt": ["no-new-privileges=false"],
                                "Init": False})  # fmt: skip
    own.wait(asked)
    assert own.logs(asked).split() == ["50", "NoNewPrivs:", "0", "sh"]


def test_proxies_are_told_without_their_passwords(own: Daemon) -> None:
    own.options = ("--https-proxy", "http://me:secret@proxy.example:1", "--no-proxy", "a,b")
    process = own.spawn(HTTP_PROXY="http://you:hidden@other.example/")
    own.wait_for(lambda: os.path.exists(own.socket))
    info = own.get("/info").json()
    assert info["HttpsProxy"] == "http://xxxxx:xxxxx@proxy.example:1"
    assert info["HttpProxy"] == "http://xxxxx:xxxxx@other.example/"
    assert info["NoProxy"] == "a,b"
    assert process.poll() is None


def test_the_log_is_json_where_that_is_asked_for(own: Daemon) -> None:
    own.options = ("--log-format", "json")
    own.start()
    own.get("/containers/no\nsuch/json".replace("\n", "%0A"))
    entries = [json.loads(line) for line in own.log.read_text().splitlines()]
    assert {entry["msg"] for entry in entries} >= {"listening", "request refused"}
    assert all(re.fullmatch(r"[\d-]+T[\d:.]+Z", entry["time"]) for entry in entries)
    refused = next(entry for entry in entries if entry["msg"] == "request refused")
    assert (refused["level"], refused["path"]) == ("debug", "/containers/no\nsuch/json")


def test_stacks_are_written_when_asked_for(own: Daemon) -> None:
    own.start()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.connect(own.socket)
    listener.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
    assert listener.recv(100).startswith(b"HTTP/1.1 200 ")
    os.kill(own.pid, signal.SIGUSR1)
    own.wait_for(lambda: list(own.exec_root.glob("tasks-*.log")))
    (path,) = own.exec_root.glob("tasks-*.log")
    own.wait_for(lambda: "threads" in path.read_text())
    assert path.stat().st_mode & 0o777 == 0o600
    text = path.read_text()
    assert "events.py" in text
    assert "Current thread" in own.log.read_text()
    assert own.get("/_ping").status == 200
    listener.close()


def test_metrics_are_served_where_asked_for(own: Daemon) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own.options = ("--metrics-addr", f"127.0.0.1:{port}")
    own.start()
    check = {"Test": ["CMD", "false"], "Interval": 50_000_000, "Retries": 1}
    sick = own.run("sleep", "600", Healthcheck=check)
    own.wait(own.run("true"))
    own.wait_for(lambda: own.state(sick)["Health"]["Status"] == "unhealthy")

    def get(path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", path)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, text

    assert get("/containers/json")[0] == 404
    status, text = get("/metrics")
    assert status == 200
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert values['engine_daemon_container_states_containers{state="running"}'] == "1"
    assert values['engine_daemon_container_states_containers{state="stopped"}'] == "1"
    assert values['engine_daemon_container_actions_seconds_count{action="start"}'] == "2"
    assert values['sampan_api_requests_total{method="POST",status="204"}'] == "2"
    assert int(values["engine_daemon_events_total"]) >= 5
    assert int(values["engine_daemon_health_checks_failed_total"]) >= 1
    named = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    for line in text.splitlines():
        if not line.startswith("#"):
            name = re.split(r"[{ ]", line)[0]
            assert re.sub("_(bucket|sum|count)$", "", name) in named


def test_a_request_that_is_not_answered_yet_is_waited_for_and_a_stream_is_cut(own: Daemon) -> None:
    own.start()
    stubborn = own.run("sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
    answers: dict[str, int] = {}

    def stop() -> None:
        answers["stop"] = own.post(f"/containers/{stubborn}/stop", t=3).status

    def follow() -> None:
        try:
            own.get(f"/containers/{stubborn}/logs", stdout=1, follow=1)
        except (http.client.HTTPException, OSError):
            answers["logs"] = 0

    threads = [threading.Thread(target=one) for one in (stop, follow)]
    for one in threads:
        one.start()
    # The stop is on its way when it has sent its signal, which this container does not take.
    own.wait_for(lambda: own.get("/events", since=1, until=time.time()).body.count(b'"kill"'))
    assert own.stop() == 0
    for one in threads:
        one.join(60)
    assert answers == {"stop": 204, "logs": 0}
    own.start()


def test_checking_a_configuration_starts_nothing(own: Daemon) -> None:
    path = configured(own, {"debug": True})
    command = [sys.executable, "-m", "sampan.daemon", "--validate", "--config-file", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "configuration OK\n")
    path.write_text('{"debugs": true}')
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "debugs: no such configuration option" in done.stderr


def test_a_shells_limit_of_descriptors_is_neither_its_own_nor_its_containers(own: Daemon) -> None:
    own.wrapper = ("prlimit", "--nofile=256:8192")
    own.start()
    limits = Path(f"/proc/{own.pid}/limits").read_text()
    assert re.search(r"Max open files +8192 +8192", limits)
    container = own.run("sh", "-c", "ulimit -Sn; ulimit -Hn")
    assert own.wait(container) == 0
    assert own.logs(container) == "1024\n8192\n"
