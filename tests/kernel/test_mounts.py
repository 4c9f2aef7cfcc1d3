"""The mount calls by what they leave mounted; everything in private mount namespaces."""

from __future__ import annotations

import os
from errno import E2BIG, EINVAL, ENODEV, ENOENT, EPERM, EROFS
from typing import TYPE_CHECKING

import pytest

from sampan.errors import KernelError
from sampan.kernel import clone, mounts, namespaces
from sampan.kernel.mounts import (
    AT_RECURSIVE,
    MOUNT_ATTR_IDMAP,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_RDONLY,
    MS_BIND,
    mountinfo,
)
from tests.kernel.forked import private_mounts, run_forked

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.root


def tmpfs(attributes: int = 0) -> int:
    context = mounts.fsopen("tmpfs")
    mounts.fsconfig_string(context, "size", "1m")
    mounts.fsconfig_create(context)
    return mounts.fsmount(context, attributes)


def directory(path: Path | str) -> int:
    return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def at(path: Path) -> mounts.MountInfo:
    return [entry for entry in mountinfo() if entry.mount_point == str(path)][-1]


def test_a_detached_mount_is_attached_by_descriptor(tmp_path: Path) -> None:
    def body() -> None:
        private_mounts()
        fd = tmpfs(MOUNT_ATTR_NODEV)
        os.close(os.open("inside", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        assert not any(entry.mount_point == str(tmp_path) for entry in mountinfo())
        mounts.attach(fd, directory(tmp_path))
        assert (tmp_path / "inside").exists()
        assert "nodev" in at(tmp_path).options
        assert mounts.filesystem_magic(fd) == mounts.TMPFS_MAGIC
        mounts.umount(str(tmp_path), mounts.MNT_DETACH)  # our descriptor keeps it busy
        assert not (tmp_path / "inside").exists()

    run_forked(body)


def test_a_configuration_error_carries_the_kernels_own_words() -> None:
    def body() -> None:
        private_mounts()
        context = mounts.fsopen("tmpfs")
        with pytest.raises(KernelError) as caught:
            mounts.fsconfig_string(context, "colour", "blue")
        assert caught.value.errno == EINVAL
        assert "colour=blue" in str(caught.value)
        assert "[tmpfs: Unknown parameter 'colour']" in str(caught.value)
        with pytest.raises(KernelError, match=r"size=lots \[tmpfs: Bad value for 'size'\]: EINVAL"):
            mounts.fsconfig_string(context, "size", "lots")

    run_forked(body)


def test_an_unknown_file_system_is_named() -> None:
    with pytest.raises(KernelError, match="fsopen aufs9: ENODEV") as caught:
        mounts.fsopen("aufs9")
    assert caught.value.errno == ENODEV


def test_a_failed_mount_names_type_and_place(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match=rf"^mount overlay on {tmp_path}: EINVAL") as caught:
        mounts.mount("overlay", str(tmp_path), "overlay", 0, "lowerdir=")
    assert caught.value.call == "mount"
    with pytest.raises(KernelError, match=r"^mount bind /nowhere on .*: ENOENT"):
        mounts.mount("/nowhere", str(tmp_path), None, MS_BIND)


def test_options_the_kernel_would_cut_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KernelError) as caught:
        mounts.mount("overlay", str(tmp_path), "overlay", 0, "lowerdir=" + "a" * 5000)
    assert caught.value.errno == E2BIG


def test_attributes_reach_the_whole_tree(tmp_path: Path) -> None:
    def body() -> None:
        private_mounts()
        mounts.attach(tmpfs(), directory(tmp_path))
        (tmp_path / "below").mkdir()
        mounts.attach(tmpfs(), directory(tmp_path / "below"))
        copy = mounts.clone_tree(directory(tmp_path), recursive=True)
        mounts.mount_setattr(copy, "", AT_RECURSIVE, MOUNT_ATTR_RDONLY)
        with pytest.raises(OSError) as caught:
            os.mkdir("below/x", dir_fd=copy)
        assert caught.value.errno == EROFS
        (tmp_path / "below" / "y").mkdir()  # the original is as it was
        mounts.mount_setattr(copy, "", AT_RECURSIVE, 0, MOUNT_ATTR_RDONLY)
        os.mkdir("below/x", dir_fd=copy)

    run_forked(body)


def test_a_copy_without_recursion_has_no_mounts_below(tmp_path: Path) -> None:
    def body() -> None:
        private_mounts()
        (tmp_path / "below").mkdir()
        mounts.attach(tmpfs(), directory(tmp_path / "below"))
        (tmp_path / "below" / "hidden").mkdir()
        copy = mounts.clone_tree(directory(tmp_path), recursive=False)
        assert os.listdir(os.open("below", os.O_RDONLY, dir_fd=copy)) == []

    run_forked(body)


def test_propagation_is_set_and_seen(tmp_path: Path) -> None:
    def body() -> None:
        private_mounts()
        mounts.attach(tmpfs(), directory(tmp_path))
        for flag, seen in (
            (mounts.MS_SHARED, "shared"),
            (mounts.MS_UNBINDABLE, "unbindable"),
            (mounts.MS_PRIVATE, "private"),
        ):
            mounts.mount_setattr(directory(tmp_path), "", 0, propagation=flag)
            assert at(tmp_path).propagation == seen

    run_forked(body)


def test_an_idmapped_copy_shows_other_owners(tmp_path: Path) -> None:
    def body() -> None:
        private_mounts()
        mounts.attach(tmpfs(), directory(tmp_path))
        (tmp_path / "file").touch()
        os.chown(tmp_path / "file", 1000, 1000)
        read_end, write_end = os.pipe()
        pid, pidfd = clone.clone3(namespaces.CLONE_NEWUSER)
        if pid == 0:
            os.close(write_end)
            os.read(read_end, 1)
            os._exit(0)
        os.close(read_end)
        for which in ("uid_map", "gid_map"):
            namespaces.write_id_map(pid, which, [(1000, 5000, 1)])
        userns = namespaces.open_namespace(pid, "user")
        copy = mounts.clone_tree(directory(tmp_path), recursive=False)
        mounts.mount_setattr(copy, "", 0, MOUNT_ATTR_IDMAP, userns_fd=userns)
        status = os.stat("file", dir_fd=copy)
        os.close(write_end)
        os.waitpid(pid, 0)
        os.close(pidfd)
        assert (status.st_uid, status.st_gid) == (5000, 5000)

    run_forked(body)


def test_pivot_root_leaves_nothing_of_the_old_root(tmp_path: Path) -> None:
    def body() -> None:
        private_mounts()
        fd = tmpfs()
        mounts.attach(fd, directory(tmp_path))
        (tmp_path / "only").mkdir()
        os.chdir(tmp_path)
        mounts.pivot_root(".", ".")
        mounts.umount(".", mounts.MNT_DETACH)
        os.chdir("/")
        assert os.listdir("/") == ["only"]

    run_forked(body)


def test_fspick_reconfigures_a_superblock(tmp_path: Path) -> None:
    def body() -> None:
        private_mounts()
        mounts.attach(tmpfs(), directory(tmp_path))
        context = mounts.fspick(directory(tmp_path), "")
        mounts.fsconfig_flag(context, "ro")
        mounts.fsconfig_reconfigure(context)
        assert "ro" in at(tmp_path).super_options

    run_forked(body)


def test_without_rights_the_error_says_so() -> None:
    def body() -> None:
        os.setresuid(1000, 1000, 1000)
        with pytest.raises(KernelError, match="fsopen tmpfs: EPERM") as caught:
            mounts.fsopen("tmpfs")
        assert caught.value.errno == EPERM
        with pytest.raises(KernelError, match="umount2 /proc: EPERM"):
            mounts.umount("/proc")

    run_forked(body)


def test_an_unmounted_place_cannot_be_unmounted(tmp_path: Path) -> None:
    with pytest.raises(KernelError) as caught:
        mounts.umount(str(tmp_path), mounts.UMOUNT_NOFOLLOW)
    assert caught.value.errno == EINVAL
    with pytest.raises(KernelError) as caught:
        mounts.open_tree(-100, str(tmp_path / "missing"), mounts.OPEN_TREE_CLONE)
    assert caught.value.errno == ENOENT
    assert str(tmp_path / "missing") in str(caught.value)
