"""How a command ends when something around it does not go on: a stream, patience, a start."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Sampan
from tests.daemon_fixture import Daemon

pytestmark = pytest.mark.root

DEADLINE = 60.0


def shell(daemon: Daemon, script: str) -> subprocess.CompletedProcess[str]:
    """A line of shell in which ``$S`` is our client."""
    return subprocess.run(
        ["sh", "-c", script],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "S": f"{sys.executable} -m sampan.cli"}
        | {"DOCKER_HOST": daemon.host, "HOME": str(daemon.root)},
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("script", "status", "output", "errors"),
    [
        ("$S ps -a >&-", 0, "", ""),
        ("$S ps -q <&-", 0, "", ""),
        ("$S run --rm --network none host echo hi <&-", 0, "hi\n", ""),
        ("$S run --rm --network none host sh -c 'echo out; echo err >&2' >&-", 0, "", "err\n"),
        ("$S run --rm --network none host sh -c 'echo out; exit 3' 2>&-", 3, "out\n", ""),
        ("$S ps surplus 2>&-", 1, "", ""),
        ("$S inspect nope >/dev/full", 1, "", None),
    ],
)
def test_a_stream_that_the_caller_closed_is_as_dev_null(
    daemon: Daemon, script: str, status: int, output: str, errors: str | None
) -> None:
    done = shell(daemon, script)
    assert (done.returncode, done.stdout) == (status, output), done.stderr
    assert "Traceback" not in done.stderr
    assert errors is None or done.stderr == errors


def test_the_third_interrupt_gives_the_terminal_back(daemon: Daemon) -> None:
    """A first process without a handler does not see SIGINT: its user is not held for ever."""
    words = ["run", "--rm", "--name", "stubborn", "--network", "none", "host", "sleep", "600"]
    client = subprocess.Popen(
        [sys.executable, "-m", "sampan.cli", "-H", daemon.host, *words],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        daemon.wait_for(lambda: daemon.get("/containers/stubborn/json").status == 200)
        daemon.wait_for(lambda: daemon.state("stubborn")["Running"])
        sent, deadline = 0, time.monotonic() + DEADLINE
        while client.poll() is None and time.monotonic() < deadline:
            client.send_signal(signal.SIGINT)
            sent += 1
            try:
                client.wait(0.5)
            except subprocess.TimeoutExpired:
                continue
        _, errors = client.communicate(timeout=DEADLINE)
        assert client.returncode == 1
        assert sent >= 3
        assert "the container goes on running" in errors
        assert daemon.state("stubborn")["Running"]
    finally:
        client.kill()
        client.wait()
        daemon.remove_all()


def test_a_container_that_does_not_start_is_named_all_the_same(sampan: Sampan) -> None:
    done = sampan("run", "-d", "--network", "none", "host", "nope")
    assert done.returncode == 127
    assert "executable file not found" in done.stderr
    sampan("rm", done.stdout.strip(), check=True)


def test_the_identity_file_is_there_exactly_if_the_container_is(
    sampan: Sampan, tmp_path: Path
) -> None:
    kept = tmp_path / "id"
    flags = ("--cidfile", str(kept), "--network", "none")
    done = sampan("run", "--pull", "never", *flags, "nope:1")
    assert done.returncode == 125
    assert not kept.exists()
    nowhere = sampan("create", "--cidfile", f"{tmp_path}/none/id", "--name", "unmade", "host")
    assert nowhere.returncode == 1
    assert "No such file" in nowhere.stderr
    assert sampan("inspect", "unmade").returncode == 1  # refused before it was made
    made = sampan("create", *flags, "host", check=True).stdout.strip()
    assert kept.read_text() == made
    again = sampan("run", *flags, "host")
    assert (again.returncode, kept.read_text()) == (125, made)
    sampan("rm", made, check=True)


def test_who_has_no_registry_is_told_what_there_is_without_one(sampan: Sampan) -> None:
    done = sampan("run", "--rm", "127.0.0.1:1/away")
    assert done.returncode == 125
    assert "connection refused\nWithout a registry there is the image host" in done.stderr
    assert "Without a registry" not in sampan("run", "--pull", "never", "away").stderr
