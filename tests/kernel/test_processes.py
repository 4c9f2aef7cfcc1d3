"""pidfds, prctl, limits, descriptors and signals' names, by what they change."""

from __future__ import annotations

import os
import signal
import subprocess
from errno import EBADF, ENOENT, EPERM, ESRCH

import pytest

from sampan.errors import InvalidArgument, KernelError
from sampan.kernel import namespaces, processes
from tests.kernel.forked import run_forked


def test_a_pidfd_signals_the_very_process() -> None:
    child = subprocess.Popen(["sleep", "60"])
    fd = processes.pidfd_open(child.pid)
    try:
        assert not os.get_inheritable(fd)
        processes.pidfd_send_signal(fd, signal.SIGTERM)
        assert child.wait(60) == -signal.SIGTERM
        with pytest.raises(KernelError) as caught:
            processes.pidfd_send_signal(fd, signal.SIGTERM)
        assert caught.value.errno == ESRCH
    finally:
        os.close(fd)


def test_no_such_process_is_named() -> None:
    with pytest.raises(KernelError, match="pid 4194304: ESRCH"):
        processes.pidfd_open(4194304)


@pytest.mark.root
def test_the_first_of_a_namespace_is_ending_before_the_others_are_gone() -> None:
    """It waits for them, and for whoever reaps them."""

    def work() -> None:
        namespaces.unshare(namespaces.CLONE_NEWPID)
        first, other = (_sleeper() for _ in range(2))
        assert not processes.is_ending(first)
        os.kill(first, signal.SIGKILL)
        os.waitid(os.P_PID, other, os.WEXITED | os.WNOWAIT)
        assert processes.process_state(first) != "Z"
        assert processes.is_ending(first)
        assert processes.is_ending(other)
        os.waitpid(other, 0)
        os.waitpid(first, 0)
        assert processes.is_ending(first)

    run_forked(work)


def _sleeper() -> int:
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    return pid


@pytest.mark.root
def test_a_descriptor_of_another_process_can_be_fetched() -> None:
    read_end, write_end = os.pipe()
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=write_end)
    pidfd = processes.pidfd_open(child.pid)
    try:
        copy = processes.pidfd_getfd(pidfd, 1)
        os.write(copy, b"through")
        os.close(copy)
        assert os.read(read_end, 100) == b"through"
        with pytest.raises(KernelError) as caught:
            processes.pidfd_getfd(pidfd, 99)
        assert caught.value.errno == EBADF
    finally:
        child.communicate()
        for fd in (pidfd, read_end, write_end):
            os.close(fd)


def test_close_range_closes_and_marks() -> None:
    def body() -> None:
        null = os.open("/dev/null", os.O_RDONLY)
        low = [os.dup2(null, number) for number in range(50, 60)]
        assert all(os.get_inheritable(fd) for fd in low)
        processes.close_range(55, 57)
        assert [fd for fd in low if os.path.exists(f"/proc/self/fd/{fd}")] == [
            50,
            51,
            52,
            53,
            54,
            58,
            59,
        ]
        processes.close_range(50, cloexec=True)
        assert not any(os.get_inheritable(fd) for fd in (50, 54, 58, 59))

    run_forked(body)


def test_a_subreaper_inherits_orphans() -> None:
    def body() -> None:
        processes.set_child_subreaper()
        read_end, write_end = os.pipe()
        middle = os.fork()
        if middle == 0:
            orphan = os.fork()
            if orphan == 0:
                os.close(write_end)
                os.read(read_end, 1)
                os._exit(42)
            os._exit(0)
        os.waitpid(middle, 0)
        os.close(read_end)
        os.close(write_end)
        _, status = os.wait()
        assert os.waitstatus_to_exitcode(status) == 42

    run_forked(body)


def test_the_death_of_the_parent_signals() -> None:
    def body() -> None:
        processes.set_child_subreaper()
        report_read, report_write = os.pipe()
        middle = os.fork()
        if middle == 0:
            ready_read, ready_write = os.pipe()
            child = os.fork()
            if child == 0:
                processes.set_parent_death_signal(signal.SIGKILL)
                os.write(report_write, str(os.getpid()).encode())
                os.close(ready_read)
                os.close(ready_write)
                signal.pause()
            os.close(ready_write)
            os.read(ready_read, 1)
            os._exit(0)
        os.waitpid(middle, 0)
        child = int(os.read(report_read, 100))
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL

    run_forked(body)


