"""A loaded filter by its effect on a real process, the listener, and the cache."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sampan.errors import InvalidArgument
from sampan.kernel.seccomp import compiled, load, supported_flags
from sampan.oci.runtime import Seccomp, SyscallArg, SyscallRule
from sampan.runtime.profiles import default_seccomp

pytestmark = pytest.mark.root


def in_child(body: Callable[[], int]) -> int:
    """Wait status of a forked child that loads filters; body's result is its exit code."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(body())
        except BaseException:  # noqa: BLE001 - the parent is told by the status
            os._exit(99)
    return os.waitpid(pid, 0)[1]


def deny(name: str, action: str, **more: Any) -> Seccomp:
    rule = SyscallRule(names=(name,), action=action, **more)
    return Seccomp(default_action="SCMP_ACT_ALLOW", syscalls=(rule,))


def test_an_errno_rule_makes_the_call_fail_with_it() -> None:
    def body() -> int:
        load(compiled(deny("mkdir", "SCMP_ACT_ERRNO", errno_ret=errno.EXDEV)))
        try:
            os.mkdir("/nowhere/at/all")
        except OSError as error:
            return error.errno or 0
        return 0

    assert os.waitstatus_to_exitcode(in_child(body)) == errno.EXDEV


def test_a_kill_rule_ends_the_process_with_sigsys() -> None:
    def body() -> int:
        load(compiled(deny("getpgid", "SCMP_ACT_KILL_PROCESS")))
        os.getpgid(0)
        return 0

    assert os.waitstatus_to_exitcode(in_child(body)) == -31


def test_an_argument_rule_sees_arguments() -> None:
    rule = SyscallArg(index=0, value=socket.AF_NETLINK, op="SCMP_CMP_EQ")

    def body() -> int:
        load(compiled(deny("socket", "SCMP_ACT_ERRNO", errno_ret=7, args=(rule,))))
        socket.socket(socket.AF_UNIX).close()
        try:
            socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
        except OSError as error:
            return error.errno or 0
        return 0

    assert os.waitstatus_to_exitcode(in_child(body)) == 7


def test_programs_run_under_the_default_profile_and_cannot_make_namespaces() -> None:
    def body() -> int:
        load(compiled(default_seccomp(())))
        pid = os.fork()
        if pid == 0:
            os.execv("/bin/sh", ["sh", "-c", "unshare -m true 2>/dev/null && exit 1; ls / >&-"])
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return 0 if status != 1 else 1

    assert os.waitstatus_to_exitcode(in_child(body)) == 0


def test_a_notify_rule_gives_a_listener() -> None:
    def body() -> int:
        listener = load(compiled(deny("mkdir", "SCMP_ACT_NOTIFY")))
        kind = os.readlink(f"/proc/self/fd/{listener}")
        inherited = os.get_inheritable(listener)
        return 0 if kind == "anon_inode:seccomp notify" and not inherited else 1

    assert os.waitstatus_to_exitcode(in_child(body)) == 0


def test_a_profile_is_compiled_once(tmp_path: Path) -> None:
    seccomp = deny("mkdir", "SCMP_ACT_ERRNO", errno_ret=61)
    first = compiled(seccomp, str(tmp_path))
    assert compiled(seccomp, str(tmp_path)) is first
    (file,) = tmp_path.iterdir()
    assert file.name == f"{first.digest}.bpf" and file.read_bytes() == first.program
    assert compiled(deny("mkdir", "SCMP_ACT_ERRNO", errno_ret=62)).digest != first.digest


def test_flags_are_known_or_refused() -> None:
    assert "SECCOMP_FILTER_FLAG_LOG" in supported_flags()
    with pytest.raises(InvalidArgument, match="unknown flag: SECCOMP_FILTER_FLAG_X"):
        compiled(deny("mkdir", "SCMP_ACT_LOG").replace(flags=("SECCOMP_FILTER_FLAG_X",)))
    with pytest.raises(InvalidArgument, match="SCMP_ACT_NOTIFY"):
        flags = ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",)
        compiled(deny("mkdir", "SCMP_ACT_LOG").replace(flags=flags))
