"""run: in the foreground and detached, with terminals, signals and descriptors."""

from __future__ import annotations

import array
import json
import os
import pty
import select
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from sampan.kernel.cgroups import detect
from sampan.kernel.terminals import set_window_size
from tests.runtime.command.runtime import FOREVER, Runtime, groups_of, make_bundle

pytestmark = pytest.mark.root


@pytest.mark.v2
def test_the_exit_status_and_output_are_the_programs(runtime: Runtime, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "one", "sh", "-c", "echo out; echo err >&2; cat; exit 7")
    done = runtime.run("run", "-b", str(bundle), "one", input="in\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\nin\n", "err\n")
    assert os.listdir(runtime.root) == []
    assert groups_of(bundle) == []


def test_a_signal_ends_it_as_a_shell_would_say(runtime: Runtime, tmp_path: Path) -> None:
    bundle = make_bundle(
        tmp_path / "one",
        "sh",
        "-c",
        "kill -KILL $$; sleep 9",
        linux={"namespaces": [{"type": "mount"}]},
    )
    assert runtime.run("run", "-b", str(bundle), "one").returncode == 128 + 9


def test_keep_keeps_what_has_ended(runtime: Runtime, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "one", "true")
    runtime.ok("run", "--keep", "-b", str(bundle), "one")
    assert runtime.status("one") == "stopped"
    runtime.ok("delete", "one")


def test_signals_are_passed_on(runtime: Runtime, tmp_path: Path) -> None:
    bundle = make_bundle(
        tmp_path / "one",
        "sh",
        "-c",
        "trap 'echo got; exit 3' USR1; echo ready; while :; do sleep 0.05; done",
    )
    with subprocess.Popen(
        runtime.argv("run", "-b", str(bundle), "one"), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.read() == "got\n"
        assert process.wait(60) == 3


def test_detached_it_returns_at_once(runtime: Runtime, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "one", *FOREVER)
    pid_file = tmp_path / "pid"
    runtime.quiet("run", "--detach", "--pid-file", str(pid_file), "-b", str(bundle), "one")
    assert runtime.status("one") == "running"
    assert runtime.state("one")["pid"] == int(pid_file.read_text())


@pytest.mark.parametrize(
    ("terminal", "words", "message"),
    [
        (True, ("--detach",), "needs --console-socket"),
        (True, ("--console-socket", "/x"), "--console-socket is for a detached process"),
        (False, ("--detach", "--console-socket", "/x"), "--console-socket is for a detached"),
    ],
)
def test_the_rules_of_terminals(
    runtime: Runtime, tmp_path: Path, terminal: bool, words: tuple[str, ...], message: str
) -> None:
    bundle = make_bundle(tmp_path / "one", process={"terminal": terminal})
    assert message in runtime.fails("run", *words, "-b", str(bundle), "one")
    assert groups_of(bundle) == []


def read_until(fd: int, wanted: bytes, patience: float = 60) -> bytes:
    """What a terminal says, up to ``wanted``."""
    seen = b""
    deadline = time.monotonic() + patience
    while wanted not in seen:
        ready, _, _ = select.select([fd], [], [], max(deadline - time.monotonic(), 0))
        assert ready, seen
        try:
            seen += os.read(fd, 4096)
        except OSError:
            raise AssertionError(seen) from None
    return seen


def test_a_terminal_in_the_foreground(runtime: Runtime, tmp_path: Path) -> None:
    """Its size is there before the program is, and follows ours."""
    script = "stty size; tty; read line; stty size; echo got $line; exit 6"
    bundle = make_bundle(tmp_path / "one", "sh", "-c", script, process={"terminal": True})
    pid, master = pty.fork()
    if pid == 0:
        set_window_size(0, 33, 77)
        os.execv(runtime.argv()[0], runtime.argv("run", "-b", str(bundle), "one"))
    try:
        seen = read_until(master, b"/dev/pts/0")
        set_window_size(master, 44, 88)
        os.write(master, b"hello\n")
        seen += read_until(master, b"got hello")
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 6
        assert b"33 77" in seen
        assert b"44 88" in seen
    finally:
        os.close(master)


def received(server: socket.socket) -> tuple[bytes, int]:
    """The one message of one connection: its text and its descriptor."""
    server.settimeout(60)
    connection, _ = server.accept()
    with connection:
        text, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(4))
    ((_, _, data),) = ancillary
    return text, array.array("i", data[:4])[0]


