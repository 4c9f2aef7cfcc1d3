"""A container from its configuration to its exit, and what is left after a failure: nothing."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import socket
import stat
from typing import TYPE_CHECKING, Any

import pytest

from sampan.errors import (
    CommandNotExecutable,
    CommandNotFound,
    Conflict,
    InvalidArgument,
    KernelError,
    SampanError,
)
from sampan.kernel import cgroups
from sampan.kernel.processes import get_rlimit, process_state
from sampan.kernel.scheduling import IO_CLASSES, get_io_priority
from sampan.kernel.syscalls import syscall
from sampan.runtime import gate
from sampan.runtime.launch import Launch, create
from tests.kernel.forked import run_forked
from tests.runtime.containers import Run, make_bundle, run, shell, spec_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle"))


def descriptors() -> set[tuple[str, str]]:
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add((number, os.readlink(f"/proc/self/fd/{number}")))
        except FileNotFoundError:
            pass  # the listing's own
    return found


def children() -> set[str]:
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
        return set(file.read().split())


@pytest.fixture
def nothing_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Descriptors, processes, mounts and cgroups are the same before and after."""
    gc.collect()
    base = tmp_path_factory.getbasetemp()

    def picture() -> tuple[Any, ...]:
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            mounts = [line for line in file if f"{base}/" in line]  # not another run's
        group = cgroups.detect().group("/sampan-test-launch")
        return descriptors(), children(), mounts, group.exists()

    before = picture()
    yield
    assert picture() == before


@pytest.mark.v2
def test_a_command_runs_and_its_status_comes_back(bundle: Path) -> None:
    assert run(bundle, "sh", "-c", "echo hello; exit 3") == (3, "hello\n")


def test_a_signal_that_ends_the_program_comes_back_as_minus_its_number(bundle: Path) -> None:
    container = Run(bundle, spec_of("sleep", "100"))
    container.child.start()
    os.kill(container.child.pid, signal.SIGKILL)
    assert container.end()[0] == -signal.SIGKILL


def test_create_waits_at_the_gate_with_everything_but_the_program_done(bundle: Path) -> None:
    container = Run(bundle, spec_of("hostname", hostname="boat"))
    pid = container.child.pid
    assert process_state(pid) in ("S", "R")
    with open(f"/proc/{pid}/root/etc/passwd", encoding="ascii") as file:
        assert "Ada" in file.read()
    assert container.finish() == (0, "boat\n")


def test_only_stdio_is_open_in_the_program(bundle: Path) -> None:
    leak = os.open("/", os.O_RDONLY)
    os.set_inheritable(leak, True)
    try:
        listing = shell(bundle, "ls /proc/self/fd").split()
    finally:
        os.close(leak)
    assert listing == ["0", "1", "2", "3"]  # 3 is ls's own


def test_preserved_and_listening_descriptors_are_passed_and_told_of(bundle: Path) -> None:
    script = "cat <&3; cat <&4; echo $LISTEN_FDS $LISTEN_PID; ls /proc/self/fd"
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.closerange(3, 20)
            for text in (b"three ", b"four "):
                read, write = os.pipe()
                os.write(write, text)
                os.close(write)
                os.set_inheritable(read, True)
            os.dup2(5, 4) if os.path.exists("/proc/self/fd/5") else None
            code, output = run(
                bundle, "sh", "-c", script, options={"listen_fds": 1, "preserve_fds": 1}
            )
            if output.split()[:4] != ["three", "four", "1", "1"]:
                code = 2
            if output.split()[4:] != ["0", "1", "2", "3", "4", "5"]:
                code = 3
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_descriptor_to_preserve_must_be_open(bundle: Path) -> None:
    with pytest.raises(InvalidArgument, match="to be preserved"):
        create(Launch("x", spec_of("true"), str(bundle), preserve_fds=2000))


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("no-such-command", CommandNotFound),
        ("/bin/no-such-command", CommandNotFound),
        ("/etc/passwd/x", CommandNotFound),
        ("/etc/passwd", CommandNotExecutable),
        ("/etc", CommandNotExecutable),
        ("/bin/bad-interpreter", CommandNotExecutable),
    ],
)
@pytest.mark.usefixtures("nothing_left")
def test_a_command_that_cannot_run_is_refused_at_create(
    bundle: Path, command: str, kind: type[SampanError]
) -> None:
    script = bundle / "rootfs/bin/bad-interpreter"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    with pytest.raises(kind) as caught:
        Run(bundle, spec_of(command))
    assert command in caught.value.message
    assert caught.value.exit_code == (127 if kind is CommandNotFound else 126)


