"""Files out of a tree and into it, as ``docker cp`` wants them; the tree is somebody else's."""

from __future__ import annotations

import bz2
import fcntl
import gzip
import io
import lzma
import os
import signal
import stat
import struct
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EIO, ELOOP, ENOENT
from pathlib import Path

import pytest
from backports import zstd

from sampan.errors import Conflict, InvalidArgument, KernelError, PermissionDenied, SampanError
from sampan.kernel.syscalls import c_string, syscall
from sampan.storage.archive.copying import clean, find, write_found, write_root
from sampan.storage.archive.placing import put
from sampan.storage.archive.reader import Limits
from tests.kernel.forked import private_mounts, run_forked
from tests.storage.archive.trees import folder, hardlink, item, layer, symlink

pytestmark = pytest.mark.root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A container's root, and what is not in it beside it."""
    top = tmp_path / "root"
    (top / "data/sub").mkdir(parents=True)
    (top / "data/file").write_text("hello\n")
    (top / "tmp").mkdir()
    for name, target in (
        ("abs", "/data/file"), ("rel", "../data"), ("dangling", "/nowhere/x"), ("loop", "loop"),
        ("up", "../../../../outside"),
    ):  # fmt: skip
        (top / "tmp" / name).symlink_to(target)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("of the machine")
    return top


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def archive(root: Path, path: str) -> dict[str, bytes | None]:
    """The members of the archive of ``path``: a file's content, a link's target, None."""
    out = io.BytesIO()
    with opened(root) as fd:
        found = find(fd, path)
        try:
            write_found(found, out)
        finally:
            found.close()
    members: dict[str, bytes | None] = {}
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        for info in tar:
            name = info.name + ("/" if info.isdir() and info.name != "/" else "")
            file = tar.extractfile(info) if info.isreg() else None
            link = info.linkname.encode() if info.linkname else None
            members[name] = file.read() if file is not None else link
    return members


@pytest.mark.parametrize(
    ("path", "full", "directory"),
    [
        ("/", "/", True), ("data", "/data", False), ("/data/", "/data", True),
        ("/data/.", "/data", True), ("../../data", "/data", False), ("/a/../data", "/data", False),
        ("//data", "/data", False), (".", "/", True), ("", "/", False),
    ],
)  # fmt: skip
def test_paths_are_the_containers(path: str, full: str, directory: bool) -> None:
    assert clean(path) == (full, directory)


@pytest.mark.parametrize(
    ("path", "name", "kind", "target"),
    [
        ("/", "/", stat.S_IFDIR, ""),
        ("/data", "data", stat.S_IFDIR, ""),
        ("/data/", "data", stat.S_IFDIR, ""),
        ("/data/.", ".", stat.S_IFDIR, ""),
        ("/data/file", "file", stat.S_IFREG, ""),
        ("/tmp/abs", "abs", stat.S_IFLNK, "/data/file"),
        ("/tmp/rel", "rel", stat.S_IFLNK, "/data"),
        ("/tmp/rel/", "rel", stat.S_IFDIR, ""),
        ("/tmp/rel/file", "file", stat.S_IFREG, ""),
        ("/tmp/dangling", "dangling", stat.S_IFLNK, "/nowhere/x"),
        ("/tmp/up", "up", stat.S_IFLNK, "/outside"),
    ],
)
def test_what_is_at_a_path(root: Path, path: str, name: str, kind: int, target: str) -> None:
    with opened(root) as fd:
        found = find(fd, path)
        assert (found.name, stat.S_IFMT(found.status.st_mode)) == (name, kind)
        assert found.target == target
        found.close()


@pytest.mark.parametrize(
    ("path", "number"),
    [("/nope", ENOENT), ("/tmp/up/secret", ENOENT), ("/tmp/loop", ELOOP), ("/tmp/loop/x", ELOOP)],
)
def test_what_is_not_there(root: Path, path: str, number: int) -> None:
    with opened(root) as fd, pytest.raises(KernelError) as caught:
        find(fd, path)
    assert caught.value.errno == number
    with opened(root) as fd, pytest.raises(InvalidArgument, match="not a directory"):
        find(fd, "/data/file/")


def test_names_begin_with_what_was_asked_for(root: Path) -> None:
    assert archive(root, "/data") == {"data/": None, "data/file": b"hello\n", "data/sub/": None}
    assert archive(root, "/data/.") == {"./": None, "./file": b"hello\n", "./sub/": None}
    assert archive(root, "/tmp/rel/") == {"rel/": None, "rel/file": b"hello\n", "rel/sub/": None}
    assert archive(root, "/data/file") == {"file": b"hello\n"}
    assert archive(root, "/tmp/abs") == {"abs": b"/data/file"}
    whole = archive(root, "/")
    assert whole["/data/file"] == b"hello\n"
    assert "/" in whole and "/tmp/abs" in whole