def test_the_console_socket_gets_the_master(runtime: Runtime, tmp_path: Path) -> None:
    script = "tty; stty size; while :; do sleep 0.05; done"
    bundle = make_bundle(
        tmp_path / "one",
        "sh",
        "-c",
        script,
        process={"terminal": True, "consoleSize": {"height": 12, "width": 34}},
    )
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        runtime.quiet("create", "--console-socket", path, "-b", str(bundle), "one")
        name, master = received(server)
        try:
            assert os.isatty(master)
            assert name
            runtime.ok("start", "one")
            assert b"/dev/pts/0" in read_until(master, b"12 34")
        finally:
            os.close(master)


def test_the_pidfd_socket_gets_a_pidfd(runtime: Runtime, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "one")
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        runtime.quiet("run", "-d", "--pidfd-socket", path, "-b", str(bundle), "one")
        _, pidfd = received(server)
    try:
        info = Path(f"/proc/self/fdinfo/{pidfd}").read_text()
        assert f"Pid:\t{runtime.state('one')['pid']}" in info
    finally:
        os.close(pidfd)


def test_descriptors_are_kept_only_where_asked(runtime: Runtime, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "one", "sh", "-c", "echo /proc/self/fd/*; cat <&3")
    reader, writer = os.pipe()
    os.write(writer, b"through\n")
    os.close(writer)
    other = os.open("/etc/hostname", os.O_RDONLY)
    try:
        argv = runtime.argv("run", "--preserve-fds", "1", "-b", str(bundle), "one")
        pid = os.fork()
        if pid == 0:
            os.dup2(other, 9)
            os.dup2(reader, 3)
            os.dup2(other, 4)
            out = os.open(tmp_path / "out", os.O_CREAT | os.O_WRONLY)
            os.dup2(out, 1)
            os.execv(argv[0], argv)
        _, status = os.waitpid(pid, 0)
    finally:
        os.close(reader)
        os.close(other)
    assert status == 0
    listed, text = (tmp_path / "out").read_text().splitlines()
    names = {name.rpartition("/")[2] for name in listed.split()}
    assert names <= {"0", "1", "2", "3", "self"} | {"4"}  # 4: the shell reads the directory
    assert text == "through"


def test_sockets_of_activation_are_passed_through(runtime: Runtime, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "one", "sh", "-c", "echo $LISTEN_FDS $LISTEN_PID; cat <&3")
    reader, writer = os.pipe()
    os.write(writer, b"activated\n")
    os.close(writer)
    argv = runtime.argv("run", "-b", str(bundle), "one")
    pid = os.fork()
    if pid == 0:
        os.dup2(reader, 3)
        out = os.open(tmp_path / "out", os.O_CREAT | os.O_WRONLY)
        os.dup2(out, 1)
        environment = {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid()), "PATH": "/bin"}
        os.execve(argv[0], argv, environment)
    os.close(reader)
    os.waitpid(pid, 0)
    assert (tmp_path / "out").read_text().splitlines() == ["1 1", "activated"]


def test_orphans_are_reaped_meanwhile(runtime: Runtime, tmp_path: Path) -> None:
    """Without a pid namespace they become children of the subreaper."""
    script = "(sh -c 'sleep 0.1' &) ; sleep 0.4; exit 4"
    bundle = make_bundle(
        tmp_path / "one", "sh", "-c", script, linux={"namespaces": [{"type": "mount"}]}
    )
    assert runtime.run("run", "-b", str(bundle), "one").returncode == 4
    assert runtime.run("run", "--no-subreaper", "-b", str(bundle), "one").returncode == 4


def test_without_pivot_root(runtime: Runtime, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "one", "ls", "/")
    out = runtime.ok("run", "--no-pivot", "-b", str(bundle), "one")
    assert "etc" in out.split() and "boot" not in out.split()