@pytest.mark.usefixtures("nothing_left")
def test_a_file_that_is_no_program_is_refused_at_start(bundle: Path) -> None:
    path = bundle / "rootfs/bin/garbage"
    path.write_bytes(b"\0\0\0\0garbage")
    path.chmod(0o755)
    container = Run(bundle, spec_of("garbage"))
    with pytest.raises(CommandNotExecutable, match="exec format error"):
        container.child.start()
    os.close(container.output_fd)


def test_the_command_is_looked_up_as_the_containers_user(bundle: Path) -> None:
    path = bundle / "rootfs/bin/roots-only"
    path.write_text("#!/bin/sh\necho ran\n")
    path.chmod(0o700)
    assert run(bundle, "roots-only") == (0, "ran\n")
    with pytest.raises(CommandNotExecutable, match="roots-only"):
        process = {"user": {"uid": 1000, "gid": 1000}, "capabilities": None}
        Run(bundle, spec_of("roots-only", process=process))


def test_user_groups_umask_and_home(bundle: Path) -> None:
    user = {"uid": 1000, "gid": 1000, "additionalGids": [10, 20], "umask": 0o27}
    process = {"user": user, "env": ["PATH=/bin"]}
    output = shell(bundle, "id -u; id -g; id -G; umask; echo $HOME", process=process)
    assert output.split("\n") == ["1000", "1000", "1000 10 20", "0027", "/home/ada"]


def test_a_user_by_name_is_resolved_in_the_root(bundle: Path) -> None:
    process = {"user": {"username": "ada"}, "env": ["PATH=/bin"]}
    assert shell(bundle, "id -u; id -G; echo $HOME", process=process).split("\n") == [
        "1000",
        "1000 10",
        "/home/ada",
    ]
    process = {"user": {"username": "ada:wheel"}, "env": ["PATH=/bin"]}
    assert shell(bundle, "id -u; id -g", process=process).split() == ["1000", "10"]


@pytest.mark.usefixtures("nothing_left")
def test_an_unknown_user_is_refused(bundle: Path) -> None:
    with pytest.raises(InvalidArgument, match="unable to find user nobody-here"):
        Run(bundle, spec_of("true", process={"user": {"username": "nobody-here"}}))


def test_capabilities_are_those_asked_for(bundle: Path) -> None:
    wanted = ["CAP_KILL", "CAP_CHOWN"]
    sets = dict.fromkeys(("bounding", "effective", "permitted"), wanted)
    output = shell(bundle, "grep Cap /proc/self/status", process={"capabilities": sets})
    values = {line.split()[0]: int(line.split()[1], 16) for line in output.split("\n")}
    assert values == {"CapInh:": 0, "CapPrm:": 0x21, "CapEff:": 0x21, "CapBnd:": 0x21, "CapAmb:": 0}


def test_without_capabilities_root_has_none(bundle: Path) -> None:
    output = shell(bundle, "grep Cap /proc/self/status", process={"capabilities": None})
    assert {line.split()[1] for line in output.split("\n")} == {"0" * 16}


def test_ambient_capabilities_reach_a_user(bundle: Path) -> None:
    names = ("bounding", "effective", "permitted", "inheritable", "ambient")
    process = {
        "user": {"uid": 1000, "gid": 1000},
        "capabilities": {name: ["CAP_NET_RAW"] for name in names},
    }
    output = shell(bundle, "grep Cap /proc/self/status", process=process)
    assert {line.split()[1] for line in output.split("\n")} == {"0000000000002000"}


