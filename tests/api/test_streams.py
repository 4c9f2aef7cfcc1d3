"""Attach and exec: the connection taken over, bytes and half-closes intact."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.daemon_fixture import DOCKER, Daemon

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

UPGRADE = "Connection: Upgrade\r\nUpgrade: tcp\r\n"


class Stream:
    """A request by hand, and what comes back."""

    def __init__(
        self, daemon: Daemon, path: str, *, headers: str = UPGRADE, body: object = None
    ) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(60)
        self.sock.connect(daemon.socket)
        data = json.dumps(body).encode() if body is not None else b""
        if data:
            headers += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
        self.request = f"POST {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode() + data
        self.buffer = b""

    def send(self, *, behind: bytes = b"") -> bytes:
        """Send the request and what comes behind it in one piece; the answer's header."""
        self.sock.sendall(self.request + behind)
        while b"\r\n\r\n" not in self.buffer:
            data = self.sock.recv(4096)
            assert data, "closed without an answer"
            self.buffer += data
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        return head

    def rest(self) -> bytes:
        """Everything until the other side closes."""
        while data := self.sock.recv(65536):
            self.buffer += data
        self.sock.close()
        return self.buffer

    def end_input(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)


def attach(daemon: Daemon, container: str, query: str, *, behind: bytes = b"") -> Stream:
    """Ask to attach, with what comes ``behind`` the request in the same piece."""
    stream = Stream(daemon, f"/containers/{container}/attach?{query}")
    stream.send(behind=behind)
    return stream


def frames(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    position = 0
    while position < len(data):
        begin = position + 8
        end = begin + int.from_bytes(data[position + 4 : begin], "big")
        found.append((data[position], data[begin:end]))
        position = end
    return found


def texts(data: bytes, stream: int) -> bytes:
    return b"".join(text for number, text in frames(data) if number == stream)


@pytest.fixture(scope="module", autouse=True)
def watched(daemon: Daemon) -> Iterator[tuple[str, Future[bytes]]]:
    """A container with one client that takes nothing and one that takes all, from the first test
    here on: the time it takes until the one is given up passes beside the other tests."""
    container = daemon.run("sh", "-c", "read x; seq 1000000; echo done", OpenStdin=True)
    stuck = attach(daemon, container, "stream=1&stdin=1&stdout=1")
    taking = attach(daemon, container, "stream=1&stdout=1")
    stuck.sock.sendall(b"go\n")
    taking.sock.settimeout(60)
    with ThreadPoolExecutor(1) as pool:
        yield container, pool.submit(taking.rest)
    stuck.sock.close()


def test_attach_before_the_start_misses_nothing(daemon: Daemon) -> None:
    container = daemon.create("sh", "-c", "echo out; echo err >&2")
    stream = Stream(daemon, f"/v1.51/containers/{container}/attach?stream=1&stdout=1&stderr=1")
    head = stream.send()
    assert head.startswith(b"HTTP/1.1 101 UPGRADED")
    assert b"Content-Type: application/vnd.docker.multiplexed-stream" in head
    assert b"Api-Version: 1.51" in head
    daemon.post(f"/containers/{container}/start")
    data = stream.rest()
    assert (texts(data, 1), texts(data, 2)) == (b"out\n", b"err\n")


def test_without_an_upgrade_the_answer_is_a_200_without_an_end(daemon: Daemon) -> None:
    container = daemon.create("echo", "x")
    path = f"/v1.41/containers/{container}/attach?stream=1&stdout=1"
    stream = Stream(daemon, path, headers="Content-Length: 0\r\n")
    head = stream.send()
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert b"application/vnd.docker.raw-stream" in head
    daemon.post(f"/containers/{container}/start")
    assert frames(stream.rest()) == [(1, b"x\n")]


def test_a_half_close_ends_the_input_and_not_the_output(daemon: Daemon) -> None:
    container = daemon.create(
        "sh", "-c", "cat; sleep 0.2; echo end", OpenStdin=True, StdinOnce=True
    )
    stream = attach(daemon, container, "stream=1&stdin=1&stdout=1")
    daemon.post(f"/containers/{container}/start")
    stream.sock.sendall(b"typed\n")
    stream.end_input()
    assert texts(stream.rest(), 1) == b"typed\nend\n"


def test_input_in_the_same_packet_as_the_request_is_not_lost(daemon: Daemon) -> None:
    container = daemon.create("cat", OpenStdin=True, StdinOnce=True)
    stream = attach(daemon, container, "stream=1&stdin=1&stdout=1", behind=b"early\n")
    daemon.post(f"/containers/{container}/start")
    stream.sock.sendall(b"late\n")
    stream.end_input()
    assert texts(stream.rest(), 1) == b"early\nlate\n"


@pytest.mark.parametrize("behind", [b"", b"the first"], ids=["alone", "behind its request"])
def test_input_that_nobody_reads_does_not_turn_the_end_into_a_reset(
    daemon: Daemon, behind: bytes
) -> None:
    # As in `docker run -i … head < large`: its client takes a reset for a failure.
    script = "head -c 5 > /dev/null; echo enough; exit 4"
    container = daemon.create("sh", "-c", script, OpenStdin=True, StdinOnce=True)
    stream = attach(daemon, container, "stream=1&stdin=1&stdout=1", behind=behind)

    def send() -> None:
        with pytest.raises(BrokenPipeError):
            while True:
                stream.sock.sendall(b"x" * 65536)

    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send)
        assert daemon.post(f"/containers/{container}/start").status == 204
        while data := stream.sock.recv(65536):
            stream.buffer += data
        sending.result(60)
    stream.sock.close()
    assert texts(stream.buffer, 1) == b"enough\n"
    assert daemon.wait(container) == 4


