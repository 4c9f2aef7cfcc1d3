"""The daemon's start and end, and what does not end with it: containers.

Each test kills something with SIGKILL and looks at the whole machine afterwards: mounts, cgroups,
processes, directories.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sampan.kernel import cgroups
from tests.daemon_fixture import Daemon, own_root

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root


@pytest.fixture
def own(quick: Path) -> Iterator[Daemon]:
    """A daemon of this test's own, not started."""
    one = Daemon(own_root(quick))
    try:
        yield one
    finally:
        one.close()


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_it_is_ready_soon_and_ends_when_told(own: Daemon) -> None:
    before = time.monotonic()
    own.start()
    took = time.monotonic() - before
    # But for what it stood in line for the processor, behind whatever else this machine does.
    stood = int(Path(f"/proc/{own.pid}/schedstat").read_text().split()[1]) / 1e9
    # A third of a second on a quick machine.
    assert took - stood < 3, (took, stood)
    assert (own.exec_root / "sampan.pid").read_text() == str(own.pid)
    assert os.stat(own.socket).st_mode & 0o777 == 0o660
    zygotes = own.zygotes()
    assert len(zygotes) == 1
    assert own.stop() == 0
    assert not os.path.exists(own.socket)
    assert not (own.exec_root / "sampan.pid").exists()
    assert not alive(zygotes[0])


def test_two_daemons_of_one_data_root_refuse_each_other_by_name(own: Daemon) -> None:
    own.start()
    other = Daemon(own.root)
    other.socket = str(own.root / "other")
    other.host = f"unix://{other.socket}"
    assert other.spawn().wait(60) == 1
    said = own.log.read_text()
    assert f"data root {own.data_root} is in use by process {own.pid}" in said
    assert own.get("/_ping").status == 200


def test_a_socket_in_use_is_not_taken_and_a_stale_one_is(own: Daemon, tmp_path: Path) -> None:
    own.start()
    root = tmp_path / "e"
    root.mkdir()
    other = Daemon(root)
    other.host = own.host
    assert other.spawn().wait(60) == 1
    assert f"another program listens on {own.socket}" in other.log.read_text()
    other.close()
    own.kill()
    assert os.path.exists(own.socket)
    own.start()
    assert own.get("/_ping").status == 200


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--no-such-option",), "--no-such-option"),
        (("-H", "tcp://127.0.0.1:0"), "--insecure-tcp"),
        (("-H", "npipe:///x"), "npipe is not supported"),
        (("-H", "unix://relative"), "must be absolute"),
        (("--storage-driver", "zfs"), "zfs"),
        (("--group", "no-such-group"), "no such group"),
    ],
)
def test_bad_options_are_refused_by_name(
    tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    one = Daemon(tmp_path, *options)
    try:
        assert one.spawn().wait(60) == 1
        assert words in one.log.read_text()
    finally:
        one.close()


def test_who_is_not_root_is_told_what_to_do(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sampan.cli", "daemon", "--data-root", str(tmp_path / "data")],
        user=65534,
        group=65534,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "No module named" in done.stderr:
        pytest.skip("this source tree is root's alone")
    assert (done.returncode, "needs root: run it with sudo" in done.stderr) == (1, True)
    assert os.listdir(tmp_path) == []


def test_a_group_may_use_the_socket_and_nobody_else(own: Daemon) -> None:
    own.options += ("--group", "4242")
    own.start()
    status = os.stat(own.socket)
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, 4242, 0o660)
    directory = Path(own.socket).parent
    directory.chmod(0o711)
    # Through the working directory: what is above it need not be open to that user.
    ask = (
        "import os, socket, sys; os.setgroups([int(sys.argv[1])]); os.setresgid(7, 7, 7); "
        "os.setresuid(7, 7, 7); s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[2]); "
        "s.sendall(b'GET /_ping HTTP/1.0\\r\\n\\r\\n'); print(s.recv(99)[9:12].decode())"
    )

    def as_group(number: int) -> tuple[int, str]:
        words = [sys.executable, "-c", ask, str(number), Path(own.socket).name]
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=directory)
        return done.returncode, done.stdout.strip()

    assert as_group(4242) == (0, "200")
    assert as_group(4243)[0] != 0


