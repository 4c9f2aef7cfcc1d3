"""exec: another process, as config.json's own but for what the command line says."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sampan.kernel.cgroups import detect
from tests.runtime.command.runtime import Runtime, make_bundle
from tests.runtime.command.test_run import read_until, received

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root


@pytest.fixture
def running(runtime: Runtime, tmp_path: Path) -> Iterator[Runtime]:
    runtime.quiet("run", "-d", "-b", str(make_bundle(tmp_path / "one")), "one")
    yield runtime


@pytest.mark.v2
def test_status_and_output(running: Runtime) -> None:
    done = running.run("exec", "one", "sh", "-c", "echo out; echo err >&2; cat; exit 9", input="i")
    assert (done.returncode, done.stdout, done.stderr) == (9, "out\ni", "err\n")


@pytest.mark.v2
def test_it_is_in_the_container(running: Runtime) -> None:
    pid = running.state("one")["pid"]
    names = ("mnt", "pid", "ipc", "uts", "net", "cgroup")
    links = " ".join(f"/proc/self/ns/{name}" for name in names)
    seen = running.ok("exec", "one", "sh", "-c", f"for l in {links}; do busybox readlink $l; done")
    assert seen.split() == [os.readlink(f"/proc/{pid}/ns/{name}") for name in names]
    own = running.ok("exec", "one", "cat", "/proc/self/cgroup")
    assert own == running.ok("exec", "one", "cat", "/proc/1/cgroup")


def test_user_directory_environment_and_groups(running: Runtime) -> None:
    words = (
        "--user",
        "5:6",
        "-g",
        "7",
        "--additional-gids",
        "8",
        "--cwd",
        "/tmp",
        "--env",
        "A=1",
        "-e",
        "B=2",
    )
    out = running.ok("exec", *words, "one", "sh", "-c", "id -u; id -g; id -G; pwd; echo $A$B")
    assert out.split("\n")[:5] == ["5", "6", "6 7 8", "/tmp", "12"]


def test_capabilities_and_no_new_privileges(running: Runtime) -> None:
    def field(name: str, *words: str) -> str:
        out = running.ok("exec", *words, "one", "cat", "/proc/self/status")
        return next(line.split()[1] for line in out.splitlines() if line.startswith(name + ":"))

    assert field("NoNewPrivs", "--no-new-privs") == "1"
    assert field("NoNewPrivs") == "0"
    base = int(field("CapEff"), 16)
    assert int(field("CapEff", "--cap", "NET_RAW"), 16) == base | 1 << 13


def test_a_process_from_a_file(running: Runtime, tmp_path: Path) -> None:
    path = tmp_path / "process.json"
    path.write_text(json.dumps({"args": ["sh", "-c", "pwd; exit 4"], "cwd": "/etc", "env": []}))
    path.write_text(path.read_text().replace('"sh"', '"/bin/sh"'))
    done = running.run("exec", "--process", str(path), "one")
    assert (done.returncode, done.stdout) == (4, "/etc\n")
    path.write_text('{"args": 5, "cwd": "/"}')
    assert "process.args" in running.fails("exec", "-p", str(path), "one", status=255)
    assert "exclude each other" in running.fails("exec", "-p", str(path), "one", "x", status=255)


def test_what_cannot_be_executed_is_255(running: Runtime) -> None:
    assert 'exec: "nosuch"' in running.fails("exec", "one", "nosuch", status=255)
    assert "permission denied" in running.fails("exec", "one", "/etc", status=255)
    assert "say a command" in running.fails("exec", "one", status=255)


def test_not_in_a_stopped_or_paused_container(running: Runtime) -> None:
    running.ok("pause", "one")
    assert "one is paused" in running.fails("exec", "one", "true", status=255)
    running.ok("resume", "one")
    running.ok("exec", "one", "true")
    running.ok("kill", "one", "KILL")
    running.wait("one", "stopped")
    assert "one is stopped" in running.fails("exec", "one", "true", status=255)


def test_in_a_paused_container_when_told_to_it_waits_for_the_resumption(running: Runtime) -> None:
    running.ok("pause", "one")
    words = running.argv("exec", "--ignore-paused", "one", "sh", "-c", "echo now; exit 5")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], 0.3)[0] == []
            running.ok("resume", "one")
            assert process.stdout.read() == "now\n"
            assert process.wait(60) == 5
        finally:
            process.kill()


def test_labels_of_a_module_that_is_off_are_refused(running: Runtime) -> None:
    if not Path("/sys/kernel/security/apparmor").exists():
        said = running.fails("exec", "--apparmor", "p", "one", "true", status=255)
        assert "process.apparmorProfile" in said
    if not Path("/sys/fs/selinux/enforce").exists():
        said = running.fails("exec", "--process-label", "a:b:c", "one", "true", status=255)
        assert "process.selinuxLabel" in said


def test_detached_with_a_pid_file(running: Runtime, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    running.quiet("exec", "-d", "--pid-file", str(pid_file), "one", "sleep", "1000")
    pid = int(pid_file.read_text())
    assert pid in json.loads(running.ok("ps", "-f", "json", "one"))
    assert b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_detached_terminal_goes_to_its_socket(running: Runtime, tmp_path: Path) -> None:
    assert "needs --console-socket" in running.fails("exec", "-t", "-d", "one", "tty", status=255)
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        script = "tty; sleep 100"
        words = ("exec", "--tty", "-d", "--console-socket", path, "one", "sh", "-c", script)
        running.quiet(*words)
        _, master = received(server)
    try:
        read_until(master, b"/dev/pts/0")
    finally:
        os.close(master)


def test_below_the_containers_cgroup(running: Runtime, tmp_path: Path) -> None:
    group = detect().group(f"/sampan-test-{os.getpid()}/one")
    below = group.child("below")
    controller = "pids"
    missing = running.fails("exec", "--cgroup", "nosuch", "one", "true", status=255)
    assert "there is no cgroup" in missing
    if group.hierarchy.kind == "v2":
        pytest.skip("a v2 group with processes hands no controllers down")
    below.create()
    try:
        out = running.ok(
            "exec", "--cgroup", f"{controller}:below", "one", "cat", "/proc/self/cgroup"
        )
        rows = dict(line.split(":", 2)[1:] for line in out.splitlines())
        assert rows["pids"] == "/below"
        assert rows["memory"] == "/"
        out = running.ok("exec", "--cgroup", "below", "one", "cat", "/proc/self/cgroup")
        assert {line.split(":", 2)[2] for line in out.splitlines()} == {"/below"}
    finally:
        below.destroy()
