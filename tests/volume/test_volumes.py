"""Volumes of the local driver."""

from __future__ import annotations

import os
import re
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from sampan.errors import Conflict, InvalidArgument, NotFound, NotSupported, SampanError
from sampan.kernel.mounts import mountinfo
from sampan.storage.database import Database
from sampan.volume.store import VolumeStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(str(tmp_path / "sampan.db"))
    yield opened
    opened.close()


@pytest.fixture
def volumes(tmp_path: Path, database: Database) -> Iterator[VolumeStore]:
    opened = VolumeStore(str(tmp_path), database)
    yield opened
    opened.close()


def test_a_volume_is_a_directory_with_a_name(volumes: VolumeStore, tmp_path: Path) -> None:
    made, new = volumes.create("data", {"k": "v"})
    assert new
    assert made.path == str(tmp_path / "volumes" / "data" / "_data")
    assert os.path.isdir(made.path)
    assert (made.driver, made.labels, made.anonymous) == ("local", {"k": "v"}, False)
    assert made.created > 1e9
    assert volumes.get("data") == made
    assert volumes.create("data", {"other": "label"}) == (made, False)
    assert [volume.name for volume in volumes.list()] == ["data"]


def test_an_anonymous_volume_has_a_name_of_its_own(volumes: VolumeStore) -> None:
    first, second = volumes.create()[0], volumes.create()[0]
    assert first.anonymous
    assert len(first.name) == 64
    assert first.name != second.name
    assert first.labels == {"com.docker.volume.anonymous": ""}


def test_what_is_prepared_is_a_volume_when_it_is_added(volumes: VolumeStore) -> None:
    volume, new = volumes.prepare("data", labels={"k": "v"})
    assert new and os.path.isdir(volume.path)
    assert volumes.list() == []
    volumes.add(volume)
    assert volumes.list() == [volume]
    other, _ = volumes.prepare("other")
    volumes.abandon(other)
    assert not os.path.exists(other.path)


def test_options_of_a_volume_are_kept_and_others_are_a_conflict(volumes: VolumeStore) -> None:
    options = {"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}
    volume, _ = volumes.create("data", options=options)
    assert volumes.get("data").options == options
    assert volumes.create("data", options=options) == (volume, False)
    assert volumes.create("data") == (volume, False)
    with pytest.raises(Conflict, match="other options: device=tmpfs, o=size=1m, type=tmpfs"):
        volumes.create("data", options={**options, "o": "size=2m"})
    volumes.create("plain")
    with pytest.raises(Conflict, match="other options: none"):
        volumes.create("plain", options=options)


@pytest.mark.parametrize("name", ["a", "-ab", ".trash", "a/b", "a b", "..", "é" * 3, "x" * 256])
def test_a_name_that_cannot_be_is_refused(volumes: VolumeStore, name: str) -> None:
    with pytest.raises(InvalidArgument, match=f"create {re.escape(name)}: .*volume name"):
        volumes.create(name)
    assert volumes.list() == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"typ": "tmpfs"}, 'create data: invalid option: "typ"'),
        ({"type": "tmpfs"}, 'create data: missing required option: "device"'),
        ({"device": "/tmp"}, 'create data: missing required option: "type"'),
        ({"o": "bind"}, 'create data: missing required option: "device"'),
        ({"type": "none", "device": "tmp", "o": "bind"}, "a bind needs an absolute path"),
        ({"type": "tmpfs", "device": "tmpfs", "o": "remount"}, "o=remount"),
        ({"type": "tmpfs", "device": "tmpfs", "o": "rro"}, "o=rro"),
        ({"type": "tmpfs", "device": "a\0b"}, "NUL"),
    ],
)
def test_options_that_cannot_be_are_refused(
    volumes: VolumeStore, options: dict[str, str], words: str
) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(words)):
        volumes.create("data", options=options)
    assert volumes.list() == []


def test_what_the_local_driver_cannot_do_is_named(volumes: VolumeStore) -> None:
    with pytest.raises(NotFound, match='plugin "nfs" not found'):
        volumes.create("data", driver="nfs")
    with pytest.raises(NotSupported, match="no quota support"):
        volumes.create("data", options={"size": "10m"})


