"""Paths inside a root: what resolves where, what is made, and that races lead nowhere outside."""

from __future__ import annotations

import os
import stat
from errno import EAGAIN, EISDIR, ELOOP, ENOENT, ENOTDIR, EXDEV
from typing import TYPE_CHECKING

import pytest

from sampan.errors import InvalidArgument, KernelError
from sampan.kernel import mounts
from sampan.kernel.paths import (
    O_PATH,
    RESOLVE_BENEATH,
    RESOLVE_CACHED,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    make_directory_in_root,
    make_file_in_root,
    open_in_root,
    openat2,
)
from tests.kernel.forked import private_mounts, run_forked

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a sibling, ``outside``, that nothing may reach."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    place = tmp_path / "root"
    place.mkdir()
    return place


@pytest.fixture
def root_fd(root: Path) -> Iterator[int]:
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def where(fd: int) -> str:
    place = os.readlink(f"/proc/self/fd/{fd}")
    os.close(fd)
    return place


def test_absolute_links_and_dots_stay_inside(root: Path, root_fd: int) -> None:
    (root / "etc").mkdir()
    (root / "etc" / "passwd").write_text("inside")
    (root / "absolute").symlink_to("/etc/passwd")
    (root / "climbing").symlink_to("../../../../etc/passwd")
    for path in ("absolute", "/climbing", "../../etc/passwd", "/etc/../../etc/passwd"):
        assert where(open_in_root(root_fd, path, os.O_RDONLY)) == str(root / "etc/passwd")


def test_links_out_of_the_root_find_nothing(root: Path, root_fd: int) -> None:
    (root / "escape").symlink_to(root.parent / "outside" / "secret")
    with pytest.raises(KernelError, match="openat2 escape: ENOENT"):
        open_in_root(root_fd, "escape", os.O_RDONLY)
    with pytest.raises(KernelError) as caught:
        openat2(root_fd, "escape", os.O_RDONLY, resolve=RESOLVE_BENEATH)
    assert caught.value.errno == EXDEV
    with pytest.raises(KernelError) as caught:
        openat2(root_fd, "escape", os.O_RDONLY, resolve=RESOLVE_NO_SYMLINKS)
    assert caught.value.errno == ELOOP


def test_magic_links_and_other_mounts_are_refused() -> None:
    with open("/dev/null", "rb") as file:
        proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
        try:
            for resolve in (RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS):
                with pytest.raises(KernelError) as caught:
                    openat2(proc, f"self/fd/{file.fileno()}", os.O_RDONLY, resolve=resolve)
                assert caught.value.errno == ELOOP
            with pytest.raises(KernelError) as caught:
                openat2(proc, "self/root", O_PATH, resolve=RESOLVE_NO_XDEV)
            assert caught.value.errno == EXDEV
        finally:
            os.close(proc)


def test_descriptors_are_not_inherited_and_modes_are_kept(root: Path, root_fd: int) -> None:
    fd = openat2(root_fd, "new", os.O_CREAT | os.O_WRONLY, 0o640)
    assert not os.get_inheritable(fd)
    os.close(fd)
    assert stat.S_IMODE((root / "new").stat().st_mode) == 0o640


def test_not_in_the_cache_is_an_answer_not_a_retry(root: Path, root_fd: int) -> None:
    (root / "file").touch()
    resolve = RESOLVE_BENEATH | RESOLVE_CACHED
    # A file that is created always has to be looked up: EAGAIN, at once and not 128 times.
    with pytest.raises(KernelError, match="EAGAIN"):
        openat2(root_fd, "made", os.O_CREAT | os.O_WRONLY, 0o600, resolve)


def test_a_nul_in_a_path_is_refused(root_fd: int) -> None:
    with pytest.raises(InvalidArgument, match="NUL"):
        make_directory_in_root(root_fd, "a\0b")


def test_directories_are_made_all_the_way(root: Path, root_fd: int) -> None:
    fd = make_directory_in_root(root_fd, "/a/./b//c/", 0o700)
    assert where(fd) == str(root / "a/b/c")
    for place in ("a", "a/b", "a/b/c"):
        assert stat.S_IMODE((root / place).stat().st_mode) == 0o700