def test_a_capability_that_nobody_can_grant_is_a_warning(bundle: Path) -> None:
    sets = {name: ["CAP_KILL", "CAP_NO_SUCH"] for name in ("bounding", "effective", "permitted")}
    container = Run(bundle, spec_of("true", process={"capabilities": sets}))
    assert any("CAP_NO_SUCH" in warning for warning in container.child.warnings)
    assert container.finish()[0] == 0


def test_what_runc_spec_asks_of_the_ambient_set_is_no_warning(bundle: Path) -> None:
    sets = {name: ["CAP_KILL"] for name in ("bounding", "effective", "permitted", "ambient")}
    container = Run(bundle, spec_of("true", process={"capabilities": sets}))
    assert container.child.warnings == ()
    assert container.finish()[0] == 0


def test_rlimits(bundle: Path) -> None:
    limits = [{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128}]
    process = {"rlimits": limits}
    assert shell(bundle, "ulimit -n; ulimit -Hn", process=process).split() == ["64", "128"]


@pytest.mark.usefixtures("nothing_left")
def test_a_limit_above_the_maximum_is_refused_by_name(bundle: Path) -> None:
    with open("/proc/self/status", encoding="ascii") as file:
        effective = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff"))
    if effective & 1 << 24:
        pytest.skip("this process has CAP_SYS_RESOURCE")
    _, hard = get_rlimit(0, "RLIMIT_NOFILE")
    limits = [{"type": "RLIMIT_NOFILE", "soft": hard + 1, "hard": hard + 1}]
    with pytest.raises(InvalidArgument, match=f"RLIMIT_NOFILE.*maximum {hard}"):
        Run(bundle, spec_of("true", process={"rlimits": limits}))


def test_no_new_privileges_and_oom_score(bundle: Path) -> None:
    process = {"noNewPrivileges": True, "oomScoreAdj": 500}
    script = "grep NoNewPrivs /proc/self/status; cat /proc/self/oom_score_adj"
    assert shell(bundle, script, process=process).split() == ["NoNewPrivs:", "1", "500"]


def test_scheduler_and_io_priority(bundle: Path) -> None:
    process = {
        "scheduler": {"policy": "SCHED_BATCH", "nice": 5},
        "ioPriority": {"class": "IOPRIO_CLASS_IDLE"},
    }
    container = Run(bundle, spec_of("true", process=process))
    pid = container.child.pid
    assert os.sched_getscheduler(pid) == os.SCHED_BATCH
    assert os.getpriority(os.PRIO_PROCESS, pid) == 5
    assert get_io_priority(pid)[0] == IO_CLASSES["IOPRIO_CLASS_IDLE"]
    container.finish()


def test_memory_policy(bundle: Path) -> None:
    linux = {"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0"}}
    try:
        container = Run(bundle, spec_of("true", linux=linux))
    except SampanError as error:
        if "ENOSYS" in error.message:
            pytest.skip("a kernel without NUMA")
        raise
    with open(f"/proc/{container.child.pid}/numa_maps", encoding="ascii") as file:
        assert "bind:0" in file.read()
    assert container.finish()[0] == 0


def test_personality(bundle: Path) -> None:
    machine = shell(bundle, "uname -m", linux={"personality": {"domain": "LINUX32"}})
    assert machine in ("i686", "armv8l", "armv7l")


def test_ignored_signals_are_not_inherited(bundle: Path) -> None:
    ignored = (ctypes.c_long * 4)(int(signal.SIG_IGN), 0, 0, 0)

    def body() -> None:
        # 32 is the C library's own, which Python cannot set: a parent may have ignored it.
        syscall("rt_sigaction", 32, ignored, None, 8)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        _, output = run(bundle, "grep", "-E", "SigIgn|SigBlk", "/proc/self/status")
        assert output.split() == ["SigBlk:", "0" * 16, "SigIgn:", "0" * 16]

    run_forked(body)