def test_tcp_serves_when_it_was_asked_for_twice(tmp_path: Path) -> None:
    import http.client

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    one = Daemon(tmp_path, "-H", f"tcp://127.0.0.1:{port}", "--insecure-tcp")
    try:
        one.start()
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/_ping")
        assert connection.getresponse().read() == b"OK"
        connection.close()
    finally:
        one.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_containers_live_on_without_their_daemon(own: Daemon, number: int) -> None:
    own.start()
    ticking = own.run("sh", "-c", "i=0; while :; do echo $((i=i+1)); sleep 0.05; done")
    ending = own.run("sh", "-c", "sleep 0.3; echo last; exit 9")
    frozen = own.run("sleep", "600")
    own.post(f"/containers/{frozen}/pause")
    gone = own.create("sh", "-c", "sleep 0.3", HostConfig={"AutoRemove": True})
    own.post(f"/containers/{gone}/start")
    pid = own.state(ticking)["Pid"]
    instance = own.post(
        f"/containers/{ticking}/exec", {"Cmd": ["sh", "-c", "sleep 1; exit 4"]}
    ).json()["Id"]
    own.post(f"/exec/{instance}/start", {"Detach": True})
    own.stop(number)
    time.sleep(0.8)
    assert alive(pid)
    own.start()
    state = own.state(ticking)
    assert (state["Status"], state["Pid"]) == ("running", pid)
    own.wait_for(lambda: len(own.logs(ticking).splitlines()) > 10)
    own.wait_for(lambda: own.state(ending)["Status"] != "running")
    state = own.state(ending)
    assert (state["Status"], state["ExitCode"], state["Error"]) == ("exited", 9, "")
    assert own.logs(ending) == "last\n"
    assert own.state(frozen)["Status"] == "paused"
    assert own.post(f"/containers/{frozen}/unpause").status == 204
    own.wait_for(lambda: own.get(f"/containers/{gone}/json").status == 404)
    own.wait_for(lambda: own.get(f"/exec/{instance}/json").json()["ExitCode"] == 4)
    assert own.post(f"/containers/{ticking}/stop", t=1).status == 204
    assert own.delete(f"/containers/{frozen}", force=1).status == 204
    for container in (ticking, ending, frozen, gone):
        assert own.leftovers(container) == []


def test_a_container_whose_monitor_died_is_ended_and_reported_so(own: Daemon) -> None:
    own.start()
    other = own.run("sleep", "600")
    container = own.run("sh", "-c", "sleep 601 & sleep 602")
    pid = own.state(container)["Pid"]
    os.kill(own.monitor_of(container), signal.SIGKILL)
    own.wait_for(lambda: own.state(container)["Status"] == "exited")
    state = own.state(container)
    assert state["ExitCode"] == 137
    assert "monitor died" in state["Error"]
    assert not alive(pid)
    assert own.leftovers(container) == []
    assert own.state(other)["Running"]
    assert own.post(f"/containers/{container}/start").status == 204
    own.delete(f"/containers/{container}", force=1)


def test_a_monitor_that_died_while_nobody_watched_is_found(own: Daemon) -> None:
    own.start()
    container = own.run("sleep", "600")
    monitor, pid = own.monitor_of(container), own.state(container)["Pid"]
    own.kill()
    os.kill(monitor, signal.SIGKILL)
    own.start()
    state = own.state(container)
    assert (state["Status"], state["ExitCode"]) == ("exited", 137)
    assert "monitor died" in state["Error"]
    assert not alive(pid)
    assert own.leftovers(container) == []


def test_a_daemon_that_starts_while_a_monitor_ends_waits_for_what_that_has_to_say(
    own: Daemon, tmp_path: Path
) -> None:
    """The monitor lives as long as its log's server takes the last lines."""
    server = socket.socket(socket.AF_UNIX)
    server.settimeout(60)
    server.bind(str(tmp_path / "syslog"))
    server.listen()
    own.start()
    settings = {"syslog-address": f"unix://{tmp_path}/syslog", "mode": "non-blocking"}
    container = own.run(
        "sh",
        "-c",
        "seq 20000; exit 9",
        HostConfig={"LogConfig": {"Type": "syslog", "Config": settings}},
    )
    connection, _ = server.accept()
    connection.settimeout(60)
    pid = own.state(container)["Pid"]
    own.kill()
    own.wait_for(lambda: not alive(pid))

    def take_all() -> None:
        while connection.recv(65536):
            pass

    later = threading.Timer(0.7, take_all)
    later.start()
    try:
        own.start()
        own.wait_for(lambda: not own.state(container)["Running"])
        state = own.state(container)
        assert (state["Status"], state["ExitCode"], state["Error"]) == ("exited", 9, "")
    finally:
        later.join()
        connection.close()
        server.close()


def test_a_zygote_that_died_is_replaced_and_containers_do_not_notice(own: Daemon) -> None:
    own.start()
    container = own.run("sleep", "600")
    (zygote,) = own.zygotes()
    os.kill(zygote, signal.SIGKILL)
    second = own.run("echo", "again")
    assert own.wait(second) == 0
    assert own.state(container)["Running"]
    (another,) = own.zygotes()
    assert another != zygote


