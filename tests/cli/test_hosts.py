"""Which daemon is talked to, and how: environment, contexts, TLS, ssh, older versions."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sampan.cli import autostart
from sampan.cli.main import main
from sampan.errors import SampanError
from tests.cli.canned import Canned
from tests.daemon.certificates import make_certificates
from tests.daemon_fixture import DOCKER, Daemon, own_root

pytestmark = pytest.mark.root

Run = Callable[..., "subprocess.CompletedProcess[str]"]
ANSWER: tuple[int, list[str]] = (200, [])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Our client with a home and an environment of its own."""

    def call(*argv: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sampan.cli", *argv],
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **environment},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return call


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[Canned]]:
    made = [Canned(tmp_path / f"s{number}") for number in range(3)]
    for server in made:
        server.answers["GET /containers/json"] = ANSWER
    yield made
    for server in made:
        server.close()


def asked(servers: list[Canned]) -> list[int]:
    """Which of the servers got a list request; then they forget."""
    found = [n for n, s in enumerate(servers) if s.asked("GET", "/containers/json")]
    for server in servers:
        server.requests.clear()
    return found


def test_flags_come_before_the_environment_and_that_before_contexts(
    run: Run, servers: list[Canned]
) -> None:
    zero, one, two = (server.host for server in servers)
    for name, host in (("ctx0", zero), ("ctx1", one), ("ctx2", two)):
        assert run("context", "create", name, "--docker", f"host={host}").returncode == 0
    run("context", "use", "ctx0")
    run("ps")
    assert asked(servers) == [0]
    run("ps", DOCKER_CONTEXT="ctx1")
    assert asked(servers) == [1]
    run("ps", DOCKER_HOST=two, DOCKER_CONTEXT="ctx1")
    assert asked(servers) == [2]
    run("ps", SAMPAN_HOST=one, DOCKER_HOST=two)
    assert asked(servers) == [1]
    run("-H", zero, "ps", SAMPAN_HOST=one)
    assert asked(servers) == [0]
    run("--context", "ctx2", "ps", SAMPAN_HOST=one)
    assert asked(servers) == [2]


def test_a_context_that_is_not_there_is_named(run: Run) -> None:
    done = run("-c", "nowhere", "ps")
    assert done.returncode == 1 and 'context "nowhere" does not exist' in done.stderr
    done = run("-c", "one", "-H", "unix:///x", "ps")
    assert done.returncode == 1 and "contradict" in done.stderr


def test_the_configuration_directory_can_be_named(run: Run, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere"
    run("--config", str(place), "context", "create", "ctx", "--docker", "host=unix:///x")
    assert "ctx" in run("context", "ls", DOCKER_CONFIG=str(place)).stdout
    assert "ctx" not in run("context", "ls").stdout


def test_a_broken_configuration_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker/config.json").write_text("{")
    done = run("ps")
    assert done.returncode == 1 and "config.json: not JSON" in done.stderr


def test_an_older_daemon_is_spoken_to_in_its_version(run: Run, servers: list[Canned]) -> None:
    server = servers[0]
    server.version = "1.41"
    run("-H", server.host, "ps")
    assert [r.target.partition("?")[0] for r in server.requests] == [
        "/_ping",
        "/v1.41/containers/json",
    ]
    server.requests.clear()
    run("-H", server.host, "ps", DOCKER_API_VERSION="1.30")
    assert [r.target.partition("?")[0] for r in server.requests] == ["/v1.30/containers/json"]
    server.version = "1.99"
    server.requests.clear()
    run("-H", server.host, "ps")
    assert server.requests[-1].target.startswith("/v1.51/")


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("unix:///no/such/socket", "No such file or directory. Is it running?"),
        ("tcp://127.0.0.1:1", "Connection refused. Is it running?"),
        ("npipe:////./pipe/x", "expected unix:///path, tcp://host:port or ssh://"),
        ("nonsense", "expected unix:///path, tcp://host:port or ssh://"),
        ("tcp://127.0.0.1:99999", "tcp://127.0.0.1:99999"),
        (f"tcp://{'a' * 64}:2375", "can be no host's name"),
        ("ssh://", "expected ssh://[user@]host"),
        ("ssh://user:secret@host", "expected ssh://[user@]host"),
    ],
)
def test_a_daemon_that_cannot_be_reached_is_named(run: Run, host: str, message: str) -> None:
    done = run("-H", host, "ps")
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr


