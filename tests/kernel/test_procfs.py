"""A procfs of one's own: what it shows, and that nobody's files stand in for it."""

from __future__ import annotations

import os
from errno import ELOOP, ENOENT, EXDEV

import pytest

from sampan.errors import KernelError
from sampan.kernel import clone, mounts, namespaces
from sampan.kernel.procfs import Procfs
from tests.kernel.forked import private_mounts, run_forked, skip

pytestmark = pytest.mark.root


def test_it_is_private_and_not_in_the_mount_table() -> None:
    def body() -> None:
        before = len(mounts.mountinfo())
        with Procfs() as procfs:
            assert procfs.private
            assert len(mounts.mountinfo()) == before
            assert mounts.filesystem_magic(procfs.fd) == mounts.PROC_SUPER_MAGIC
            assert procfs.read("self/stat").startswith(b"%d (" % os.getpid())
            assert procfs.read("sys/kernel/ostype") == b"Linux\n"

    run_forked(body)


def test_a_subset_has_processes_only() -> None:
    with Procfs(subset=True) as procfs:
        assert procfs.read("self/comm")
        for path in ("sys/kernel/ostype", "mounts", "kcore"):
            with pytest.raises(KernelError, match=f"/proc/{path}") as caught:
                procfs.read(path)
            assert caught.value.errno == ENOENT


def test_what_is_mounted_over_the_ambient_one_does_not_show() -> None:
    def body() -> None:
        private_mounts()
        namespaces.unshare(namespaces.CLONE_NEWUTS)
        mounts.mount("none", "/proc/sys", "tmpfs")
        os.makedirs("/proc/sys/kernel")
        with open("/proc/sys/kernel/hostname", "w", encoding="ascii") as file:
            file.write("a trap")
        with Procfs() as procfs:
            procfs.write("sys/kernel/hostname", "written")
            assert procfs.read("sys/kernel/hostname") == b"written\n"
        assert os.uname().nodename == "written"
        with open("/proc/sys/kernel/hostname", encoding="ascii") as file:
            assert file.read() == "a trap"

    run_forked(body)


def test_the_ambient_one_is_used_where_a_new_one_is_too_revealing() -> None:
    """A user namespace below a mount namespace in which parts of /proc are covered."""

    def body() -> None:
        private_mounts()
        mounts.mount("none", "/proc/sys", "tmpfs")
        namespaces.unshare(
            namespaces.CLONE_NEWUSER | namespaces.CLONE_NEWNS | namespaces.CLONE_NEWPID
        )
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                context = mounts.fsopen("proc")
                mounts.fsconfig_create(context)
                try:
                    mounts.fsmount(context)
                except KernelError as error:
                    assert "EPERM" in str(error)
                else:
                    os._exit(77)
                with Procfs() as procfs:
                    # Its tmpfs over sys is locked: no copy without it can be had either.
                    assert not procfs.private
                    with pytest.raises(KernelError, match=r"/proc/sys/kernel/x: EXDEV"):
                        procfs.open("sys/kernel/x", os.O_RDONLY)
                    assert procfs.read("self/comm")
                code = 0
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code == 77:
            skip("this kernel does not think a new procfs too revealing here")
        assert code == 0

    run_forked(body)


def test_without_rights_to_mount_the_ambient_one_is_verified_and_used() -> None:
    def body() -> None:
        os.setresgid(1000, 1000, 1000)
        os.setresuid(1000, 1000, 1000)
        with Procfs() as procfs:
            assert not procfs.private
            assert procfs.read("self/comm")

    run_forked(body)


def test_a_forged_ambient_one_is_refused() -> None:
    def body() -> None:
        private_mounts()
        for source, kind in (("none", "tmpfs"), ("/proc/sys", None)):
            flags = 0 if kind else mounts.MS_BIND
            mounts.mount(source, "/proc", kind, flags)
            pid = os.fork()
            if pid == 0:
                os.setresuid(1000, 1000, 1000)
                try:
                    Procfs()
                except KernelError as error:
                    os._exit(0 if "not the root of a procfs" in str(error) else 1)
                os._exit(2)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            mounts.umount("/proc", mounts.MNT_DETACH)

    run_forked(body)


def test_magic_links_are_not_followed_but_by_reopen() -> None:
    with Procfs() as procfs:
        for path in ("self/root", "self/exe", "self/cwd/x"):
            with pytest.raises(KernelError) as caught:
                procfs.open(path, os.O_RDONLY)
            assert caught.value.errno in (ELOOP, EXDEV)
        fd = os.open("/usr/bin", os.O_PATH)
        try:
            assert procfs.read_link(fd) == "/usr/bin"
            again = procfs.reopen(fd, os.O_RDONLY | os.O_DIRECTORY)
            assert not os.get_inheritable(again)
            assert "env" in os.listdir(again)
            os.close(again)
        finally:
            os.close(fd)


def test_paths_out_of_it_are_refused() -> None:
    with Procfs() as procfs:
        for path in ("../etc/passwd", "/etc/passwd"):
            with pytest.raises(KernelError) as caught:
                procfs.open(path, os.O_RDONLY)
            assert caught.value.errno == EXDEV


def test_a_write_that_is_refused_names_the_file() -> None:
    with Procfs() as procfs, pytest.raises(KernelError, match=r"write /proc/self/oom_score_adj"):
        procfs.write("self/oom_score_adj", "5000")


def test_it_shows_the_pid_namespace_of_who_made_it() -> None:
    def body() -> None:
        outer = Procfs()
        pid, _ = clone.clone3(namespaces.CLONE_NEWPID)
        if pid == 0:
            code = 1
            try:
                with Procfs() as inner:
                    assert inner.read("self/stat").startswith(b"1 (")
                    assert inner.read("1/status").startswith(b"Name:")
                assert not outer.read("self/stat").startswith(b"1 (")
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    run_forked(body)
