"""clone3 as a fork of the interpreter: what the child is, and that it is a whole Python."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import threading
import time
from errno import EBADF, EINVAL

import pytest

from sampan.errors import Conflict, InvalidArgument, KernelError
from sampan.kernel import clone, namespaces, processes, syscalls
from tests.kernel.forked import run_forked

pytestmark = pytest.mark.root


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_the_parent_gets_pid_and_pidfd_and_sigchld() -> None:
    def body() -> None:
        seen: list[int] = []
        signal.signal(signal.SIGCHLD, lambda number, _: seen.append(number))
        pid, pidfd = clone.clone3()
        if pid == 0:
            os._exit(7 if pidfd == -1 else 1)
        assert not os.get_inheritable(pidfd)
        assert select.select([pidfd], [], [], 10)[0] == [pidfd]
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        assert result is not None
        assert (result.si_pid, result.si_status) == (pid, 7)
        assert seen == [signal.SIGCHLD]

    run_forked(body)


def test_the_child_knows_itself_in_a_new_pid_namespace() -> None:
    def body() -> None:
        pid, _ = clone.clone3(namespaces.CLONE_NEWPID)
        if pid == 0:
            good = (os.getpid(), os.getppid(), threading.get_native_id()) == (1, 0, 1)
            os._exit(0 if good else 1)
        assert wait(pid) == 0

    run_forked(body)


def test_nested_clones_and_forks() -> None:
    def body() -> None:
        pid, _ = clone.clone3(namespaces.CLONE_NEWPID)
        if pid == 0:
            inner, _ = clone.clone3(namespaces.CLONE_NEWPID | namespaces.CLONE_NEWUTS)
            if inner == 0:
                forked = os.fork()
                if forked == 0:
                    last, _ = clone.clone3()
                    if last == 0:
                        os._exit(os.getpid())
                    os._exit(wait(last) * 10 + os.getpid())
                os._exit(wait(forked) + os.getpid())
            os._exit(wait(inner) + 100)
        # PIDs in the innermost namespace: clone3's 1, the fork's 2, the last clone3's 3.
        assert wait(pid) == 100 + 1 + 30 + 2

    run_forked(body)


def test_the_c_librarys_thread_id_is_the_childs() -> None:
    """pthread_kill, raise and thread-owned locks take the thread ID from the thread descriptor."""

    def body() -> None:
        pid, _ = clone.clone3(namespaces.CLONE_NEWPID)
        if pid == 0:
            address = clone.tid_address()
            good = address and ctypes.c_int.from_address(address).value == 1
            got: list[int] = []
            signal.signal(signal.SIGUSR1, lambda number, _: got.append(number))
            signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
            os._exit(0 if good and got == [signal.SIGUSR1] else 1)
        assert wait(pid) == 0

    run_forked(body)


def test_the_child_can_have_threads() -> None:
    def body() -> None:
        pid, _ = clone.clone3(namespaces.CLONE_NEWPID)
        if pid == 0:
            lock, total = threading.Lock(), [0]

            def work() -> None:
                for _ in range(200):
                    with lock:
                        total[0] += 1
                    time.sleep(0)

            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            os._exit(0 if total[0] == 800 else 1)
        assert wait(pid) == 0

    run_forked(body)


def test_the_child_can_import_allocate_and_run_programs() -> None:
    def body() -> None:
        pid, _ = clone.clone3(namespaces.CLONE_NEWPID)
        if pid == 0:
            import wave  # something nobody has imported: the import lock works

            blocks = [bytearray(100_000) for _ in range(100)]
            ran = subprocess.run(["/bin/echo", "hi"], capture_output=True, check=True)
            good = ran.stdout == b"hi\n" and len(blocks) == 100 and wave.__name__ == "wave"
            os._exit(0 if good else 1)
        assert wait(pid) == 0

    run_forked(body)


def test_handlers_survive_and_pending_python_signals_do_not() -> None:
    def body() -> None:
        seen: list[int] = []
        signal.signal(signal.SIGUSR2, lambda number, _: seen.append(number))
        pid, _ = clone.clone3()
        if pid == 0:
            clean = not seen
            os.kill(os.getpid(), signal.SIGUSR2)
            os._exit(0 if clean and seen == [signal.SIGUSR2] else 1)
        assert wait(pid) == 0
        assert seen == []

    run_forked(body)


def test_the_signal_mask_is_as_before_on_both_sides() -> None:
    def body() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGHUP})
        pid, _ = clone.clone3()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, set())
        if pid == 0:
            os._exit(0 if mask == {signal.SIGHUP} else 1)
        assert mask == {signal.SIGHUP}
        assert wait(pid) == 0

    run_forked(body)


def test_a_flood_of_signals_while_forking_harms_nobody() -> None:
    def body() -> None:
        count = [0]
        signal.signal(signal.SIGALRM, lambda *_: count.__setitem__(0, count[0] + 1))
        signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
        for _ in range(40):  # Each is begun anew as often as a signal comes in between.
            pid, pidfd = clone.clone3()
            if pid == 0:
                os._exit(3)
            os.close(pidfd)
            assert wait(pid) == 3
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert count[0]

    run_forked(body)


def test_registered_fork_hooks_run() -> None:
    def body() -> None:
        order: list[str] = []
        os.register_at_fork(
            before=lambda: order.append("before"),
            after_in_parent=lambda: order.append("parent"),
            after_in_child=lambda: order.append("child"),
        )
        pid, _ = clone.clone3()
        if pid == 0:
            os._exit(0 if order == ["before", "child"] else 1)
        assert wait(pid) == 0
        assert order == ["before", "parent"]

    run_forked(body)


def test_a_failed_clone_leaves_the_parent_whole() -> None:
    def body() -> None:
        null = os.open("/dev/null", os.O_RDONLY)
        for fd in (null, 999):
            with pytest.raises(KernelError, match="clone3 flags 0x") as caught:
                clone.clone3(cgroup_fd=fd)
            assert caught.value.errno == EBADF
        with pytest.raises(KernelError) as caught:
            clone.clone3(namespaces.CLONE_NEWNS | namespaces.CLONE_FS)
        assert caught.value.errno == EINVAL
        import colorsys  # noqa: F401 - the import lock was given back

        pid, _ = clone.clone3()
        if pid == 0:
            os._exit(0)
        assert wait(pid) == 0

    run_forked(body)


def test_where_the_call_is_missing_the_error_says_what_is_needed() -> None:
    def body() -> None:
        syscalls.NUMBERS["clone3"] = 5000
        with pytest.raises(KernelError, match=r"newer kernel is needed.*ENOSYS"):
            clone.clone3()

    run_forked(body)


def test_a_sibling_is_its_grandparents_child() -> None:
    def body() -> None:
        read_end, write_end = os.pipe()
        middle = os.fork()
        if middle == 0:
            pid, pidfd = clone.clone3(clone.CLONE_PARENT)
            if pid == 0:
                os._exit(9)
            os.write(write_end, str(pid).encode())
            os._exit(0 if pidfd >= 0 else 1)
        assert wait(middle) == 0
        assert wait(int(os.read(read_end, 100))) == 9

    run_forked(body)


def test_a_process_with_threads_is_refused() -> None:
    def body() -> None:
        stop = threading.Event()
        thread = threading.Thread(target=stop.wait)
        thread.start()
        with pytest.raises(Conflict, match="1 more thread"):
            clone.clone3()
        stop.set()
        thread.join()

    run_forked(body)


def test_flags_that_make_no_fork_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="0x100"):
        clone.clone3(0x100)


def cgroup2() -> str | None:
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            if " - cgroup2 " in line:
                return line.split()[4]
    return None


@pytest.mark.v2
def test_a_child_is_born_in_its_cgroup() -> None:
    root = cgroup2()
    if root is None:
        pytest.skip("no cgroup v2 hierarchy is mounted")
    path = f"{root}/sampan-test-clone3-{os.getpid()}"
    os.mkdir(path)
    try:

        def body() -> None:
            fd = os.open(path, os.O_PATH | os.O_DIRECTORY)
            pid, _ = clone.clone3(cgroup_fd=fd)
            if pid == 0:
                with open("/proc/self/cgroup", encoding="ascii") as file:
                    mine = [line for line in file if line.startswith("0::")]
                good = mine[0].strip().endswith(os.path.basename(path))
                os._exit(0 if good else 1)
            assert wait(pid) == 0

        run_forked(body)
    finally:
        os.rmdir(path)


def test_a_process_that_migrates_goes_on_with_its_memory_under_another_pid() -> None:
    def body() -> None:
        processes.set_child_subreaper()
        read_end, write_end = os.pipe()
        nudge_read, nudge_write = os.pipe()
        before = os.fork()
        if before == 0:
            kept = ["before"]
            flags = clone.CLONE_PARENT | namespaces.CLONE_NEWPID
            pid, pidfd = clone.migrate(flags)
            kept.append("after")
            # What was here is suspended: it does not come to this line, or it would say it twice.
            text = f"{kept} {pid} {pidfd >= 0} {os.getpid()} {os.getppid()}"
            os.write(write_end, text.encode() + b"\n")
            os.read(nudge_read, 1)
            os.execv("/bin/true", ["true"])
        with open(read_end, "rb", buffering=0) as pipe:
            said = pipe.read(200).decode()
            os.kill(before, signal.SIGKILL)
            assert wait(before) == -signal.SIGKILL
            os.write(nudge_write, b"x")
            pid = int(said.split("] ")[1].split()[0])
            assert said == f"['before', 'after'] {pid} True 1 0\n"
            assert os.waitpid(pid, 0x40000000)[1] == 0  # __WALL
            os.close(write_end)
            assert pipe.read(200) == b""

    run_forked(body)


def test_a_migration_that_is_refused_changes_nothing() -> None:
    def body() -> None:
        with pytest.raises(KernelError, match="clone3"):
            clone.migrate(cgroup_fd=os.open("/", os.O_RDONLY))
        pid = os.fork()
        if pid == 0:
            os._exit(5)
        assert wait(pid) == 5

    run_forked(body)