def test_the_working_directory_is_made_and_entered(bundle: Path) -> None:
    assert shell(bundle, "pwd", process={"cwd": "/made/for/this"}) == "/made/for/this"


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("number", range(3, 24))
def test_a_working_directory_through_a_leaked_descriptor_is_refused(
    bundle: Path, number: int
) -> None:
    for cwd in (f"/proc/self/fd/{number}", f"/proc/self/fd/{number}/../../.."):
        with pytest.raises(InvalidArgument, match=r"process\.cwd"):
            Run(bundle, spec_of("true", process={"cwd": cwd}))


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("number", range(3, 24))
def test_a_program_through_a_leaked_descriptor_is_not_found(bundle: Path, number: int) -> None:
    with pytest.raises((CommandNotFound, CommandNotExecutable)):
        Run(bundle, spec_of(f"/proc/self/fd/{number}/bin/busybox"))


def test_a_closed_directory_is_entered_by_root_for_the_user(bundle: Path) -> None:
    secret = bundle / "rootfs/closed"
    secret.mkdir(exist_ok=True)
    secret.chmod(0o700)
    process = {"cwd": "/closed", "user": {"uid": 1000, "gid": 1000}}
    assert run(bundle, "/bin/true", process=process)[0] == 0


def test_a_terminal_is_the_containers_own(bundle: Path) -> None:
    process = {"terminal": True, "consoleSize": {"height": 30, "width": 100}}
    script = "tty; stty size; ls -l /dev/console; exec >/dev/tty; echo through"
    spec = spec_of("sh", "-c", script, process=process)
    child = create(Launch("x", spec, str(bundle)))
    assert os.major(os.fstat(child.console).st_rdev) == 5
    child.start()
    data = b""
    try:
        while chunk := os.read(child.console, 4096):
            data += chunk
    except OSError:
        pass  # EIO: the last slave was closed
    assert child.wait() == 0
    child.close()
    lines = data.decode().split("\r\n")
    assert lines[0] in ("/dev/console", "/dev/pts/0")
    assert lines[1] == "30 100"
    assert lines[2].startswith("c")
    assert lines[3] == "through"


def test_the_terminal_goes_to_the_console_socket(bundle: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "console.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(path)
        server.listen()
        spec = spec_of("echo", "seen", process={"terminal": True})
        child = create(Launch("x", spec, str(bundle), console_socket=path))
        with server.accept()[0] as sock:
            name, fds, _, _ = socket.recv_fds(sock, 4096, 4)
        assert child.console == -1
        assert name == b"/dev/pts/0" and len(fds) == 1
        child.start()
        assert os.read(fds[0], 100) == b"seen\r\n"
        os.close(fds[0])
        child.wait()
        child.close()


@pytest.mark.usefixtures("nothing_left")
def test_a_terminal_needs_a_devpts(bundle: Path) -> None:
    spec = spec_of("true", process={"terminal": True}, mounts=[])
    with pytest.raises(InvalidArgument, match=r"process\.terminal"):
        create(Launch("x", spec, str(bundle)))


@pytest.mark.v2
@pytest.mark.usefixtures("nothing_left")
def test_abort_leaves_nothing_of_a_created_container(bundle: Path) -> None:
    group = cgroups.detect().group("/sampan-test-launch")
    container = Run(bundle, spec_of("sleep", "100"), group=group)
    pid = container.child.pid
    assert pid in group.processes()
    container.child.abort()
    os.close(container.output_fd)
    assert process_state(pid) is None


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    "changes",
    [
        {"process": {"args": ["missing"]}},
        {"process": {"cwd": "/proc/self/fd/9"}},
        {"process": {"user": {"username": "who"}}},
        {"mounts": [{"destination": "/x", "type": "bind", "source": "/no/such/source"}]},
        {"mounts": [{"destination": "/x", "type": "nosuchfs", "source": "none"}]},
        {"linux": {"namespaces": [{"type": "network", "path": "/no/such/netns"}]}},
        {"linux": {"namespaces": [{"type": "network", "path": "/etc/passwd"}]}},
        {"hooks": {"createRuntime": [{"path": "/bin/false"}]}},
        {"hooks": {"createContainer": [{"path": "/bin/false"}]}},
        {"hooks": {"prestart": [{"path": "/no/such/hook"}]}},
    ],
)
def test_a_failing_configuration_leaves_nothing(bundle: Path, changes: dict[str, Any]) -> None:
    group = cgroups.detect().group("/sampan-test-launch")
    with pytest.raises(SampanError):
        Run(bundle, spec_of("true", **changes), group=group)