def test_a_refused_upgrade_leaves_the_connection_to_http(daemon: Daemon) -> None:
    stream = Stream(daemon, "/containers/nosuch/attach?stream=1&stdout=1")
    behind = b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert stream.send(behind=behind).startswith(b"HTTP/1.1 404")
    assert stream.rest().endswith(b"\r\n\r\nOK")


def test_what_was_said_before_can_be_replayed(daemon: Daemon) -> None:
    container = daemon.run("sh", "-c", "echo before; read x; echo after", OpenStdin=True)
    daemon.wait_for(lambda: daemon.logs(container) == "before\n")
    stream = attach(daemon, container, "logs=1&stream=1&stdin=1&stdout=1")
    stream.sock.sendall(b"go\n")
    assert texts(stream.rest(), 1) == b"before\nafter\n"


def test_a_log_and_the_stream_behind_it_fit_together(daemon: Daemon) -> None:
    """While the container writes without a pause: no line is missing, none comes twice."""
    container = daemon.create(
        "sh", "-c", "i=0; while :; do echo $i; i=$((i+1)); done", HostConfig={"NanoCpus": 10**8}
    )
    daemon.post(f"/containers/{container}/start")
    for _ in range(5):
        stream = attach(daemon, container, "logs=1&stream=1&stdout=1")
        while len(stream.buffer) < 300_000:
            data = stream.sock.recv(65536)
            assert data
            stream.buffer += data
        stream.sock.close()
        whole = 0
        while len(stream.buffer) - whole >= 8:
            length = int.from_bytes(stream.buffer[whole + 4 : whole + 8], "big")
            if len(stream.buffer) - whole - 8 < length:
                break
            whole += 8 + length
        lines = texts(stream.buffer[:whole], 1).split(b"\n")[:-1]
        assert [int(line) for line in lines] == list(range(len(lines)))
    daemon.delete(f"/containers/{container}", force=1)


def test_what_a_container_says_at_its_end_comes_once_wherever_that_meets_the_seam(
    daemon: Daemon,
) -> None:
    """The end comes between any two of an attachment's steps: many at once, and more or less of a
    log before it."""

    def one(number: int) -> None:
        before = "".join(f"{line}\n" for line in range(1 + number % 4 * 3000))
        script = f"seq 0 {before.count(chr(10)) - 1}; read x; echo after"
        container = daemon.run("sh", "-c", script, OpenStdin=True)
        daemon.wait_for(lambda: len(daemon.logs(container)) == len(before))
        stream = attach(daemon, container, "logs=1&stream=1&stdin=1&stdout=1")
        stream.sock.sendall(b"go\n")
        assert texts(stream.rest(), 1).decode() == before + "after\n"

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(24)))