HEAD = b"HTTP/1.1 200 OK\r\nApi-Version: 1.51\r\n"
PING = HEAD + b"Content-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"SSH-2.0-something\r\n", "not HTTP"),
        (b"", "without an answer"),
        (b"HTTP/1.1 200 OK\r\nApi-Ver", "without an answer"),
        (b"HTTP/1.1 abc\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * (2 << 20), "not HTTP"),
        (PING + HEAD + b"Content-Length: 99\r\n\r\n[", "98 bytes early"),
        (PING + HEAD + b"Content-Length: many\r\n\r\n[", "Content-Length: many"),
        (PING + HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "chunk size"),
        (PING + HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n[", "in the middle"),
        (PING + HEAD + b"Content-Length: 3\r\n\r\n[1,", "not JSON"),
        (PING + HEAD + b"Content-Length: 4\r\n\r\n\xff\xfe[]", "not JSON"),
        (PING + b"HTTP/1.1 500 No\r\nContent-Length: 5\r\n\r\n<p>No", "<p>No"),
        (PING + b"HTTP/1.1 301 Moved\r\nContent-Length: 0\r\n\r\n", "301 Moved"),
    ],
)
def test_what_is_no_daemon_is_named(tmp_path: Path, answer: bytes, message: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "odd"))
        listener.listen()
        child = subprocess.Popen(
            [sys.executable, "-m", "sampan.cli", "-H", f"unix://{tmp_path}/odd", "ps"],
            stderr=subprocess.PIPE,
            text=True,
        )
        sock, _ = listener.accept()
        with sock:
            sock.recv(1000)
            try:
                sock.sendall(answer)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(1000):
                    continue
            except (BrokenPipeError, ConnectionResetError):
                pass  # it has seen enough
        _, errors = child.communicate(timeout=60)
    assert child.returncode == 1 and message in errors and "Traceback" not in errors


def test_a_socket_one_may_not_use_says_what_to_do(run: Run, servers: list[Canned]) -> None:
    path = servers[0].host.removeprefix("unix://")
    os.chown(path, 0, 4)
    os.chmod(path, 0o660)
    done = subprocess.run(
        [sys.executable, "-m", "sampan.cli", "-H", servers[0].host, "ps"],
        user=65534,
        group=65534,
        extra_groups=[],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "No module named" in done.stderr:
        pytest.skip("this source tree is root's alone")
    assert done.returncode == 1 and "ermission denied" in done.stderr
    assert "sudo" in done.stderr


# -- output that cannot be written -----------------------------------------------------------------


def test_a_reader_that_leaves_is_no_error(servers: list[Canned]) -> None:
    """``sampan ps | true``: nothing is said, as with other filters."""
    child = subprocess.Popen(
        [sys.executable, "-m", "sampan.cli", "-H", servers[0].host, "ps"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None
    child.stdout.close()
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 141 and errors == b""


def test_a_full_disk_is_named(servers: list[Canned]) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "sampan.cli", "-H", servers[0].host, "ps"],
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == ["sampan: No space left on device"]


# -- TLS -----------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("tls") / "c")


@pytest.fixture(scope="module")
def secured(quick: Path, certificates: Path) -> Iterator[tuple[Daemon, str]]:
    own, port = certificates / "server", free_port()
    one = Daemon(
        own_root(quick),
        *("-H", f"tcp://127.0.0.1:{port}", "--tlsverify", "--tlscacert", str(own / "ca.pem")),
        *("--tlscert", str(own / "cert.pem"), "--tlskey", str(own / "key.pem")),
    )
    try:
        yield one.start(), f"tcp://127.0.0.1:{port}"
    finally:
        one.close()


@pytest.fixture
def tls(secured: tuple[Daemon, str], certificates: Path) -> dict[str, str]:
    return {
        "DOCKER_HOST": secured[1],
        "DOCKER_TLS_VERIFY": "1",
        "DOCKER_CERT_PATH": str(certificates / "client"),
    }


def test_streams_go_through_tls_to_their_ends(run: Run, tls: dict[str, str]) -> None:
    """Both directions at once, more than any buffer holds, and our half closed before theirs."""
    text = "".join(f"line {number}\n" for number in range(100_000))
    base = ("--rm", "--network", "none", "-i", "host")
    done = run("run", *base, "cat", stdin=text, **tls)
    assert done.returncode == 0 and done.stdout == text
    done = run("run", *base, "sh", "-c", "sort | tail -1; echo >&2 end; exit 4", stdin=text, **tls)
    assert (done.returncode, done.stdout, done.stderr) == (4, "line 99999\n", "end\n")


def test_archives_and_lists_go_through_tls(run: Run, tls: dict[str, str], tmp_path: Path) -> None:
    root = tmp_path / "root.tar"
    subprocess.run(["tar", "-cf", str(root), "-C", "/bin", "busybox"], check=True)
    assert run("import", str(root), "over:tls", **tls).returncode == 0
    assert "over:tls" in run("images", "--format", "{{.Repository}}:{{.Tag}}", **tls).stdout
    assert run("save", "-o", str(tmp_path / "saved.tar"), "over:tls", **tls).returncode == 0
    assert (tmp_path / "saved.tar").stat().st_size > root.stat().st_size // 2
    assert run("rmi", "over:tls", **tls).returncode == 0


def test_a_context_carries_its_certificates(
    run: Run, secured: tuple[Daemon, str], certificates: Path
) -> None:
    place = certificates / "client"
    files = ",".join(f"{name}={place / name}.pem" for name in ("ca", "cert", "key"))
    done = run("context", "create", "far", "--docker", f"host={secured[1]},{files}")
    assert done.returncode == 0, done.stderr
    assert run("-c", "far", "ps", "-q").returncode == 0
    assert '"TLSMaterial": {\n            "docker"' in run("context", "inspect", "far").stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"DOCKER_TLS_VERIFY": ""}, "If it speaks TLS"),
        ({"DOCKER_CERT_PATH": "/nonexistent"}, "certificate"),
        ({"DOCKER_CERT_PATH": "STRANGER"}, "certificate"),
    ],
)
def test_what_is_wrong_with_tls_is_named(
    run: Run, tls: dict[str, str], tmp_path: Path, change: dict[str, str], message: str
) -> None:
    if "STRANGER" in change.values():
        change = {"DOCKER_CERT_PATH": str(make_certificates(tmp_path / "other") / "client")}
    done = run("ps", **{**tls, **change})
    assert done.returncode == 1 and message in done.stderr.lower() + done.stderr
    assert "Traceback" not in done.stderr