@pytest.mark.root
@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=7,mode=0750,noexec"}, "tmpfs"),
        ({"type": "none", "device": "{source}", "o": "bind,ro"}, ""),
        ({"type": "none", "device": "{source}", "o": "rbind"}, ""),
    ],
)
def test_a_file_system_is_there_while_the_volume_is_used(
    volumes: VolumeStore, tmp_path: Path, options: dict[str, str], kind: str
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").touch()
    given = {name: value.format(source=source) for name, value in options.items()}
    volume, _ = volumes.create("data", options=given)
    for _ in range(2):
        assert volumes.open(volume) == volumes.open(volume)
    rows = [row for row in mountinfo() if row.mount_point == volume.path]
    assert len(rows) == 1
    if kind:
        assert rows[0].fstype == kind
        assert {"size=1024k", "uid=7"} <= set(rows[0].super_options)
        assert "noexec" in rows[0].options
    else:
        assert os.listdir(volume.path) == ["file"]
        assert ("ro" in rows[0].options) == ("ro" in given["o"])
    volumes.shut("data")
    volumes.shut("data")
    assert not [row for row in mountinfo() if row.mount_point == volume.path]


@pytest.mark.root
def test_what_cannot_be_mounted_is_said(volumes: VolumeStore) -> None:
    for options, words in (
        ({"type": "none", "device": "/no/where", "o": "bind"}, "no such file or directory"),
        ({"type": "nonsense", "device": "x"}, "no such device"),
        ({"type": "nfs", "device": ":/x", "o": "addr=127.0.0.1"}, "no such device"),
        ({"type": "nfs", "device": ":/x", "o": f"addr={'x' * 70}"}, "error resolving .* xxx"),
    ):
        volume, _ = volumes.create(options=options)
        with pytest.raises(SampanError, match=words):
            volumes.open(volume)


def test_a_removed_volume_is_gone_with_what_was_in_it(volumes: VolumeStore) -> None:
    made, _ = volumes.create("data")
    with open(os.path.join(made.path, "file"), "w", encoding="utf-8") as file:
        file.write("x")
    volumes.remove("data")
    assert not os.path.exists(made.path)
    with pytest.raises(NotFound, match=r"^get data: no such volume$"):
        volumes.get("data")
    with pytest.raises(NotFound, match="no such volume"):
        volumes.remove("data")
    volumes.collect()
    assert os.listdir(volumes.root) == [".trash"]
    assert os.listdir(os.path.join(volumes.root, ".trash")) == []
    assert os.listdir(volumes.create("data")[0].path) == []


def test_a_directory_somebody_deleted_is_made_again(volumes: VolumeStore) -> None:
    made, _ = volumes.create("data")
    os.rmdir(made.path)
    assert volumes.open(made) == made.path
    assert os.path.isdir(made.path)


def test_volumes_outlive_the_store_and_what_was_half_made_does_not(
    tmp_path: Path, database: Database
) -> None:
    first = VolumeStore(str(tmp_path), database)
    kept, _ = first.create("kept")
    (tmp_path / "volumes" / "half" / "_data").mkdir(parents=True)
    first.close()
    second = VolumeStore(str(tmp_path), database)
    second.collect()
    assert second.list() == [kept]
    assert sorted(os.listdir(second.root)) == [".trash", "kept"]
    second.close()


def test_a_kill_at_any_step_of_a_removal_leaves_all_of_it_or_nothing(tmp_path: Path) -> None:
    """Each change of the disk, and each statement to the database, is a step."""
    outcomes = set()
    for step in range(1, 40):
        root = tmp_path / f"root{step}"
        root.mkdir()
        killed = _killed_at(step, root)
        database = Database(f"{root}/sampan.db")
        store = VolumeStore(str(root), database)
        rows = [volume.name for volume in store.list()]
        assert set(os.listdir(store.root)) - {".trash"} == set(rows)
        assert rows == [] or os.listdir(store.get("data").path) == ["file"]
        outcomes.add(bool(rows))
        store.close()
        database.close()
        if not killed:
            break
    assert not killed
    assert outcomes == {True, False}


def _killed_at(step: int, root: Path) -> bool:
    """Make a volume; remove it in a process that is killed at its ``step``th step; whether it
    was."""
    database = Database(f"{root}/sampan.db")
    store = VolumeStore(str(root), database)
    volume, _ = store.create("data")
    with open(f"{volume.path}/file", "w", encoding="utf-8") as file:
        file.write("x")
    store.close()
    database.close()
    pid = os.fork()
    if pid == 0:
        left = step

        def step_done() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        def watch(event: str, _: object) -> None:
            if event in ("os.rename", "os.remove", "os.rmdir", "os.listdir", "open"):
                step_done()

        class Stepping(Database):
            def execute(self, statement: str, parameters: Sequence[object] = ()) -> int:
                step_done()
                changed = super().execute(statement, parameters)
                step_done()
                return changed

        try:
            again = VolumeStore(str(root), Stepping(f"{root}/sampan.db"))
            sys.addaudithook(watch)
            again.remove("data")
            again.collect()
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0