@pytest.mark.v2
def test_a_group_in_use_is_refused_and_left_alone(bundle: Path) -> None:
    group = cgroups.detect().group("/sampan-test-launch")
    first = Run(bundle, spec_of("sleep", "100"), group=group)
    try:
        with pytest.raises(Conflict):
            Run(bundle, spec_of("true"), group=group)
        assert process_state(first.child.pid) is not None
    finally:
        first.child.abort()
        os.close(first.output_fd)
    assert not group.exists()


def test_init_dies_with_its_parent(bundle: Path) -> None:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            child = create(Launch("x", spec_of("sleep", "100"), str(bundle)))
            child.start()
            os.write(write, str(child.pid).encode())
        finally:
            os._exit(0)
    os.close(write)
    init = int(os.read(read, 100))
    os.close(read)
    os.waitpid(pid, 0)
    try:
        pidfd = os.pidfd_open(init)
    except ProcessLookupError:
        return
    import select

    assert select.select([pidfd], [], [], 5)[0]
    os.close(pidfd)


def test_a_program_without_privileges_still_dies_with_its_parent(bundle: Path) -> None:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            spec = spec_of("sleep", "100", process={"user": {"uid": 1000, "gid": 1000}})
            child = create(Launch("x", spec, str(bundle)))
            child.start()
            os.write(write, str(child.pid).encode())
        finally:
            os._exit(0)
    os.close(write)
    init = int(os.read(read, 100))
    os.close(read)
    os.waitpid(pid, 0)
    try:
        pidfd = os.pidfd_open(init)
    except ProcessLookupError:
        return
    import select

    assert select.select([pidfd], [], [], 5)[0]
    os.close(pidfd)


def test_the_waiting_init_is_not_dumpable(bundle: Path) -> None:
    """Its /proc files belong to root, whatever user it will run as (CVE-2016-9962)."""
    spec = spec_of("true", process={"user": {"uid": 1000, "gid": 1000}})
    container = Run(bundle, spec)
    try:
        assert os.stat(f"/proc/{container.child.pid}/mem").st_uid == 0
    finally:
        container.finish()


def test_an_interpreter_of_the_hosts_cannot_be_reached(bundle: Path) -> None:
    """CVE-2019-5736: a program named /proc/self/exe would be our interpreter, opened again."""
    with pytest.raises((CommandNotFound, CommandNotExecutable, KernelError)):
        Run(bundle, spec_of("/proc/self/exe")).finish()


class TestGateOfFifos:
    def test_another_process_starts_it(self, bundle: Path, tmp_path: Path) -> None:
        container = Run(bundle, spec_of("echo", "later"), gate_dir=str(tmp_path))
        assert stat.S_ISFIFO((tmp_path / "exec.fifo").stat().st_mode)
        gate.open_by_start(str(tmp_path))
        assert container.end() == (0, "later\n")
        assert list(tmp_path.iterdir()) == []

    def test_it_starts_once(self, bundle: Path, tmp_path: Path) -> None:
        container = Run(bundle, spec_of("true"), gate_dir=str(tmp_path))
        gate.open_by_start(str(tmp_path))
        with pytest.raises(Conflict):
            gate.open_by_start(str(tmp_path))
        container.end()

    def test_start_gets_the_error_of_the_execution(self, bundle: Path, tmp_path: Path) -> None:
        path = bundle / "rootfs/bin/garbage"
        path.write_bytes(b"\0\0\0\0garbage")
        path.chmod(0o755)
        container = Run(bundle, spec_of("garbage"), gate_dir=str(tmp_path))
        with pytest.raises(CommandNotExecutable, match="exec format error"):
            gate.open_by_start(str(tmp_path))
        container.end()

    def test_start_says_when_init_is_gone(self, bundle: Path, tmp_path: Path) -> None:
        container = Run(bundle, spec_of("true"), gate_dir=str(tmp_path))
        os.kill(container.child.pid, signal.SIGKILL)
        container.end()
        with pytest.raises(SampanError, match="ended"):
            gate.open_by_start(str(tmp_path))
