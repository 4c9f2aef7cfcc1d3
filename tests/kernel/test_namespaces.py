"""Making, joining and telling namespaces apart."""

from __future__ import annotations

import os
from errno import EINVAL, ENOENT, ENOTTY, EPERM

import pytest

from sampan.errors import InvalidArgument, KernelError
from sampan.kernel import clone, namespaces
from sampan.kernel.namespaces import KINDS
from tests.kernel.forked import run_forked

pytestmark = pytest.mark.root


@pytest.mark.parametrize("kind", KINDS)
def test_the_kernel_confirms_the_kind_of_each(kind: str) -> None:
    fd = namespaces.open_namespace(os.getpid(), kind)
    try:
        assert namespaces.namespace_type(fd) == KINDS[kind][0]
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)


def test_what_is_no_namespace_is_told_so() -> None:
    fd = os.open("/dev/null", os.O_RDONLY)
    try:
        with pytest.raises(KernelError, match="NS_GET_NSTYPE") as caught:
            namespaces.namespace_type(fd)
        assert caught.value.errno == ENOTTY
    finally:
        os.close(fd)


def test_a_namespace_left_can_be_joined_again() -> None:
    def body() -> None:
        before = os.uname().nodename
        old = namespaces.open_namespace("self", "uts")
        namespaces.unshare(namespaces.CLONE_NEWUTS)
        namespaces.set_hostname("inner")
        namespaces.set_domainname("inner.example")
        assert os.uname().nodename == "inner"
        with open("/proc/sys/kernel/domainname", encoding="ascii") as file:
            assert file.read() == "inner.example\n"
        namespaces.setns(old, namespaces.CLONE_NEWUTS)
        assert os.uname().nodename == before

    run_forked(body)


def test_joining_one_of_the_wrong_kind_is_refused() -> None:
    def body() -> None:
        fd = namespaces.open_namespace("self", "uts")
        with pytest.raises(KernelError, match=r"setns fd \d+ network: EINVAL") as caught:
            namespaces.setns(fd, namespaces.CLONE_NEWNET)
        assert caught.value.errno == EINVAL

    run_forked(body)


def test_several_are_joined_at_once_by_pidfd() -> None:
    def body() -> None:
        read_end, write_end = os.pipe()
        pid, pidfd = clone.clone3(namespaces.CLONE_NEWUTS | namespaces.CLONE_NEWIPC)
        if pid == 0:
            os.close(write_end)
            os.read(read_end, 1)
            os._exit(0)
        namespaces.setns(pidfd, namespaces.CLONE_NEWUTS | namespaces.CLONE_NEWIPC)
        for name in ("uts", "ipc"):
            assert os.readlink(f"/proc/self/ns/{name}") == os.readlink(f"/proc/{pid}/ns/{name}")
        os.close(write_end)
        os.waitpid(pid, 0)

    run_forked(body)


def test_children_get_the_new_pid_namespace() -> None:
    def body() -> None:
        namespaces.unshare(namespaces.CLONE_NEWPID)
        mine = namespaces.open_namespace("self", "pid")
        pid = os.fork()
        if pid == 0:
            os._exit(os.getpid())
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
        # Its PID 1 is gone, so nobody can be born there, but it has its own identity.
        theirs = namespaces.open_namespace("self", "pid", for_children=True)
        assert os.fstat(mine).st_ino != os.fstat(theirs).st_ino

    run_forked(body)


def test_a_user_namespace_owns_what_it_unshares() -> None:
    def body() -> None:
        namespaces.unshare(namespaces.CLONE_NEWUSER | namespaces.CLONE_NEWUTS)
        uts = namespaces.open_namespace("self", "uts")
        owner = namespaces.owning_user_namespace(uts)
        user = namespaces.open_namespace("self", "user")
        assert os.fstat(owner).st_ino == os.fstat(user).st_ino

    run_forked(body)


def test_maps_are_written_by_the_parent_once() -> None:
    def body() -> None:
        go = os.pipe()
        pid, _ = clone.clone3(namespaces.CLONE_NEWUSER)
        if pid == 0:
            os.close(go[1])
            os.read(go[0], 1)
            os._exit(0 if (os.getuid(), os.getgid()) == (0, 7) else 1)
        namespaces.deny_setgroups(pid)
        namespaces.write_id_map(pid, "uid_map", [(0, 0, 1), (1, 100000, 1000)])
        namespaces.write_id_map(pid, "gid_map", [(7, 0, 1)])
        with pytest.raises(KernelError, match=rf"write /proc/{pid}/uid_map .*: EPERM") as caught:
            namespaces.write_id_map(pid, "uid_map", [(0, 0, 2)])
        assert caught.value.errno == EPERM
        os.close(go[1])
        assert os.waitpid(pid, 0)[1] == 0

    run_forked(body)


def test_unknown_kinds_and_processes_are_named() -> None:
    with pytest.raises(InvalidArgument, match="'net'"):
        namespaces.open_namespace("self", "net")
    with pytest.raises(KernelError, match="/proc/4194304/ns/net") as caught:
        namespaces.open_namespace(4194304, "network")
    assert caught.value.errno == ENOENT


def test_a_name_too_long_is_refused_by_the_kernel() -> None:
    def body() -> None:
        namespaces.unshare(namespaces.CLONE_NEWUTS)
        with pytest.raises(KernelError, match=r"sethostname x+: EINVAL"):
            namespaces.set_hostname("x" * 65)

    run_forked(body)