def test_a_line_that_was_begun_before_the_attachment_is_whole(daemon: Daemon) -> None:
    container = daemon.run("sh", "-c", "printf 'name? '; read x; echo hello $x", OpenStdin=True)
    stream = attach(daemon, container, "logs=1&stream=1&stdin=1&stdout=1")
    while b"name? " not in stream.buffer:
        stream.buffer += stream.sock.recv(4096)
    stream.sock.sendall(b"you\n")
    assert texts(stream.rest(), 1) == b"name? hello you\n"


def test_a_log_alone_ends_the_stream(daemon: Daemon) -> None:
    container = daemon.run("echo", "x")
    daemon.wait(container)
    stream = attach(daemon, container, "logs=1&stdout=1")
    assert frames(stream.rest()) == [(1, b"x\n")]


def test_detach_keys_tell_the_events(daemon: Daemon) -> None:
    container = daemon.run("cat", Tty=True, OpenStdin=True)
    instance = _exec(daemon, container, "cat", AttachStdin=True, Tty=True, DetachKeys="x,y")
    began = time.time()
    stream = attach(daemon, container, "stream=1&stdin=1&stdout=1&detachKeys=ctrl-a,d")
    stream.sock.sendall(b"\x01d")
    stream.rest()
    other = Stream(daemon, f"/exec/{instance}/start", body={"Tty": True})
    other.send()
    other.sock.sendall(b"xy")
    other.rest()
    assert daemon.state(container)["Running"]
    assert daemon.get(f"/exec/{instance}/json").json()["Running"]
    text = daemon.get("/events", since=f"{began:.9f}", until=f"{time.time() + 0.5:.9f}").body
    actions = [json.loads(line)["Action"] for line in text.splitlines()]
    assert [action for action in actions if "detach" in action] == ["detach", "exec_detach"]
    answer = daemon.post(f"/containers/{container}/attach?detachKeys=ctrl-xx")
    assert (answer.status, "Invalid detach keys" in answer.message) == (400, True)
    daemon.delete(f"/containers/{container}", force=1)


def test_a_client_that_goes_away_does_not_matter(daemon: Daemon) -> None:
    container = daemon.create("sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.1; done")
    stream = attach(daemon, container, "stream=1&stdout=1")
    stream.sock.close()
    daemon.post(f"/containers/{container}/start")
    assert daemon.wait(container) == 0
    assert daemon.logs(container) == "1\n2\n3\n"


def test_removing_a_container_ends_streams_that_waited_for_its_start(daemon: Daemon) -> None:
    container = daemon.create("true")
    stream = attach(daemon, container, "stream=1&stdout=1")
    daemon.delete(f"/containers/{container}")
    assert stream.rest() == b""


def test_a_terminals_stream_is_raw_and_detach_keys_let_go(daemon: Daemon) -> None:
    container = daemon.create("sh", "-c", "stty -echo; cat", Tty=True, OpenStdin=True)
    path = f"/containers/{container}/attach?stream=1&stdin=1&stdout=1&detachKeys=ctrl-a,d"
    stream = Stream(daemon, path)
    assert b"raw-stream" in stream.send()
    daemon.post(f"/containers/{container}/start")
    time.sleep(0.3)
    stream.sock.sendall(b"hello\r")
    daemon.wait_for(lambda: b"hello" in stream.sock.recv(4096))
    stream.sock.sendall(b"\x01d")
    stream.rest()
    assert daemon.state(container)["Running"]
    assert daemon.post(f"/containers/{container}/resize", h=30, w=100).status == 200
    daemon.delete(f"/containers/{container}", force=1)


def _exec(daemon: Daemon, container: str, *command: str, **settings: object) -> str:
    body = {"AttachStdout": True, "AttachStderr": True, "Cmd": list(command), **settings}
    answer = daemon.post(f"/containers/{container}/exec", body)
    assert answer.status == 201, answer.body
    return str(answer.json()["Id"])


@pytest.fixture(scope="module")
def sleeper(daemon: Daemon) -> str:
    return daemon.run("sleep", "600", Env=["FROM=container"])