def test_every_name_and_kind_is_copied_but_sockets(root: Path) -> None:
    data = root / "data"
    os.close(os.open(os.fsencode(data) + b"/\xff\xfe", os.O_CREAT, 0o600))
    (data / ".wh.file").write_text("plain")
    os.mkfifo(data / "fifo")
    os.mknod(data / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.link(data / "file", data / "hard")
    subprocess.run(["python3", "-c", f"import socket; s=socket.socket(1); s.bind('{data}/sock')"],
                   check=True)  # fmt: skip
    with open(data / "holes", "wb") as file:
        file.truncate(1 << 20)
    found = archive(root, "/data")
    assert "data/sock" not in found
    assert {"data/.wh.file", "data/fifo", "data/null", "data/\udcff\udcfe"} <= set(found)
    assert found["data/holes"] == bytes(1 << 20)
    assert found["data/hard"] == b"data/file"


def test_what_the_kernel_serves_is_nobodys_data(tmp_path: Path, root: Path) -> None:
    for name in ("proc", "dev", "mnt"):
        (root / name).mkdir()

    def work() -> None:
        private_mounts()
        for kind, place in (("proc", "proc"), ("tmpfs", "dev"), ("tmpfs", "mnt")):
            subprocess.run(["mount", "-t", kind, kind, str(root / place)], check=True)
        (root / "dev/shm").mkdir()
        (root / "dev/shm/file").write_text("shared")
        (root / "mnt/file").write_text("in a mount")
        whole = archive(root, "/")
        assert whole["/mnt/file"] == b"in a mount"
        assert [name for name in whole if name.startswith(("/proc", "/dev"))] == ["/dev/", "/proc/"]
        assert archive(root, "/proc") == {"proc/": None}
        assert archive(root, "/dev/shm") == {"shm/": None, "shm/file": b"shared"}
        with opened(root) as fd, pytest.raises(KernelError):
            find(fd, "/proc/version")

    run_forked(work)


def test_an_export_is_the_containers_own_file_system(root: Path) -> None:
    for name in ("usr", "vol"):
        (root / name).mkdir()

    def work() -> None:
        private_mounts()
        for place in ("usr", "vol"):
            subprocess.run(["mount", "-t", "tmpfs", place, str(root / place)], check=True)
            (root / place / "file").write_text(place)
        out = io.BytesIO()
        with opened(root) as fd:
            write_root(fd, [b"usr"], out)
        with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
            names = tar.getnames()
        assert "usr/file" in names and "vol" in names
        assert "vol/file" not in names
        assert "data/file" in names

    run_forked(work)


# Into the tree


def place(root: Path, path: str, data: bytes, **options: object) -> None:
    with opened(root) as fd:
        put(io.BytesIO(data), fd, path, **options)  # type: ignore[arg-type]


def test_an_archive_is_unpacked_at_its_place(root: Path) -> None:
    before = (root / "tmp").stat()
    data = layer(
        folder("./", mode=0o700),
        folder("d", mode=0o750, uid=5),
        item("d/f", b"new", gid=6),
        symlink("d/l", "f"),
        hardlink("d/h", "d/f"),
        item(".wh.x", b"name"),
        item("made/up/file", b"deep"),
    )
    place(root, "/tmp", data)
    tmp = root / "tmp"
    assert (tmp / "d/f").read_text() == "new"
    assert (tmp / "d/h").samefile(tmp / "d/f")
    assert ((tmp / "d").stat().st_uid, (tmp / "d/f").stat().st_gid) == (5, 6)
    assert stat.S_IMODE((tmp / "d").stat().st_mode) == 0o750
    assert (tmp / ".wh.x").read_text() == "name"
    assert (tmp / "made/up/file").read_text() == "deep"
    # What the archive says of "." is not about the destination.
    assert tmp.stat().st_mode == before.st_mode
    assert tmp.stat().st_mtime_ns > before.st_mtime_ns


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstd.compress])
def test_it_may_be_compressed(root: Path, pack: object) -> None:
    assert callable(pack)
    place(root, "/tmp", pack(layer(item("f", b"x"))))
    assert (root / "tmp/f").read_text() == "x"


