"""The WebSocket protocol's rules, and attach over it: with another implementation as the client."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import struct

import pytest

from sampan.api.http import websocket
from sampan.api.http.websocket import BINARY, CLOSE, PING, TEXT, Reader, ViolationError
from sampan.errors import InvalidArgument
from tests.daemon_fixture import Daemon

pytest.importorskip("wsproto", reason="the client is wsproto")

from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

KEY = base64.b64encode(bytes(range(16))).decode()


def masked(opcode: int, payload: bytes, *, final: bool = True, mask: bytes = b"\1\2\3\4") -> bytes:
    head = bytes([(0x80 if final else 0) | opcode])
    size = len(payload)
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 1 << 16:
        head += bytes([0x80 | 126]) + struct.pack(">H", size)
    else:
        head += bytes([0x80 | 127]) + struct.pack(">Q", size)
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def read(data: bytes, piece: int = 1 << 20) -> list[tuple[int, bytes]]:
    """All that is in ``data``, fed in pieces; pieces of one message joined."""
    reader = Reader()
    found: list[tuple[int, bytes]] = []
    for start in range(0, len(data), piece):
        for opcode, payload in reader.feed(data[start : start + piece]):
            if found and opcode == found[-1][0] < CLOSE:
                found[-1] = (opcode, found[-1][1] + payload)
            else:
                found.append((opcode, payload))
    return found


@pytest.mark.parametrize("piece", [1, 3, 1000, 1 << 20])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_a_message_of_any_size_comes_through_in_any_pieces(size: int, piece: int) -> None:
    payload = os.urandom(size)
    expected = [(BINARY, payload)] if size else []
    assert read(masked(BINARY, payload), piece) == expected


def test_a_message_in_frames_with_a_ping_between_them() -> None:
    data = (
        masked(TEXT, b"one \xc3", final=False)
        + masked(PING, b"?")
        + masked(0, b"\xa9", final=False)
        + masked(0, b" two")
    )
    for piece in (1, 2, 1000):
        assert read(data, piece) == [(TEXT, b"one \xc3"), (PING, b"?"), (TEXT, b"\xa9 two")]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x82\x01x", 1002),  # not masked
        (masked(BINARY, b"x").replace(b"\x82", b"\xc2", 1), 1002),  # a reserved bit
        (masked(0, b"x"), 1002),  # a continuation of nothing
        (masked(3, b"x"), 1002),  # an opcode nobody knows
        (masked(PING, b"x", final=False), 1002),
        (masked(PING, b"x" * 126), 1002),
        (masked(BINARY, b"x", final=False) + masked(BINARY, b"x"), 1002),
        (masked(TEXT, b"\xff"), 1007),
        (masked(TEXT, b"\xc3"), 1007),  # cut off in a character
    ],
)
def test_what_a_client_may_not_do_has_a_code(data: bytes, code: int) -> None:
    for piece in (1, 1000):
        with pytest.raises(ViolationError) as caught:
            read(data, piece)
        assert caught.value.code == code


def test_a_length_that_is_claimed_holds_no_memory() -> None:
    head = b"\x82\xff" + struct.pack(">Q", 1 << 62) + b"\0\0\0\0"
    reader = Reader()
    assert list(reader.feed(head + b"x" * 10)) == [(BINARY, b"x" * 10)]
    assert list(reader.feed(b"y" * 10)) == [(BINARY, b"y" * 10)]


def test_the_handshakes_answer_is_the_standards_example() -> None:
    headers = {"sec-websocket-version": "13", "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ=="}
    assert websocket.accept(headers) == {"Sec-WebSocket-Accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="}
    for name, value in (
        ("sec-websocket-version", "8"),
        ("sec-websocket-key", "short"),
        ("sec-websocket-key", "!" * 24),
    ):
        with pytest.raises(InvalidArgument, match="websocket"):
            websocket.accept({**headers, name: value})


# -- attach ----------------------------------------------------------------------------------------


class Client:
    """wsproto on a socket."""

    def __init__(self, daemon: Daemon, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(daemon.socket)
        self.sock.sendall(
            f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n".encode()
        )
        data = b""
        while b"\r\n\r\n" not in data:
            data += self.sock.recv(4096)
        self.head, _, rest = data.partition(b"\r\n\r\n")
        self.protocol = Connection(ConnectionType.CLIENT)
        self.messages: list[BytesMessage | TextMessage] = []
        self.events: list[object] = []
        self.is_closing = False
        self._take(rest)

    def _take(self, data: bytes | None) -> None:
        if data != b"":
            self.protocol.receive_data(data)
        for event in self.protocol.events():
            self.events.append(event)
            if isinstance(event, BytesMessage | TextMessage):
                self.messages.append(event)
            elif isinstance(event, CloseConnection) and not self.is_closing:
                with contextlib.suppress(BrokenPipeError):
                    self.sock.sendall(self.protocol.send(event.response()))

    def send(self, event: BytesMessage | TextMessage | Ping | CloseConnection) -> None:
        self.is_closing = isinstance(event, CloseConnection)
        self.sock.sendall(self.protocol.send(event))

    @property
    def output(self) -> bytes:
        return b"".join(
            m.data.encode() if isinstance(m.data, str) else m.data for m in self.messages
        )

    def until(self, text: bytes) -> None:
        while text not in self.output:
            data = self.sock.recv(65536)
            assert data, self.output
            self._take(data)

    def end(self) -> CloseConnection:
        """Everything to the close frame."""
        while not any(isinstance(event, CloseConnection) for event in self.events):
            data = self.sock.recv(65536)
            assert data, "the connection ended without a close frame"
            self._take(data)
        self.sock.close()
        return next(event for event in self.events if isinstance(event, CloseConnection))


QUERY = "stream=1&stdin=1&stdout=1&stderr=1"


@pytest.mark.root
def test_both_ways_over_a_websocket(daemon: Daemon) -> None:
    container = daemon.create(
        "sh", "-c", "echo out; echo err >&2; cat; echo end", OpenStdin=True, StdinOnce=True
    )
    client = Client(daemon, f"/containers/{container}/attach/ws?{QUERY}")
    assert client.head.startswith(b"HTTP/1.1 101")
    assert b"Upgrade: websocket" in client.head
    assert b"Content-Type" not in client.head
    daemon.post(f"/containers/{container}/start")
    client.until(b"err\n")
    client.send(BytesMessage(data=b"bytes\n"))
    client.send(TextMessage(data="täxt\n"))
    client.until("bytes\ntäxt\n".encode())
    client.send(Ping(payload=b"there?"))
    client.until(b"")
    while not any(isinstance(event, Pong) for event in client.events):
        client._take(client.sock.recv(4096))
    assert all(isinstance(message, BytesMessage) for message in client.messages)
    daemon.post(f"/containers/{container}/kill", signal="KILL")
    assert client.end().code == 1000


@pytest.mark.root
def test_the_close_frame_of_a_client_ends_the_input(daemon: Daemon) -> None:
    container = daemon.create("sh", "-c", "cat; exit 7", OpenStdin=True, StdinOnce=True)
    client = Client(daemon, f"/containers/{container}/attach/ws?{QUERY}")
    daemon.post(f"/containers/{container}/start")
    client.send(BytesMessage(data=b"last\n"))
    client.send(CloseConnection(code=1000))
    assert client.end().code == 1000
    assert daemon.wait(container) == 7
    assert daemon.logs(container) == "last\n"


@pytest.mark.root
def test_old_clients_get_texts_and_a_log_first(daemon: Daemon) -> None:
    container = daemon.run("sh", "-c", "printf 'f\\303\\251\\n'; read x; echo bye", OpenStdin=True)
    daemon.wait_for(lambda: daemon.logs(container) == "fé\n")
    client = Client(daemon, f"/v1.24/containers/{container}/attach/ws?{QUERY}&logs=1")
    client.until("fé\n".encode())
    client.send(TextMessage(data="go\n"))
    client.until(b"bye\n")
    assert all(isinstance(message, TextMessage) for message in client.messages)
    assert client.output == "fé\nbye\n".encode()
    client.end()


@pytest.mark.root
def test_a_client_that_breaks_the_rules_is_told_and_let_go(daemon: Daemon) -> None:
    container = daemon.run("sleep", "600")
    client = Client(daemon, f"/containers/{container}/attach/ws?{QUERY}")
    client.sock.sendall(b"\x82\x01x")
    assert client.end().code == 1002
    assert daemon.state(container)["Running"]
    daemon.delete(f"/containers/{container}", force=1)


@pytest.mark.root
def test_clients_that_vanish_do_not_matter(daemon: Daemon) -> None:
    container = daemon.run("sh", "-c", "while :; do echo noise; done")
    before = len(os.listdir(f"/proc/{daemon.pid}/fd"))
    for _ in range(10):
        client = Client(daemon, f"/containers/{container}/attach/ws?{QUERY}")
        client.until(b"noise")
        client.sock.close()
    daemon.wait_for(lambda: len(os.listdir(f"/proc/{daemon.pid}/fd")) <= before + 1)
    assert daemon.state(container)["Running"]
    daemon.delete(f"/containers/{container}", force=1)


@pytest.mark.root
def test_what_is_no_handshake_is_refused(daemon: Daemon) -> None:
    container = daemon.create("true")
    path = f"/containers/{container}/attach/ws"
    answer = daemon.get(path)
    assert (answer.status, "upgrade to websocket" in answer.message) == (400, True)
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": KEY}
    answer = daemon.request("GET", path, headers=headers)
    assert (answer.status, "Sec-WebSocket-Version" in answer.message) == (400, True)
    assert daemon.get("/containers/nosuch/attach/ws").status == 404
