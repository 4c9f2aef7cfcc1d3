"""The small init: it forwards signals, reaps, gives the program's status, and holds nothing."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from sampan.errors import CommandNotExecutable
from sampan.runtime.launch import Launch, create
from tests.runtime.containers import Run, make_bundle, run, shell, spec_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.root

INIT = {"init_process": True}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle"))


def test_the_program_is_not_pid_1_and_its_status_is_inits(bundle: Path) -> None:
    code, output = run(bundle, "sh", "-c", "echo $$; exit 5", options=INIT)
    assert (code, output.strip() != "1") == (5, True)


def test_the_status_after_a_signal_is_128_and_its_number(bundle: Path) -> None:
    assert run(bundle, "sh", "-c", "kill -TERM $$", options=INIT)[0] == 143


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_signals_are_forwarded(bundle: Path, number: int) -> None:
    container = Run(bundle, spec_of("sh", "-c", "echo up; exec sleep 100"), **INIT)
    container.child.start()
    assert os.read(container.output_fd, 3) == b"up\n"
    os.kill(container.child.pid, number)
    assert container.end()[0] == 128 + number


def test_a_program_without_a_handler_can_be_terminated(bundle: Path) -> None:
    """As PID 1 it would ignore SIGTERM (pid_namespaces(7))."""
    container = Run(bundle, spec_of("sleep", "100"))
    container.child.start()
    os.kill(container.child.pid, signal.SIGTERM)
    os.kill(container.child.pid, signal.SIGKILL)
    assert container.end()[0] == -signal.SIGKILL


def test_orphans_are_reaped(bundle: Path) -> None:
    script = "(sleep 0 &) ; (true &) ; sleep 0.3; grep -l 'State:.Z' /proc/[0-9]*/status"
    code, output = run(bundle, "sh", "-c", script, options=INIT)
    assert (code, output) == (1, "")


def test_init_holds_no_descriptor_no_capability_and_is_not_dumpable(bundle: Path) -> None:
    container = Run(bundle, spec_of("sh", "-c", "echo up; sleep 100"), **INIT)
    container.child.start()
    os.read(container.output_fd, 3)
    pid = container.child.pid
    assert os.listdir(f"/proc/{pid}/fd") == []
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    assert status["Name"] == "sampan-init"
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0x20
    os.kill(pid, signal.SIGKILL)
    container.end()


def test_its_file_of_the_hosts_cannot_be_opened_from_inside(bundle: Path) -> None:
    """CVE-2019-5736: /proc/1/exe is the interpreter that runs init."""
    script = "cat /proc/1/exe 2> /dev/null > /dev/null || echo refused"
    assert shell(bundle, script, options=INIT) == "refused"


def test_a_failing_execution_is_reported(bundle: Path) -> None:
    path = bundle / "rootfs/bin/garbage"
    path.write_bytes(b"\0\0\0\0garbage")
    path.chmod(0o755)
    container = Run(bundle, spec_of("garbage"), **INIT)
    with pytest.raises(CommandNotExecutable, match="exec format error"):
        container.child.start()
    os.close(container.output_fd)


def test_output_ends_with_the_program_though_init_lives_on(bundle: Path) -> None:
    container = Run(bundle, spec_of("sh", "-c", "sleep 0.2 & exec echo done"), **INIT)
    assert container.finish() == (0, "done\n")


def test_an_unprivileged_program(bundle: Path) -> None:
    process = {"user": {"uid": 1000, "gid": 1000}, "capabilities": None, "noNewPrivileges": True}
    assert run(bundle, "id", "-u", options=INIT, process=process) == (0, "1000\n")


def test_without_a_pid_namespace_it_is_a_subreaper(bundle: Path) -> None:
    linux = {"namespaces": [{"type": name} for name in ("mount", "uts", "ipc", "network")]}
    assert run(bundle, "sh", "-c", "exit 6", options=INIT, linux=linux)[0] == 6


def test_the_program_is_in_the_terminals_foreground(bundle: Path) -> None:
    """Else reading would stop it (SIGTTIN), and ^C would reach init alone."""
    spec = spec_of("sh", "-c", "read line; echo got $line; sleep 100", process={"terminal": True})
    child = create(Launch("x", spec, str(bundle), init_process=True))
    child.start()
    os.write(child.console, b"hello\n")
    data = b""
    while b"got hello\r\n" not in data:
        data += os.read(child.console, 100)
    os.write(child.console, b"\x03")
    assert child.wait() == 128 + signal.SIGINT
    child.close()
