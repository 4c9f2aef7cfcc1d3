"""TCP with mutual TLS: who is let in, and streams through it with their half-closes."""

from __future__ import annotations

import http.client
import io
import json
import os
import signal
import socket
import ssl
import struct
import subprocess
import tarfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.daemon.certificates import make_certificates
from tests.daemon.test_floods import status
from tests.daemon_fixture import DOCKER, Daemon

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

UPGRADE = "Connection: Upgrade\r\nUpgrade: tcp\r\n"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("tls") / "c")


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def secured(
    tmp_path_factory: pytest.TempPathFactory, certificates: Path, port: int
) -> Iterator[Daemon]:
    own = certificates / "server"
    one = Daemon(
        tmp_path_factory.mktemp("daemon"),
        *("-H", f"tcp://127.0.0.1:{port}", "--tlsverify", "--tlscacert", str(own / "ca.pem")),
        *("--tlscert", str(own / "cert.pem"), "--tlskey", str(own / "key.pem")),
    )
    try:
        yield one.start()
    finally:
        one.close()


@pytest.fixture(scope="module", autouse=True)
def unfinished(secured: Daemon, port: int) -> Iterator[socket.socket]:
    """A handshake that begins with the first test here, and does not go on: what is waited for at
    its end passes beside the others."""
    with socket.create_connection(("127.0.0.1", port), timeout=40) as sock:
        sock.sendall(b"\x16\x03\x01")
        yield sock


def context(certificates: Path, name: str) -> ssl.SSLContext:
    found = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    if name:
        found.load_cert_chain(certificates / name / "cert.pem", certificates / name / "key.pem")
    return found


def connect(certificates: Path, port: int, name: str = "client") -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", port), timeout=60)
    return context(certificates, name).wrap_socket(raw, server_hostname="localhost")