def test_nothing_is_nothing_and_an_end_may_be_missing(root: Path) -> None:
    place(root, "/tmp", b"")
    place(root, "/tmp", layer(item("f", b"x"))[:1024])
    assert (root / "tmp/f").read_text() == "x"


def test_owners_may_be_given(root: Path) -> None:
    place(root, "/tmp", layer(folder("d", uid=1), item("d/f", uid=2)), owner=(7, 8))
    for name in ("d", "d/f"):
        status = (root / "tmp" / name).stat()
        assert (status.st_uid, status.st_gid) == (7, 8)


def test_links_in_the_tree_lead_where_they_lead_in_there(root: Path) -> None:
    place(
        root, "/tmp", layer(item("rel/through", b"1"), symlink("l", "/data"), item("l/via", b"2"))
    )
    assert (root / "data/through").read_text() == "1"
    assert (root / "data/via").read_text() == "2"
    # One that leads out of the tree ends at its root, where there is nothing of that name.
    with pytest.raises(InvalidArgument, match="leads nowhere"):
        place(root, "/tmp", layer(item("up/secret", b"x")))
    assert (root.parent / "outside/secret").read_text() == "of the machine"
    place(root, "/tmp", layer(item("abs", b"not through it")))
    assert (root / "data/file").read_text() == "hello\n"


def test_kinds_are_kept_when_asked(root: Path) -> None:
    (root / "tmp/d").mkdir()
    (root / "tmp/d/inner").touch()
    (root / "tmp/f").touch()
    for data, words in (
        (layer(item("d", b"x")), 'cannot overwrite directory "/tmp/d" with non-directory "/tmp"'),
        (layer(folder("f")), 'cannot overwrite non-directory "/tmp/f" with directory "/tmp"'),
    ):
        with pytest.raises(InvalidArgument, match=words):
            place(root, "/tmp", data, keep_kinds=True)
    place(root, "/tmp", layer(folder("d"), item("f", b"new")), keep_kinds=True)
    assert (root / "tmp/d/inner").exists()
    place(root, "/tmp", layer(item("d", b"a file now"), folder("f")))
    assert (root / "tmp/d").is_file() and (root / "tmp/f").is_dir()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (layer(item("../evil")), 'archive member "../evil" is outside of "/tmp"'),
        (layer(item("a/../../evil")), "outside of"),
        (layer(hardlink("h", "../data/file")), "h: its link"),
        (layer(hardlink("h", "/nope")), "which is not in the tree"),
        (layer(symlink(".", "/etc")), "no name for a file"),
        (b"garbage" * 200, "Error processing tar file"),
        (layer(item("f", b"x" * 5000))[:2000], "truncated"),
        (gzip.compress(layer(item("f")))[:-9], "truncated"),
    ],
)
def test_what_may_not_be_is_refused(root: Path, data: bytes, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        place(root, "/tmp", data)
    assert sorted(path.name for path in root.parent.iterdir()) == ["outside", "root"]


def test_dots_in_names_stay_inside(root: Path) -> None:
    place(root, "/tmp", layer(item("a/../b", b"1"), item("/absolute", b"2"), item("./././c", b"3")))
    assert {"b", "absolute", "c"} <= set(os.listdir(root / "tmp"))
    assert not (root / "tmp/a").exists()


def test_a_bomb_is_bounded(root: Path) -> None:
    many = layer(*(item(f"f{i}") for i in range(20)))
    with pytest.raises(InvalidArgument, match="more than 10 members"):
        place(root, "/tmp", many, limits=Limits(members=10))
    large = gzip.compress(layer(item("f", bytes(1 << 20))))
    with pytest.raises(InvalidArgument, match="more than 1000 bytes"):
        place(root, "/tmp", large, limits=Limits(size=1000))
    assert not (root / "tmp/f").exists()


def test_a_full_disk_leaves_no_half_file(root: Path) -> None:
    def work() -> None:
        private_mounts()
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "t", str(root / "tmp")], check=True
        )
        with pytest.raises(SampanError, match="no space left on device while copying large"):
            place(root, "/tmp", layer(item("small", b"x"), item("large", bytes(2 << 20))))
        assert os.listdir(root / "tmp") == ["small"]

    run_forked(work)


def test_read_only_and_busy_places_are_said(root: Path) -> None:
    def work() -> None:
        private_mounts()
        (root / "tmp/m").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "t", str(root / "tmp/m")], check=True)
        (root / "tmp/m/precious").write_text("kept")
        with pytest.raises(Conflict, match="a file system is mounted there"):
            place(root, "/tmp", layer(item("m", b"a file")))
        with pytest.raises(Conflict, match="a file system is mounted there"):
            place(root, "/", layer(item("tmp", b"a file")))
        assert (root / "tmp/m/precious").read_text() == "kept"
        subprocess.run(["mount", "-o", "remount,ro", str(root / "tmp/m")], check=True)
        with pytest.raises(PermissionDenied, match="read-only"):
            place(root, "/tmp", layer(item("m/x", b"x")))

    run_forked(work)