def test_what_exists_is_kept(root: Path, root_fd: int) -> None:
    (root / "a").mkdir(mode=0o711)
    (root / "a" / "file").write_text("kept")
    assert where(make_directory_in_root(root_fd, "a", 0o700)) == str(root / "a")
    assert where(make_file_in_root(root_fd, "a/file")) == str(root / "a/file")
    assert stat.S_IMODE((root / "a").stat().st_mode) == 0o711
    assert (root / "a" / "file").read_text() == "kept"


def test_the_root_itself_and_more_dots_than_depth(root: Path, root_fd: int) -> None:
    for path in ("/", "", ".", "../../..", "x/../.."):
        if path == "":
            with pytest.raises(KernelError) as caught:
                open_in_root(root_fd, path, O_PATH)
            assert caught.value.errno == ENOENT
        assert where(make_directory_in_root(root_fd, path)) == str(root)
    assert where(make_directory_in_root(root_fd, "../../n/../../m")) == str(root / "m")


@pytest.mark.parametrize(
    ("target", "lands"),
    [
        ("/run", "run/x"),
        ("run", "run/x"),
        ("../../run", "run/x"),
        ("/a/../run/", "run/x"),
        ("deep/er/./still", "deep/er/still/x"),
        ("other", "elsewhere/x"),
    ],
)
def test_links_to_what_is_missing_are_made_inside(
    root: Path, root_fd: int, target: str, lands: str
) -> None:
    (root / "link").symlink_to(target)
    (root / "other").symlink_to("/elsewhere")
    assert where(make_directory_in_root(root_fd, "link/x")) == str(root / lands)
    assert where(make_file_in_root(root_fd, "/link/y/file")) == str(
        root / os.path.dirname(lands) / "y/file"
    )
    assert os.listdir(root.parent / "outside") == ["secret"]


def test_a_link_below_a_directory_is_relative_to_it(root: Path, root_fd: int) -> None:
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "up").symlink_to("../sibling")
    assert where(make_directory_in_root(root_fd, "a/b/up/x")) == str(root / "a/sibling/x")


def test_a_file_through_dangling_links(root: Path, root_fd: int) -> None:
    (root / "first").symlink_to("/second")
    (root / "second").symlink_to("dir/../third")
    assert where(make_file_in_root(root_fd, "first", 0o600)) == str(root / "third")
    assert stat.S_IMODE((root / "third").stat().st_mode) == 0o600
    assert (root / "third").read_bytes() == b""


def test_loops_of_links_end(root: Path, root_fd: int) -> None:
    (root / "a").symlink_to("b/x")
    (root / "b").symlink_to("a/x")
    (root / "self").symlink_to("missing/../self")
    for make in (make_directory_in_root, make_file_in_root):
        for path in ("a/y", "self"):
            with pytest.raises(KernelError) as caught:
                make(root_fd, path)
            assert caught.value.errno == ELOOP


def test_what_is_in_the_way_is_named(root: Path, root_fd: int) -> None:
    (root / "file").touch()
    (root / "dir").mkdir()
    (root / "to-file").symlink_to("file")
    for path in ("file", "file/x", "to-file/x/y", "missing/../file/z"):
        with pytest.raises(KernelError, match=path) as caught:
            make_directory_in_root(root_fd, path)
        assert caught.value.errno == ENOTDIR
    for path in ("dir", "new/..", "new/", "/"):
        with pytest.raises(KernelError) as caught:
            make_file_in_root(root_fd, path)
        assert caught.value.errno == EISDIR


@pytest.mark.root
def test_a_device_is_a_file_to_mount_on(root: Path, root_fd: int) -> None:
    os.mkfifo(root / "fifo")
    fd = make_file_in_root(root_fd, "fifo")  # O_PATH: does not wait for a writer
    assert stat.S_ISFIFO(os.fstat(fd).st_mode)
    os.close(fd)