def test_prctl_flags_read_back() -> None:
    def body() -> None:
        processes.set_dumpable(False)
        assert not processes.get_dumpable()
        processes.set_dumpable(True)
        assert processes.get_dumpable()
        processes.set_keep_capabilities()
        assert processes.get_keep_capabilities()
        processes.set_process_name("boatman (x)")
        with open("/proc/self/comm", encoding="ascii") as file:
            assert file.read() == "boatman (x)\n"
        assert not processes.get_no_new_privileges()
        processes.set_no_new_privileges()
        assert processes.get_no_new_privileges()

    run_forked(body)


@pytest.mark.root
def test_securebits_are_set() -> None:
    def body() -> None:
        bits = processes.SECBIT_NOROOT | processes.SECBIT_NO_SETUID_FIXUP
        processes.set_securebits(bits)
        assert processes.get_securebits() == bits
        os.setresuid(1000, 1000, 1000)
        with open("/proc/self/status", encoding="ascii") as file:
            effective = next(line for line in file if line.startswith("CapEff"))
        assert int(effective.split()[1], 16)  # no setuid fixup: the rights are kept

    run_forked(body)


def test_start_time_copes_with_any_name() -> None:
    def body() -> None:
        before = processes.start_time(os.getpid())
        for name in (") S 1 1 (", "a) R", "((", "x y z"):
            processes.set_process_name(name)
            assert processes.start_time(os.getpid()) == before
            assert processes.process_state(os.getpid()) == "R"

    run_forked(body)


def test_start_time_tells_processes_apart_and_zombies_show() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert processes.process_state(child.pid) == "Z"
    assert processes.start_time(child.pid) >= processes.start_time(os.getpid())
    child.wait()
    assert processes.process_state(child.pid) is None
    with pytest.raises(KernelError, match=f"/proc/{child.pid}/stat") as caught:
        processes.start_time(child.pid)
    assert caught.value.errno == ENOENT


def test_a_limit_is_set_and_enforced() -> None:
    def body() -> None:
        processes.set_rlimit(0, "RLIMIT_NOFILE", 40, 50)
        assert processes.get_rlimit(0, "nofile") == (40, 50)
        with pytest.raises(OSError, match="Too many open files"):
            for _ in range(50):
                os.dup(0)

    run_forked(body)


def test_the_limit_of_another_process_is_set() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        processes.set_rlimit(child.pid, "RLIMIT_CORE", 0, 4096)
        assert processes.get_rlimit(child.pid, "RLIMIT_CORE") == (0, 4096)
    finally:
        child.kill()
        child.wait()


def test_no_limit_is_minus_one() -> None:
    def body() -> None:
        processes.set_rlimit(0, "RLIMIT_CPU", -1, -1)
        assert processes.get_rlimit(0, "RLIMIT_CPU") == (processes.RLIM_INFINITY,) * 2

    run_forked(body)


def test_bad_limits_are_named() -> None:
    with pytest.raises(InvalidArgument, match="'RLIMIT_HOPE': expected one of RLIMIT_CPU"):
        processes.set_rlimit(0, "RLIMIT_HOPE", 1, 1)
    with pytest.raises(KernelError, match="RLIMIT_NOFILE 5:4: EINVAL"):
        processes.set_rlimit(0, "RLIMIT_NOFILE", 5, 4)

    def unprivileged() -> None:
        processes.set_rlimit(0, "RLIMIT_CORE", 0, 0)
        if os.getuid() == 0:
            os.setresuid(1000, 1000, 1000)
        with pytest.raises(KernelError) as caught:
            processes.set_rlimit(0, "RLIMIT_CORE", 0, 1)
        assert caught.value.errno == EPERM

    run_forked(unprivileged)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("TERM", 15),
        ("SIGTERM", 15),
        ("sigterm", 15),
        ("15", 15),
        (" 9 ", 9),
        ("1", 1),
        ("64", 64),
        ("RTMIN", 34),
        ("SIGRTMIN+3", 37),
        ("RTMIN+30", 64),
        ("RTMAX", 64),
        ("RTMAX-14", 50),
        ("CLD", 17),
        ("POLL", 29),
        ("IOT", 6),
    ],
)
def test_signals_are_read(text: str, number: int) -> None:
    assert processes.parse_signal(text) == number


@pytest.mark.parametrize(
    "text",
    ["", "0", "65", "-9", "FOO", "SIG", "RTMIN+31", "RTMIN-1", "RTMAX+1", "RTMAX-31", "9x", "٣"],
)
def test_what_is_no_signal_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid signal"):
        processes.parse_signal(text)


def test_the_table_is_pythons() -> None:
    ours = {f"SIG{name}": number for name, number in processes.SIGNALS.items()}
    for known in signal.Signals:
        if known.name in ours:
            assert ours[known.name] == known.value
    assert (processes.SIGRTMIN, processes.SIGRTMAX) == (signal.SIGRTMIN, signal.SIGRTMAX)
