"""Layers unpacked by a process of their own: the same result, and every way it can end."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import random
import resource
import signal
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest
from backports import zstd

from sampan.errors import Corrupt, InvalidArgument, KernelError, SampanError, Unavailable
from sampan.kernel import mounts
from sampan.storage.archive.apply import apply_layer
from sampan.storage.blobs import BlobStore
from sampan.storage.growing import Growing
from sampan.storage.unpacking import client, messages
from sampan.storage.unpacking.client import Unpackers
from tests.storage.archive.test_settling import BASE, CASES, Layers, below, snapshot
from tests.storage.drivers.layers import layer

__all__ = ["below"]
pytestmark = pytest.mark.root

NOISE = random.Random(5).randbytes(20_000_000)
BIG = layer({"a/": None, **{f"a/{n}": NOISE[n * 1000 : n * 1000 + 99_999] for n in range(190)}})


@pytest.fixture(scope="module")
def unpackers() -> Iterator[Unpackers]:
    one = Unpackers()
    yield one
    one.close()


@pytest.fixture
def target(tmp_path: Path) -> Iterator[int]:
    place = tmp_path / "target"
    place.mkdir()
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@contextlib.contextmanager
def file_of(data: bytes) -> Iterator[int]:
    fd = os.memfd_create("layer")
    os.write(fd, data)
    yield fd
    os.close(fd)


def children() -> list[int]:
    """Of every thread: a server that is needed again is started by whoever needs it."""
    found: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += map(int, (task / "children").read_text().split())
    return found


def server(others: Collection[int] = ()) -> int:
    for pid in children():
        if pid not in others and Path(f"/proc/{pid}/comm").read_text().strip() == "sampan-unpack":
            return pid
    raise AssertionError("no unpacker runs")


def unpacking_children(others: Collection[int] = ()) -> list[int]:
    pid = server(others)
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("case", sorted(CASES))
def test_it_is_what_it_would_be_here(unpackers: Unpackers, below: Layers, case: str) -> None:
    here, first = below.make()
    there, second = below.make()
    try:
        mine = apply_layer(
            io.BytesIO(CASES[case]), first, style="overlay", lower=below.fds, require_end=True
        )
        with file_of(CASES[case]) as source:
            other = unpackers.apply(source, second, style="overlay", lower=below.fds)
        assert other == mine
        assert snapshot(str(there)) == snapshot(str(here))
    finally:
        os.close(first)
        os.close(second)


def test_errors_are_the_same_errors(unpackers: Unpackers, target: int) -> None:
    for data, diff_id, kind, words in (
        (BASE[:700], None, Corrupt, "truncated"),
        (BASE, "sha256:" + "0" * 64, Corrupt, "expected a layer with diff ID"),
        (layer({"../x": b"1"}), None, InvalidArgument, r"\.\."),
        (gzip.compress(BASE)[:-9] + b"x" * 9, None, Corrupt, "gzip"),
    ):
        with file_of(data) as source, pytest.raises(kind, match=words):
            unpackers.apply(source, target, style="overlay", diff_id=diff_id)


def test_many_at_once_are_done_by_as_many(unpackers: Unpackers, tmp_path: Path) -> None:
    results: list[str] = []

    def one(number: int) -> None:
        place = tmp_path / str(number)
        place.mkdir()
        fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        with file_of(BIG) as source:
            results.append(unpackers.apply(source, fd, style="overlay").diff_id)
        os.close(fd)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 6
    assert len(set(results)) == 1
    assert len(list((tmp_path / "3/a").iterdir())) == 190


class Slow:
    """A blob that comes in piece by piece."""

    def __init__(self, store: BlobStore, data: bytes) -> None:
        self.ingest = store.ingest()
        self.growing = Growing(store, "")
        self.growing.begin(self.ingest.path, 0)
        self._data = data

    def feed(self, count: int) -> None:
        at = self.ingest.offset
        self.ingest.write(self._data[at : at + count])
        self.growing.grow(self.ingest.offset)

    def close(self) -> None:
        self.growing.close()
        self.ingest.abort()


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Slow]:
    one = Slow(BlobStore(str(tmp_path / "content")), gzip.compress(BIG, 1))
    yield one
    one.close()


def begun(unpackers: Unpackers, slow: Slow, target: int) -> tuple[threading.Thread, list[object]]:
    results: list[object] = []

    def work() -> None:
        try:
            results.append(unpackers.apply(slow.growing, target, style="overlay").diff_id)
        except SampanError as error:
            results.append(error)

    slow.feed(3_000_000)
    thread = threading.Thread(target=work)
    thread.start()
    wait_for(lambda: slow.growing.position >= 2_900_000)
    return thread, results


def wait_for(test: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_comes_slowly_is_followed(unpackers: Unpackers, slow: Slow, target: int) -> None:
    thread, results = begun(unpackers, slow, target)
    assert os.listdir(target)
    slow.feed(1)
    slow.feed(1 << 30)
    slow.growing.finish()
    thread.join(60)
    from hashlib import sha256

    assert results == [f"sha256:{sha256(BIG).hexdigest()}"]


def test_what_never_comes_ends_with_its_error(
    unpackers: Unpackers, slow: Slow, target: int
) -> None:
    thread, results = begun(unpackers, slow, target)
    slow.growing.fail(SampanError("it will not come"))
    thread.join(60)
    assert [str(error) for error in results] == ["it will not come"]
    wait_for(lambda: unpacking_children() == [])


def test_a_child_that_is_killed_is_said(unpackers: Unpackers, slow: Slow, target: int) -> None:
    thread, results = begun(unpackers, slow, target)
    (child,) = unpacking_children()
    os.kill(child, signal.SIGKILL)
    slow.feed(1 << 30)
    slow.growing.finish()
    thread.join(60)
    (error,) = results
    assert isinstance(error, Unavailable)
    with file_of(BASE) as source:
        assert unpackers.apply(source, target, style="overlay").members == 7


def test_a_server_that_is_killed_is_replaced_and_takes_its_children_along(
    unpackers: Unpackers, slow: Slow, target: int
) -> None:
    thread, results = begun(unpackers, slow, target)
    old, (child,) = server(), unpacking_children()
    os.kill(old, signal.SIGKILL)
    slow.feed(1 << 30)
    thread.join(60)
    assert isinstance(results[0], Unavailable)
    wait_for(lambda: not os.path.exists(f"/proc/{child}"))
    with file_of(BASE) as source:
        assert unpackers.apply(source, target, style="overlay").members == 7
    assert server() != old


def zeros(size: int) -> bytes:
    """A layer of a file of zeros, in a few kilobytes."""
    info = tarfile.TarInfo("zeros")
    info.size = size
    piece = 64 << 20
    return b"".join((zstd.compress(info.tobuf()), *[zstd.compress(bytes(piece))] * (size // piece)))


def test_one_nobody_wants_any_more_ends_at_once(unpackers: Unpackers, tmp_path: Path) -> None:
    """However far a few bytes, all of them here, would have led."""
    slow = Slow(BlobStore(str(tmp_path / "content")), zeros(8 << 30))
    place = tmp_path / "target"
    place.mkdir()
    target = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    results: list[object] = []

    def work() -> None:
        try:
            results.append(unpackers.apply(slow.growing, target, style="overlay"))
        except SampanError as error:
            results.append(str(error))

    slow.feed(1 << 30)
    slow.growing.finish()
    thread = threading.Thread(target=work)
    thread.start()
    wait_for((place / "zeros").exists)
    slow.growing.fail(SampanError("not wanted"))
    thread.join(60)
    assert results == ["not wanted"]
    wait_for(lambda: unpacking_children() == [])
    assert (place / "zeros").stat().st_size < 8 << 30
    slow.close()
    os.close(target)


def test_a_layer_may_leave_more_to_settle_than_a_message_holds(
    unpackers: Unpackers, target: int
) -> None:
    names = [f"{n:0100}" for n in range(4000)]
    with file_of(layer({f"{name}/x": b"" for name in names})) as source:
        applied = unpackers.apply(source, target, style="overlay", loose=True)
    assert [path for path, _ in applied.loose.implied] == [name.encode() for name in names]


def test_what_a_child_says_is_no_more_than_an_answer() -> None:
    for said, words in (
        ([b".\xc1"], "nonsense"),
        ([b"." + messages.encode(messages.Go())], "nonsense"),
        ([b"+" + bytes(60_000)] * 1200, "64 MiB"),
    ):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        def say(pieces: list[bytes] = said, to: socket.socket = theirs) -> None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for piece in pieces:
                    to.send(piece)

        thread = threading.Thread(target=say)
        with theirs:
            with ours:
                thread.start()
                with pytest.raises(SampanError, match=words):
                    messages.receive(ours)
            thread.join()


def test_a_full_disk_is_said_as_one(unpackers: Unpackers) -> None:
    context = mounts.fsopen("tmpfs")
    mounts.fsconfig_string(context, "size", "1m")
    mounts.fsconfig_create(context)
    target = mounts.fsmount(context)  # nowhere in the tree, and gone with its descriptor
    try:
        with file_of(BIG) as source, pytest.raises(SampanError, match=r"no space left.*a/"):
            unpackers.apply(source, target, style="overlay")
    finally:
        os.close(target)
        os.close(context)


def test_memory_is_bounded(unpackers: Unpackers, target: int) -> None:
    """Here: by names, of directories whose times are to be set at the end."""
    header = tarfile.TarInfo()
    header.type, header.uid = tarfile.DIRTYPE, 1

    def members() -> Iterator[bytes]:
        for number in range(12):
            header.name = f"{number}" + "/n" * 400_000
            yield header.tobuf(tarfile.PAX_FORMAT)

    with file_of(b"".join(members()) + bytes(1024)) as source, pytest.raises(SampanError):
        unpackers.apply(source, target, style="overlay")


@pytest.mark.skipif(not os.path.isdir("/sys/fs/cgroup/pids"), reason="no pids hierarchy of v1")
def test_where_no_more_processes_may_be_one_layer_fails_and_no_other(
    unpackers: Unpackers, slow: Slow, target: int
) -> None:
    with file_of(BASE) as source:
        unpackers.apply(source, target, style="overlay")
        thread, results = begun(unpackers, slow, target)
        pid = server()
        (own,) = (
            line.split(":")[2]
            for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()
            if line.split(":")[1] == "pids"
        )
        group = Path(f"/sys/fs/cgroup/pids/sampan-test-{os.getpid()}")
        group.mkdir()
        try:
            (group / "cgroup.procs").write_text(str(pid))
            (group / "pids.max").write_text("1")
            with pytest.raises(Unavailable):
                unpackers.apply(source, target, style="overlay")
            (group / "pids.max").write_text("max")
            unpackers.apply(source, target, style="overlay")
            assert server() == pid
        finally:
            Path(f"/sys/fs/cgroup/pids{own}/cgroup.procs").write_text(str(pid))
            wait_for(lambda: not (group / "cgroup.procs").read_text())
            group.rmdir()
    slow.feed(1 << 30)
    slow.growing.finish()
    thread.join(60)
    assert isinstance(results[0], str)


def test_without_descriptors_it_is_said_and_works_again(unpackers: Unpackers, target: int) -> None:
    with file_of(BASE) as source:
        unpackers.apply(source, target, style="overlay")
        old, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        pid = server()
        highest = max(map(int, os.listdir("/proc/self/fd")))
        for room in range(4):
            held = [os.dup(source) for _ in range(20)]
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(held) + 1 + room, hard))
            try:
                with pytest.raises(KernelError, match="EMFILE"):
                    unpackers.apply(source, target, style="overlay")
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (old, hard))
                for fd in held:
                    os.close(fd)
        assert max(map(int, os.listdir("/proc/self/fd"))) <= highest
        unpackers.apply(source, target, style="overlay")
        assert server() == pid


def test_a_child_has_few_capabilities_and_little_memory(
    monkeypatch: pytest.MonkeyPatch, slow: Slow, target: int
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:SECRET@proxy")
    others = children()
    own = Unpackers()
    with file_of(BASE) as source:
        own.apply(source, target, style="overlay")  # a server started here is this thread's child
    thread, _ = begun(own, slow, target)
    (child,) = unpacking_children(others)
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{child}/status").read_text().splitlines()
        if ":\t" in line
    )
    limits = Path(f"/proc/{child}/limits").read_text()
    environment = Path(f"/proc/{child}/environ").read_bytes()
    held = {
        os.readlink(f"/proc/{child}/fd/{fd}")
        for fd in os.listdir(f"/proc/{child}/fd")
        if int(fd) > 2
    }
    slow.growing.fail(SampanError("enough seen"))
    thread.join(60)
    own.close()
    with pytest.raises(Unavailable, match="the daemon ends"):
        own.apply(target, target, style="overlay")
    for which in ("CapEff", "CapPrm", "CapBnd"):
        assert int(status[which], 16).bit_count() == 7
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert b"SECRET" not in environment
    place = os.readlink(f"/proc/self/fd/{target}")
    assert slow.ingest.path in held
    files = {name for name in held if name.startswith("/")} - {slow.ingest.path}
    assert {name for name in files if not name.startswith(place)} == set()
    # Its socket, its pipe; nothing of its siblings or of the server's.
    assert sorted(name.partition(":")[0] for name in held - files)[1:] == ["pipe", "socket"]
    assert int(status["Threads"]) == 3  # what unpacks ahead, what watches for our end
    assert f"Max data size             {768 << 20}" in limits


def test_a_server_nobody_needs_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "IDLE_SECONDS", 0.1)
    before = set(children())
    own = Unpackers()
    place = tmp_path / "x"
    place.mkdir()
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(2):
        with file_of(BASE) as source:
            own.apply(source, fd, style="overlay")
        wait_for(lambda: set(children()) <= before)
    os.close(fd)
    own.close()