# Against somebody who changes the tree meanwhile


@contextmanager
def swapping(one: Path, other: Path) -> Iterator[None]:
    """Exchange two names all the time, as a container may."""
    pid = os.fork()
    if pid == 0:
        try:
            a, b = c_string(str(one)), c_string(str(other))
            while True:
                try:
                    syscall("renameat2", -100, a, -100, b, 2)
                except KernelError:
                    continue  # one of them was removed just now
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def relink(directory: Path, target: str) -> None:
    """Have ``other`` be a link again, for one moment of two."""
    (directory / "fresh").unlink(missing_ok=True)
    (directory / "fresh").symlink_to(target)
    try:
        os.rename(directory / "fresh", directory / "other")
    except OSError:  # a directory that was here has its turn
        pass


@pytest.mark.parametrize("target", ["/../outside", "{outside}", "../../outside"])
def test_a_directory_that_is_a_link_every_other_moment_cve_2018_15664(
    root: Path, target: str
) -> None:
    """Whatever is caught, nothing of the machine is read and nothing there is written."""
    outside = root.parent / "outside"
    (root / "data/deep").mkdir()
    (root / "data/deep/secret").write_text("of the container")
    (root / "data/other").symlink_to(target.format(outside=outside))
    data = layer(
        folder("deep"),
        item("deep/secret", b"written", mode=0o4777),
        folder("deep/new"),
        item("deep/new/file", b"w"),
        item("deep/fifo", kind=tarfile.FIFOTYPE, mode=0o666),
    )
    bare = layer(item("deep/secret", b"written"), item("deep/new/file", b"w"))
    before = {path.name: path.stat() for path in (outside, outside / "secret")}
    seen = set()
    with swapping(root / "data/deep", root / "data/other"):
        for _ in range(100):
            # One of the two may have been replaced by a directory of ours.
            relink(root / "data", target.format(outside=outside))
            for path in ("/data", "/data/deep/", "/data/deep/secret"):
                try:
                    found = archive(root, path)
                except (SampanError, OSError):
                    continue
                seen |= {content for content in found.values() if content}
            for path, content in (("/data", bare), ("/data", data), ("/data/deep", bare)):
                try:
                    place(root, path, content)
                except (SampanError, OSError):
                    continue
    assert b"of the machine" not in seen
    assert b"of the container" in seen or b"written" in seen
    assert (outside / "secret").read_text() == "of the machine"
    assert os.listdir(outside) == ["secret"]
    after = {path.name: path.stat() for path in (outside, outside / "secret")}
    for name, status in before.items():
        assert (after[name].st_mode, after[name].st_uid, after[name].st_mtime_ns) == (
            status.st_mode, status.st_uid, status.st_mtime_ns,
        )  # fmt: skip


def test_a_file_that_is_a_link_every_other_moment(root: Path) -> None:
    outside = root.parent / "outside/secret"
    (root / "data/other").symlink_to(outside)
    data = layer(item("file", kind=tarfile.FIFOTYPE, mode=0o4777, uid=77), item("file", b"w"))
    with swapping(root / "data/file", root / "data/other"):
        for _ in range(400):
            relink(root / "data", str(outside))
            try:
                place(root, "/data", data)
                assert b"of the machine" not in archive(root, "/data").values()
            except (SampanError, OSError):
                continue
    status = outside.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o644, 0)
    assert outside.read_text() == "of the machine"


def test_a_device_in_a_files_place_is_not_opened(root: Path) -> None:
    """/dev/watchdog starts to count when it is opened; here it is a terminal's other end."""
    master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    fcntl.ioctl(master, 0x40045431, struct.pack("i", 0))
    (number,) = struct.unpack("i", fcntl.ioctl(master, 0x80045430, bytes(4)))
    os.mknod(root / "data/other", stat.S_IFCHR | 0o666, os.makedev(136, number))
    # A node like this, outside of a devpts, is refused when it is opened: with EIO.
    errors = set()
    with swapping(root / "data/file", root / "data/other"):
        for _ in range(300):
            for path in ("/data", "/data/file"):
                try:
                    archive(root, path)
                except OSError as error:
                    errors.add(error.errno)
    os.close(master)
    assert EIO not in errors