@pytest.mark.root
def test_procfs_inside_the_root_is_no_way_out(root: Path) -> None:
    (root / "proc").mkdir()

    def body() -> None:
        private_mounts()
        mounts.mount("proc", str(root / "proc"), "proc")
        root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
        for make in (make_directory_in_root, make_file_in_root):
            with pytest.raises(KernelError) as caught:
                make(root_fd, "proc/self/root/made-by-a-test")
            assert caught.value.errno == ELOOP
        assert not os.path.exists("/made-by-a-test")

    run_forked(body)


def swap_until_told(root: Path, stop: int) -> None:
    """In a child: swap directory and link, atomically, until the pipe closes or long enough."""
    os.set_blocking(stop, False)
    flags = 2  # RENAME_EXCHANGE
    from sampan.kernel.syscalls import c_string, syscall

    one, two = c_string(str(root / "shared/dir")), c_string(str(root / "shared/link"))
    for _ in range(500_000):
        syscall("renameat2", -100, one, -100, two, flags)
        try:
            if os.read(stop, 1) == b"":
                break
        except BlockingIOError:
            continue
    os._exit(0)


@pytest.mark.parametrize("link", ["../../outside", "/../../outside", "ABSOLUTE", ".."])
def test_a_directory_swapped_with_a_link_leads_nowhere_outside(
    root: Path, root_fd: int, link: str
) -> None:
    outside = root.parent / "outside"
    (root / "shared" / "dir").mkdir(parents=True)
    (root / "shared" / "link").symlink_to(str(outside) if link == "ABSOLUTE" else link)
    read_end, write_end = os.pipe()
    attacker = os.fork()
    if attacker == 0:
        os.close(write_end)
        swap_until_told(root, read_end)
    os.close(read_end)
    landed = set()
    try:
        for turn in range(400):
            make, last = (make_file_in_root, "file") if turn % 2 else (make_directory_in_root, "x")
            try:
                fd = make(root_fd, f"shared/dir/sub{turn}/{last}")
            except KernelError as error:
                # At one moment of the walk it is a directory, at another a link.
                assert error.errno in (ELOOP, ENOENT, ENOTDIR)
                continue
            place = where(fd)
            assert place.startswith(f"{root}/"), place
            landed.add(os.path.dirname(os.path.dirname(place)))
    finally:
        os.close(write_end)
        os.waitpid(attacker, 0)
    assert landed  # which of the two sides won is the scheduler's affair
    assert os.listdir(outside) == ["secret"]
    assert sorted(os.listdir(root.parent)) == ["outside", "root"]


def test_renames_everywhere_do_not_fail_a_lookup(root: Path, root_fd: int) -> None:
    """ ".." while anything is being renamed makes the kernel say EAGAIN: that is tried again."""
    (root / "a" / "b" / "c").mkdir(parents=True)
    (root / "a" / "b" / "c" / "file").touch()
    (root / "one").mkdir()
    (root / "two").mkdir()
    read_end, write_end = os.pipe()
    attacker = os.fork()
    if attacker == 0:
        os.close(write_end)
        (root / "shared").mkdir()
        (root / "one").rename(root / "shared" / "dir")
        (root / "two").rename(root / "shared" / "link")
        swap_until_told(root, read_end)
    os.close(read_end)
    try:
        path = "a/b/c/../../b/c/../c/file"
        for _ in range(3000):
            os.close(open_in_root(root_fd, path, O_PATH))
    finally:
        os.close(write_end)
        os.waitpid(attacker, 0)


def test_somebody_who_removes_what_was_made_does_not_hang_us(root: Path, root_fd: int) -> None:
    read_end, write_end = os.pipe()
    attacker = os.fork()
    if attacker == 0:
        os.close(write_end)
        os.set_blocking(read_end, False)
        for _ in range(500_000):
            try:
                os.rmdir(root / "made")
            except OSError:
                pass
            try:
                if os.read(read_end, 1) == b"":
                    break
            except BlockingIOError:
                continue
        os._exit(0)
    os.close(read_end)
    try:
        for _ in range(1000):
            try:
                os.close(make_directory_in_root(root_fd, "made/below"))
            except KernelError as error:
                assert error.errno in (ENOENT, EAGAIN)
            try:
                os.rmdir(root / "made" / "below")
            except OSError:
                pass
    finally:
        os.close(write_end)
        os.waitpid(attacker, 0)