def with_machine(bundle: Path) -> None:
    """The machine's own programs, read-only, in a bundle's container."""
    import json

    path = bundle / "config.json"
    config = json.loads(path.read_text())
    config["root"]["readonly"] = False
    for name in ("usr", "lib", "lib64"):
        if (Path("/") / name).is_symlink():
            (bundle / "rootfs" / name).symlink_to((Path("/") / name).readlink())
        elif (Path("/") / name).is_dir():
            config["mounts"].append(
                {
                    "destination": f"/{name}",
                    "type": "bind",
                    "source": f"/{name}",
                    "options": ["rbind", "ro"],
                }
            )
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("how", ["run", "run --detach", "create and start"])
def test_readiness_reaches_the_service_manager(runtime: Runtime, tmp_path: Path, how: str) -> None:
    program = (
        "import os, socket, time; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); "
        "s.sendto(b'STATUS=busy', os.environ['NOTIFY_SOCKET']); "
        "s.sendto(b'READY=1\\nMAINPID=1', os.environ['NOTIFY_SOCKET']); time.sleep(0.3)"
    )
    bundle = make_bundle(tmp_path / "one", "/usr/bin/python3", "-ISc", program)
    with_machine(bundle)
    path = str(tmp_path / "manager")
    environment = {**os.environ, "NOTIFY_SOCKET": path}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(60)
        with open("/dev/null", "r+b") as null:
            streams: dict[str, Any] = {"stdin": null, "stdout": null, "stderr": null}
            given = ("--pid-file", str(tmp_path / "pid"), "-b", str(bundle), "one")
            steps: dict[str, list[tuple[str, ...]]] = {
                "run": [("run", *given)],
                "run --detach": [("run", "--detach", *given)],
                "create and start": [("create", *given), ("start", "one")],
            }
            for words in steps[how]:
                subprocess.run(
                    runtime.argv(*words), check=True, env=environment, timeout=60, **streams
                )
        assert manager.recv(4096) == f"READY=1\nMAINPID={(tmp_path / 'pid').read_text()}".encode()
    if how != "run":
        runtime.ok("delete", "--force", "one")
    assert [name for name in os.listdir(runtime.root) if "notify" in name] == []


def test_a_session_keyring_of_its_own_unless_told_not_to(runtime: Runtime, tmp_path: Path) -> None:
    def keyrings() -> str:
        return Path("/proc/keys").read_text()

    if not Path("/proc/keys").exists():
        pytest.skip("this kernel has no keys")
    mark = f"keys-{os.getpid()}"
    runtime.quiet("run", "-d", "-b", str(make_bundle(tmp_path / "one")), f"{mark}-own")
    assert f"{mark}-own" in keyrings()
    bundle = str(make_bundle(tmp_path / "two"))
    runtime.quiet("run", "-d", "--no-new-keyring", "-b", bundle, f"{mark}-callers")
    assert f"{mark}-callers" not in keyrings()


def test_a_cgroup_by_systemds_name(runtime: Runtime, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "one")
    config = json.loads((bundle / "config.json").read_text())
    config["linux"]["cgroupsPath"] = f"sampan{os.getpid()}-test.slice:name:one"
    (bundle / "config.json").write_text(json.dumps(config))
    top = f"sampan{os.getpid()}.slice"
    place = f"/{top}/sampan{os.getpid()}-test.slice/name-one.scope"
    try:
        runtime.quiet("--systemd-cgroup", "run", "-d", "-b", str(bundle), "one")
        pid = runtime.state("one")["pid"]
        rows = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        assert {row.split(":", 2)[2] for row in rows} == {place}
        runtime.ok("delete", "--force", "one")
        assert not any(Path(path).exists() for path in detect().group(place).paths().values())
    finally:
        detect().group(f"/{top}").destroy()
    assert "expected slice:prefix:name" in runtime.fails(
        "--systemd-cgroup", "run", "-b", str(make_bundle(tmp_path / "two")), "two"
    )
