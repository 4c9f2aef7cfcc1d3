"""What clients of other languages send beside what the API's document says.

Node's dockerode sends its options in the query and in the body, both whole, and of an exec's start
what it was told about its own connection; docker-py spells ``detachKeys``. Go's decoder takes it.
"""

from __future__ import annotations

import json
import socket
import urllib.parse
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.daemon_fixture import Daemon

pytestmark = pytest.mark.root


def as_node(daemon: Daemon, path: str, options: dict[str, Any]) -> Any:
    """One POST as dockerode makes it; the answer's JSON."""
    shown = {k: v if isinstance(v, str) else json.dumps(v) for k, v in options.items()}
    answer = daemon.request("POST", f"{path}{urllib.parse.urlencode(shown)}", options)
    assert answer.status == 201, answer.body
    return answer.json()


def begun(daemon: Daemon, exec_id: str, **body: Any) -> tuple[socket.socket, bytes]:
    """An exec's stream, and what came with the head of the answer."""
    data = json.dumps(body).encode()
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(60)
    sock.connect(daemon.socket)
    sock.sendall(
        f"POST /exec/{exec_id}/start HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        + data
    )
    said = b""
    while b"\r\n\r\n" not in said:
        said += sock.recv(4096)
    head, _, rest = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101"), said
    return sock, rest


def to_the_end(sock: socket.socket, said: bytes) -> bytes:
    with sock:
        while data := sock.recv(4096):
            said += data
    return said


def execute(daemon: Daemon, *command: str, **fields: Any) -> str:
    body = {"Cmd": list(command), "AttachStdout": True, **fields}
    answer = daemon.post("/containers/host-of-execs/exec", body)
    assert answer.status == 201, answer.body
    return str(answer.json()["Id"])


@pytest.fixture(scope="module", autouse=True)
def running(daemon: Daemon) -> None:
    daemon.run("sleep", "600", name="host-of-execs")


def test_a_container_and_a_commit_of_dockerode(daemon: Daemon) -> None:
    made = as_node(
        daemon,
        "/containers/create?",
        {
            "name": "of-node",
            "platform": "linux/amd64",
            "Image": "host",
            "Cmd": ["true"],
            "_query": {},
            "abortSignal": {},
            "HostConfig": {"NetworkMode": "none"},
        },
    )
    shown = daemon.get(f"/containers/{made['Id']}/json").json()
    assert (shown["Name"], shown["HostConfig"]["NetworkMode"]) == ("/of-node", "none")


def test_a_parameters_name_is_no_excuse_for_a_field(daemon: Daemon) -> None:
    body = {"Image": "host", "Cmd": ["true"], "Mystery": 1}
    answer = daemon.post("/containers/create?Mystery=1", body)
    assert (answer.status, answer.message[:22]) == (400, "Mystery is not a field")
    answer = daemon.post("/containers/create", {**body, "mystery": 1})
    assert answer.status == 400


@pytest.mark.parametrize("spelt", ["detachKeys", "DetachKeys", "detachkeys"])
def test_an_execs_fields_in_any_case(daemon: Daemon, spelt: str) -> None:
    instance = execute(daemon, "true", Tty=True, **{spelt: "ctrl-a"})
    assert daemon.get(f"/exec/{instance}/json").json()["DetachKeys"] == "ctrl-a"


def test_what_is_no_field_of_an_exec_is_refused(daemon: Daemon) -> None:
    body = {"Cmd": ["true"], "Mystery": 1}
    answer = daemon.post("/containers/host-of-execs/exec", body)
    assert (answer.status, answer.message[:22]) == (400, "Mystery is not a field")
    instance = execute(daemon, "true")
    assert daemon.post(f"/exec/{instance}/start", {"Mystery": 1}).status == 400


def test_an_execs_stream_is_framed_as_its_start_says(daemon: Daemon) -> None:
    plain = begun(daemon, execute(daemon, "echo", "x"), hijack=True, stdin=True, Tty=True)
    assert to_the_end(*plain) == b"x\n"
    framed = begun(daemon, execute(daemon, "echo", "x"), hijack=True, stdin=True)
    assert to_the_end(*framed) == b"\x01\0\0\0\0\0\0\x02x\n"
    framed = begun(daemon, execute(daemon, "echo", "x", Tty=True))
    assert to_the_end(*framed) == b"\x01\0\0\0\0\0\0\x03x\r\n"


def test_a_terminal_is_resized_as_soon_as_its_stream_is_there(daemon: Daemon) -> None:
    script = 'until [ "$(stty size)" = "31 61" ]; do sleep 0.05; done; echo done'
    for _ in range(5):
        instance = execute(daemon, "sh", "-c", script, Tty=True)
        sock, said = begun(daemon, instance, Tty=True)
        answer = daemon.post(f"/exec/{instance}/resize", h=31, w=61)
        assert answer.status == 200, answer.body
        assert b"done" in to_the_end(sock, said)