def test_an_exec_runs_beside_the_command(daemon: Daemon, sleeper: str) -> None:
    instance = _exec(daemon, sleeper, "sh", "-c", "echo $FROM $OWN; id -u >&2; exit 6",
                     Env=["OWN=1"], User="1234")  # fmt: skip
    stream = Stream(daemon, f"/exec/{instance}/start", body={"Detach": False, "Tty": False})
    assert stream.send().startswith(b"HTTP/1.1 101")
    data = stream.rest()
    assert (texts(data, 1), texts(data, 2)) == (b"container 1\n", b"1234\n")
    shown = daemon.get(f"/exec/{instance}/json").json()
    assert (shown["Running"], shown["ExitCode"]) == (False, 6)
    assert shown["ProcessConfig"]["entrypoint"] == "sh"
    again = daemon.post(f"/exec/{instance}/start", {"Detach": True})
    assert again.status == 409


def test_an_execs_input_may_follow_its_request_at_once(daemon: Daemon, sleeper: str) -> None:
    instance = _exec(daemon, sleeper, "cat", AttachStdin=True)
    stream = Stream(daemon, f"/exec/{instance}/start", body={"Detach": False})
    stream.send(behind=b"early\n")
    stream.end_input()
    assert texts(stream.rest(), 1) == b"early\n"


def test_an_exec_that_cannot_run_says_so_in_its_stream(daemon: Daemon, sleeper: str) -> None:
    instance = _exec(daemon, sleeper, "no-such-command")
    stream = Stream(daemon, f"/exec/{instance}/start", body={})
    stream.send()
    assert b"executable file not found" in stream.rest()
    assert daemon.get(f"/exec/{instance}/json").json()["ExitCode"] == 127


def test_a_detached_exec_is_on_its_own(daemon: Daemon, sleeper: str) -> None:
    instance = _exec(daemon, sleeper, "sh", "-c", "exit 9")
    assert daemon.post(f"/exec/{instance}/start", {"Detach": True}).status == 200
    daemon.wait_for(lambda: daemon.get(f"/exec/{instance}/json").json()["ExitCode"] == 9)


def test_an_exec_may_have_every_right(daemon: Daemon) -> None:
    container = daemon.run("sleep", "600", HostConfig={"CapDrop": ["ALL"]})
    command = ("sh", "-c", "grep CapEff /proc/self/status > /tmp/$0; cat /tmp/$0")
    found = {}
    for privileged in (False, True):
        instance = _exec(daemon, container, *command, str(privileged), Privileged=privileged)
        daemon.post(f"/exec/{instance}/start", {"Detach": True})
        daemon.wait_for(lambda it=instance: daemon.get(f"/exec/{it}/json").json()["ExitCode"] == 0)
        shown = daemon.get(f"/exec/{instance}/json").json()["ProcessConfig"]
        assert shown["privileged"] is privileged
        path = f"/proc/{daemon.state(container)['Pid']}/root/tmp/{privileged}"
        found[privileged] = int(Path(path).read_text().split()[1], 16)
    own = next(
        line.split()[1]
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("CapBnd")
    )
    assert found == {False: 0, True: int(own, 16)}
    daemon.delete(f"/containers/{container}", force=1)


def test_execs_need_a_running_container(daemon: Daemon) -> None:
    container = daemon.create("true")
    answer = daemon.post(f"/containers/{container}/exec", {"Cmd": ["true"]})
    assert (answer.status, answer.message) == (409, f"container {container} is not running")
    assert daemon.get("/exec/nosuch/json").message == "No such exec instance: nosuch"


@pytest.mark.peer
@pytest.mark.skipif(not DOCKER, reason="needs the docker client")
def test_docker_exec_by_the_real_client(daemon: Daemon, sleeper: str) -> None:
    done = daemon.docker(
        "exec", "-i", sleeper, "sh", "-c", "cat; echo err >&2; exit 3", stdin=b"in\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "in\n", "err\n")
    done = daemon.docker("exec", sleeper, "no-such-command")
    assert done.returncode == 127
    done = daemon.docker("exec", "-w", "/usr", "-e", "A=b", sleeper, "sh", "-c", "pwd; echo $A")
    assert done.stdout == "/usr\nb\n"


def test_who_looks_on_and_takes_nothing_does_not_stop_the_container(
    daemon: Daemon, watched: tuple[str, Future[bytes]]
) -> None:
    container, taken = watched
    assert texts(taken.result(60), 1).endswith(b"1000000\ndone\n")
    assert daemon.wait(container) == 0