def test_a_daemon_killed_at_any_moment_of_a_life_leaves_nothing_half_done(own: Daemon) -> None:
    """The moments come by chance: lives are lived while the daemon is killed again and again."""
    own.start()
    own.run("sleep", "600", name="bystander")
    stop = threading.Event()
    lives = 0

    def live() -> None:
        nonlocal lives
        while not stop.is_set():
            try:
                container = own.create("true")
                own.post(f"/containers/{container}/start")
                own.wait(container)
                own.delete(f"/containers/{container}", force=1)
                lives += 1
            except (OSError, AssertionError, ValueError, KeyError):
                time.sleep(0.01)  # the daemon is away
            except Exception:  # noqa: BLE001 - whatever a cut connection looks like
                time.sleep(0.01)

    clients = [threading.Thread(target=live) for _ in range(2)]
    for client in clients:
        client.start()
    for pause in (0.31, 0.17, 0.23, 0.41, 0.29):
        time.sleep(pause)
        own.kill()
        own.start()
    stop.set()
    for client in clients:
        client.join(60)
    own.kill()
    own.start()
    assert lives > 0
    known = {item["Id"] for item in own.get("/containers/json", all=1).json()}
    assert own.state("bystander")["Running"]
    for item in own.get("/containers/json", all=1).json():
        if item["Names"] != ["/bystander"]:
            own.wait(item["Id"])
            assert own.delete(f"/containers/{item['Id']}", force=1).status == 204
    running = {own.get("/containers/bystander/json").json()["Id"]}
    own.wait_for(lambda: _names(own.data_root / "containers") == running)
    own.wait_for(lambda: _names(own.data_root / "overlay2" / "containers") <= running)
    own.wait_for(lambda: _names(own.exec_root / "containers") == running)
    for container in known - running:
        assert own.leftovers(container) == []


def test_a_daemon_that_stops_takes_its_empty_cgroup_along_and_no_other(own: Daemon) -> None:
    own.start()
    assert own.wait(own.run("true")) == 0
    own.remove_all()
    own.stop()
    parents = [f"{place}{own.cgroup}" for place in cgroups.detect().mounts.values()]
    assert [path for path in parents if os.path.exists(path)] == []
    own.start()
    own.run("sleep", "600")
    own.stop()
    assert [path for path in parents if not os.path.exists(path)] == []
    own.start()


def _names(directory: Path) -> set[str]:
    return set(os.listdir(directory)) if directory.is_dir() else set()


def test_a_start_whose_zygotes_die_before_it_begins_is_the_next_zygotes(own: Daemon) -> None:
    own.start()
    container = own.create("true")
    (zygote,) = own.zygotes()
    own.wait_for(lambda: makers(zygote))
    stopped = makers(zygote)
    for maker in stopped:
        os.kill(maker, signal.SIGSTOP)  # the request stays where it is
    answers: list[int] = []
    starting = threading.Thread(
        target=lambda: answers.append(own.post(f"/containers/{container}/start").status)
    )
    starting.start()
    time.sleep(0.2)
    for _ in range(3):
        os.kill(zygote, signal.SIGKILL)
        while stopped:
            with contextlib.suppress(ProcessLookupError):  # it may end with its zygote
                os.kill(stopped.pop(), signal.SIGKILL)
        living: list[int] = []
        while not living and starting.is_alive():
            living = [one for one in own.zygotes() if one != zygote]
            time.sleep(0.01)
        if not living:
            break  # The last one was quicker than we, and none is needed now.
        (zygote,) = living
    starting.join(60)
    assert answers == [204]
    assert own.wait(container) == 0
    assert own.leftovers(container) == []


def makers(zygote: int) -> list[int]:
    return [maker for monitor in children(zygote) for maker in children(monitor)]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize(
    ("request_line", "statuses"),
    [
        # Where there are two, the second is of who came when the death had been heard of.
        ("DELETE {}?force=1", {204}),
        ("POST {}/kill", {204, 409}),
        ("POST {}/stop", {204, 304}),
        ("POST {}/kill?signal=TERM", {409}),
    ],
)
def test_who_ends_what_its_monitors_death_ends_is_served(
    own: Daemon, request_line: str, statuses: set[int]
) -> None:
    own.start()
    container = own.run("sleep", "600")
    monitor = own.monitor_of(container)
    method, _, path = request_line.format(f"/containers/{container}").partition(" ")
    answers: list[int] = []
    ending = threading.Thread(target=lambda: answers.append(own.request(method, path).status))
    # So that the daemon hears of both at once.
    os.kill(own.pid, signal.SIGSTOP)
    ending.start()
    time.sleep(0.1)
    os.kill(monitor, signal.SIGKILL)
    os.kill(own.pid, signal.SIGCONT)
    ending.join(60)
    assert len(answers) == 1 and set(answers) <= statuses
    if method != "DELETE":
        assert own.state(container)["Status"] == "exited"
    assert own.leftovers(container) == []