def test_a_client_of_our_ca_is_served(secured: Daemon, certificates: Path, port: int) -> None:
    connection = http.client.HTTPSConnection(
        "localhost", port, context=context(certificates, "client"), timeout=10
    )
    for _ in range(3):  # on one connection
        connection.request("GET", "/_ping")
        assert connection.getresponse().read() == b"OK"
    body = json.dumps({"Labels": {"x": "y" * 3_000_000}})
    connection.request("POST", "/containers/create", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert (answer.status, "no image" in json.loads(answer.read())["message"]) == (400, True)
    connection.close()


@pytest.mark.parametrize("name", ["", "stranger"])
def test_who_shows_no_certificate_of_our_ca_is_not(
    secured: Daemon, certificates: Path, port: int, name: str
) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        sock = connect(certificates, port, name)
        sock.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
        if not sock.recv(100):
            raise ConnectionError
    assert secured.get("/_ping").status == 200


def test_a_client_without_tls_gets_no_answer(secured: Daemon, port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        sock.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"OK" not in sock.recv(1000)


@pytest.mark.peer
@pytest.mark.skipif(not DOCKER, reason="no client")
def test_a_half_close_of_the_docker_client_ends_the_input_and_not_the_output(
    secured: Daemon, certificates: Path, port: int
) -> None:
    """It ends its half with close_notify alone, and reads on (RFC 8446, section 6.1)."""

    def docker(*words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [DOCKER, "--host", f"tcp://localhost:{port}", "--tlsverify", *words],
            input=stdin,
            capture_output=True,
            timeout=60,
            check=False,
            env={
                "PATH": "/usr/bin:/bin",
                "HOME": str(secured.root),
                "DOCKER_CERT_PATH": str(certificates / "client"),
            },
        )

    run = ("run", "--rm", "-i", "--network", "none", "host")
    data = bytes(range(256)) * 20_000
    done = docker(*run, "sh", "-c", "cat; sleep 0.3; echo end >&2; exit 7", stdin=data)
    assert (done.returncode, done.stdout, done.stderr) == (7, data, b"end\n")
    name = secured.run("sleep", "600")
    done = docker("exec", "-i", name, "wc", "-c", stdin=data)
    assert done.stdout.strip() == str(len(data)).encode()
    done = docker("logs", name)
    assert done.returncode == 0
    secured.remove_all()


def read_all(sock: ssl.SSLSocket) -> tuple[bytes, int]:
    """The head, and the number of bytes behind it."""
    head, count = b"", 0
    while b"\r\n\r\n" not in head:
        part = sock.recv(65536)
        assert part
        head += part
    head, _, rest = head.partition(b"\r\n\r\n")
    count = len(rest)
    while part := sock.recv(65536):
        count += len(part)
    sock.close()
    return head, count


def test_who_reads_slowly_is_waited_for(secured: Daemon, certificates: Path, port: int) -> None:
    """In a log's answer, and in an attach, where this process stands between client and monitor."""
    script = "sleep 0.5; head -c 40000000 /dev/zero | tr '\\0' x | fold -w 999"
    container = secured.create("sh", "-c", script)
    socks = []
    for path in (
        f"/containers/{container}/attach?stream=1&stdout=1",
        f"/containers/{container}/attach?stream=1&stdout=1",
    ):
        sock = connect(certificates, port)
        sock.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\n{UPGRADE}\r\n".encode())
        socks.append(sock)
        head = sock.recv(12)
        assert head == b"HTTP/1.1 101"
    Path(f"/proc/{secured.pid}/clear_refs").write_text("5")
    before = status(secured.pid, "VmRSS")
    secured.post(f"/containers/{container}/start")
    follower = connect(certificates, port)
    follower.sendall(
        f"GET /containers/{container}/logs?stdout=1&follow=1 HTTP/1.1\r\nHost: x\r\n"
        "Connection: close\r\n\r\n".encode()
    )
    time.sleep(2)
    assert status(secured.pid, "VmHWM") - before < 24 * 1024
    found = [0, 0, 0]

    def read(place: int, sock: ssl.SSLSocket) -> None:
        found[place] = read_all(sock)[1]

    threads = [threading.Thread(target=read, args=one) for one in enumerate([*socks, follower])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    lines = 40_000_000 // 999 + 1
    assert min(found) > 40_000_000 + lines
    assert found[0] == found[1]
    secured.remove_all()


def test_a_large_upload_is_whole(secured: Daemon, certificates: Path, port: int) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo("file")
        member.size = 30_000_000
        archive.addfile(member, io.BytesIO(os.urandom(member.size)))
    connection = http.client.HTTPSConnection(
        "localhost", port, context=context(certificates, "client"), timeout=60
    )
    headers = {"Content-Type": "application/x-tar"}
    connection.request("POST", "/images/create?fromSrc=-&repo=up", out.getvalue(), headers)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    answer.read()
    connection.request("GET", "/images/up/get")
    assert len(connection.getresponse().read()) > 30_000_000
    connection.close()


def test_a_client_that_vanishes_in_a_stream_leaves_nothing(
    secured: Daemon, certificates: Path, port: int
) -> None:
    container = secured.run("sh", "-c", "while echo line; do sleep 0.01; done")
    before = len(list(Path(f"/proc/{secured.pid}/fd").iterdir()))
    for _ in range(5):
        sock = connect(certificates, port)
        path = f"/containers/{container}/attach?stream=1&stdout=1"
        sock.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\n{UPGRADE}\r\n".encode())
        assert sock.recv(100)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    secured.wait_for(lambda: len(list(Path(f"/proc/{secured.pid}/fd").iterdir())) <= before)
    secured.remove_all()


def test_a_handshake_that_never_ends_is_ended(unfinished: socket.socket) -> None:
    assert unfinished.recv(10) == b""


def test_certificates_that_are_not_there_are_named(tmp_path: Path) -> None:
    one = Daemon(tmp_path, "-H", "tcp://127.0.0.1:0", "--tlsverify", "--tlscert", "/no/such.pem")
    try:
        assert one.spawn().wait(60) == 1
        assert "TLS needs /no/such.pem: no such file" in one.log.read_text()
    finally:
        one.close()


def test_tls_without_a_check_of_clients_must_be_asked_for_twice(
    tmp_path: Path, certificates: Path
) -> None:
    own = certificates / "server"
    files = ("--tlscert", str(own / "cert.pem"), "--tlskey", str(own / "key.pem"))
    one = Daemon(tmp_path, "-H", "tcp://127.0.0.1:0", "--tls", *files)
    try:
        assert one.spawn().wait(60) == 1
        assert "becomes root" in one.log.read_text()
    finally:
        one.close()


def test_renewed_certificates_are_taken_up_by_sighup(tmp_path: Path) -> None:
    """And with a half of a renewal, or a CA that is not one, it goes on with what it had."""
    first, second = (make_certificates(tmp_path / name) for name in ("1", "2"))
    used = tmp_path / "used"
    used.mkdir()

    def put(source: Path, *names: str) -> None:
        for name in names:
            (used / name).write_bytes((source / "server" / name).read_bytes())

    put(first, "ca.pem", "cert.pem", "key.pem")
    port = free_port()
    one = Daemon(
        tmp_path / "daemon",
        *("-H", f"tcp://127.0.0.1:{port}", "--tlsverify", "--tlscacert", str(used / "ca.pem")),
        *("--tlscert", str(used / "cert.pem"), "--tlskey", str(used / "key.pem")),
    )
    (tmp_path / "daemon").mkdir()

    def ping(certificates: Path) -> bytes:
        with connect(certificates, port) as tls:
            tls.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return tls.recv(100).partition(b"\r\n")[0]

    def reload(words: str) -> None:
        before = one.log.read_text().count(words)
        os.kill(one.pid, signal.SIGHUP)
        one.wait_for(lambda: one.log.read_text().count(words) > before)

    try:
        one.start()
        old = connect(first, port)
        put(second, "cert.pem")
        reload("certificates stay as they were")
        assert ping(first) == b"HTTP/1.1 200 OK"
        put(second, "ca.pem", "key.pem")
        reload("configuration reloaded")
        assert ping(second) == b"HTTP/1.1 200 OK"
        with pytest.raises(ssl.SSLError):
            ping(first)
        old.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert old.recv(100).startswith(b"HTTP/1.1 200 OK")
        old.close()
    finally:
        one.close()
