"""Another process in a running container: where it is, what it may, and how it fails."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from sampan.errors import CommandNotExecutable, CommandNotFound, Conflict, InvalidArgument
from sampan.kernel import cgroups
from sampan.runtime.exec import RunningContainer, execute
from tests.runtime.containers import NAMESPACES, Run, make_bundle, process_of, spec_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sampan.runtime.child import Child

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def target(bundle: Path) -> Iterator[RunningContainer]:
    group = cgroups.detect().group("/sampan-test-exec")
    linux = {"namespaces": [{"type": name} for name in (*NAMESPACES, "time")]}
    spec = spec_of("sleep", "1000", hostname="boat", linux=linux)
    container = Run(bundle, spec, group=group)
    container.child.start()
    yield RunningContainer(
        container.child.pid, spec, group, id="x", start_time=container.child.start_time
    )
    container.child.abort()
    os.close(container.output_fd)


def run_in(target: RunningContainer, *args: str, **changes: Any) -> tuple[int, str]:
    read, write = os.pipe()
    null = os.open("/dev/null", os.O_RDONLY)
    try:
        child = execute(target, process_of(*args, **changes), (null, write, write))
    except BaseException:
        os.close(read)
        raise
    finally:
        os.close(write)
        os.close(null)
    data = b""
    while chunk := os.read(read, 65536):
        data += chunk
    os.close(read)
    code = child.wait()
    child.close()
    return code, data.decode()


def test_it_is_in_every_namespace_of_the_container(target: RunningContainer) -> None:
    names = ("cgroup", "ipc", "mnt", "net", "pid", "time", "uts")
    script = "; ".join(f"readlink /proc/self/ns/{name}" for name in names)
    code, output = run_in(target, "sh", "-c", script)
    assert code == 0
    assert output.split() == [os.readlink(f"/proc/{target.pid}/ns/{name}") for name in names]


@pytest.mark.v2
def test_it_is_in_the_containers_cgroup(target: RunningContainer) -> None:
    _, output = run_in(target, "cat", "/proc/self/cgroup")
    assert {line.split(":")[2] for line in output.split()} == {"/"}


def test_status_user_directory_and_environment(target: RunningContainer) -> None:
    code, output = run_in(
        target,
        "sh",
        "-c",
        "id -u; id -G; pwd; echo $HOME $NAME; hostname; exit 9",
        user={"uid": 1000, "gid": 1000, "additionalGids": [10]},
        cwd="/etc",
        env=["PATH=/bin", "NAME=value"],
    )
    assert code == 9
    assert output.split("\n")[:5] == ["1000", "1000 10", "/etc", "/home/ada value", "boat"]


def test_only_stdio_is_open(target: RunningContainer) -> None:
    leak = os.open("/", os.O_RDONLY)
    os.set_inheritable(leak, True)
    try:
        _, output = run_in(target, "ls", "/proc/self/fd")
    finally:
        os.close(leak)
    assert output.split() == ["0", "1", "2", "3"]


def test_capabilities_limits_and_no_new_privileges(target: RunningContainer) -> None:
    sets = {kind: ["CAP_KILL"] for kind in ("bounding", "effective", "permitted")}
    limits = [{"type": "RLIMIT_NOFILE", "soft": 50, "hard": 60}]
    script = "grep -E 'CapEff|CapBnd|NoNew' /proc/self/status; ulimit -n"
    _, output = run_in(
        target, "sh", "-c", script, capabilities=sets, rlimits=limits, noNewPrivileges=True
    )
    assert output.split() == [
        "CapEff:", f"{0x20:016x}", "CapBnd:", f"{0x20:016x}", "NoNewPrivs:", "1", "50",
    ]  # fmt: skip


def test_cpu_affinity(target: RunningContainer) -> None:
    affinity = {"initial": "0", "final": "0"}
    _, output = run_in(
        target, "grep", "Cpus_allowed_list", "/proc/self/status", execCPUAffinity=affinity
    )
    assert output.split()[1] == "0"


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("none-such", CommandNotFound),
        ("/etc/passwd", CommandNotExecutable),
        ("/etc", CommandNotExecutable),
    ],
)
def test_a_command_that_cannot_run(
    target: RunningContainer, command: str, kind: type[Exception]
) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(kind):
        run_in(target, command)
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("number", range(3, 16))
def test_a_working_directory_through_a_leaked_descriptor(
    target: RunningContainer, number: int
) -> None:
    with pytest.raises(InvalidArgument, match=r"process\.cwd"):
        run_in(target, "true", cwd=f"/proc/self/fd/{number}")


def test_a_missing_working_directory_is_refused(target: RunningContainer) -> None:
    with pytest.raises(InvalidArgument, match=r"process\.cwd: /none"):
        run_in(target, "true", cwd="/none")


def test_a_terminal_of_the_containers_devpts(target: RunningContainer) -> None:
    process = process_of(
        "sh", "-c", "tty; stty size", terminal=True, consoleSize={"height": 20, "width": 90}
    )
    child = execute(target, process)
    data = b""
    try:
        while chunk := os.read(child.console, 4096):
            data += chunk
    except OSError:
        pass  # EIO: the last slave was closed
    assert child.wait() == 0
    child.close()
    assert data.decode().split("\r\n")[:2] == ["/dev/pts/0", "20 90"]


def test_it_waits_at_the_gate_when_asked_to(target: RunningContainer) -> None:
    child = execute(target, process_of("true"), start=False)
    with open(f"/proc/{child.pid}/cmdline", "rb") as file:
        assert file.read().split(b"\0")[0] != b"true"
    child.start()
    assert child.wait() == 0
    child.close()


def test_the_waiting_process_is_not_dumpable(target: RunningContainer) -> None:
    process = process_of("true", user={"uid": 1000, "gid": 1000})
    child = execute(target, process, start=False)
    try:
        assert os.stat(f"/proc/{child.pid}/mem").st_uid == 0
    finally:
        child.start()
        child.wait()
        child.close()


def test_it_dies_with_its_parent(target: RunningContainer) -> None:
    import select

    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            child = execute(target, process_of("sleep", "1000", user={"uid": 1000, "gid": 1000}))
            os.write(write, str(child.pid).encode())
        finally:
            os._exit(0)
    os.close(write)
    process = int(os.read(read, 100))
    os.close(read)
    os.waitpid(pid, 0)
    try:
        pidfd = os.pidfd_open(process)
    except ProcessLookupError:
        return
    assert select.select([pidfd], [], [], 5)[0]
    os.close(pidfd)


def test_a_container_that_ended_is_refused(bundle: Path) -> None:
    container = Run(bundle, spec_of("true"))
    child: Child = container.child
    target = RunningContainer(child.pid, spec_of("true"), None, id="gone")
    container.finish()
    with pytest.raises(Conflict, match="gone"):
        run_in(target, "true")


def test_a_pid_that_is_anothers_is_refused(target: RunningContainer) -> None:
    other = RunningContainer(target.pid, target.spec, None, id="old", start_time=1)
    with pytest.raises(Conflict, match="old"):
        run_in(other, "true")


def test_the_callers_state_is_unchanged(target: RunningContainer) -> None:
    def picture() -> tuple[object, ...]:
        links = {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")}
        with open("/proc/self/cgroup", encoding="ascii") as file:
            return links, file.read(), os.getcwd(), os.listdir("/proc/self/fd"), os.umask(0o22)

    os.umask(0o22)
    before = picture()
    run_in(target, "true")
    assert picture() == before


def test_in_a_user_namespace(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_mode & 0o5 != 0o5:
            parent.chmod(parent.stat().st_mode | 0o5)
    mappings = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    linux = {
        "namespaces": [{"type": name} for name in (*NAMESPACES, "user")],
        "uidMappings": mappings,
        "gidMappings": mappings,
    }
    spec = spec_of("sleep", "1000", linux=linux)
    container = Run(bundle, spec)
    try:
        container.child.start()
        target = RunningContainer(container.child.pid, spec)
        code, output = run_in(
            target, "sh", "-c", "id -u; cat /proc/self/uid_map; readlink /proc/self/ns/user"
        )
        assert code == 0, output
        assert output.split()[:4] == ["0", "0", "100000", "65536"]
        assert output.split()[4] == os.readlink(f"/proc/{container.child.pid}/ns/user")
    finally:
        container.child.abort()
        os.close(container.output_fd)


def test_a_signal_ends_it(target: RunningContainer) -> None:
    child = execute(target, process_of("sleep", "1000"))
    os.kill(child.pid, signal.SIGTERM)
    assert child.wait() == -signal.SIGTERM
    child.close()