# -- ssh -----------------------------------------------------------------------------------------

_SSH = """#!/bin/sh
printf '%s\\n' "$@" >>"$HOME/argv"
for last; do :; done
exec sh -c "$last"
"""


def test_ssh_runs_a_client_on_the_other_side(run: Run, daemon: Daemon, tmp_path: Path) -> None:
    """``ssh`` here is a program that runs its command on this machine."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "ssh").write_text(_SSH)
    (programs / "sampan").write_text(f'#!/bin/sh\nexec {sys.executable} -m sampan.cli "$@"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}"
    host = f"ssh://somebody@far:2222{daemon.socket}"
    text = "word\n" * 50_000
    base = ("run", "--rm", "--network", "none", "-i", "host")
    done = run("-H", host, *base, "cat", stdin=text, PATH=path)
    assert done.returncode == 0 and done.stdout == text, done.stderr
    words = (tmp_path / "argv").read_text().split("\n")
    assert words[words.index("-l") :][:6] == ["-l", "somebody", "-p", "2222", "--", "far"]
    done = run("-H", "ssh://far/no/such/socket", "ps", PATH=path)
    assert done.returncode == 1 and "/no/such/socket" in done.stderr


@pytest.mark.parametrize(
    "line",
    [
        "run host true", "create host true", "start web", "ps", "images", "info", "pull x",
        "load -i /dev/null", "import /dev/null", "network create lan", "network ls",
        "volume create", "volume ls",
    ],
)  # fmt: skip
def test_who_makes_or_lists_things_starts_a_daemon_where_none_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, line: str
) -> None:
    """Started for real in the README's first minutes; here it is asked whether it would be."""

    def ensure(host: str) -> None:
        raise SampanError(f"asked for {host}")

    monkeypatch.setattr(autostart, "ensure", ensure)
    for name in ("SAMPAN_HOST", "DOCKER_HOST", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert main(line.split()) != 0
    assert "asked for unix:///run/sampan/sampan.sock" in capsys.readouterr().err


@pytest.mark.parametrize("program", [[sys.executable, "-m", "sampan.cli"], [DOCKER]])
def test_standard_input_and_output_are_joined_to_the_daemon(
    daemon: Daemon, program: list[str]
) -> None:
    """What ``ssh://`` runs at the other end; the input's end goes through, the output comes."""
    done = subprocess.run(
        [*program, "-H", daemon.host, "system", "dial-stdio"],
        input=b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"HTTP/1.1 200 OK\r\n") and done.stdout.endswith(b"OK")
