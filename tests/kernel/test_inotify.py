"""inotify: what happens is told, in order, with names."""

from __future__ import annotations

import os
import select
from errno import ENOENT
from typing import TYPE_CHECKING

import pytest

from sampan.errors import KernelError
from sampan.kernel import inotify
from sampan.kernel.inotify import Inotify

if TYPE_CHECKING:
    from pathlib import Path


def test_changes_in_a_directory_are_told_by_name(tmp_path: Path) -> None:
    with Inotify() as watcher:
        assert not os.get_inheritable(watcher.fileno())
        assert watcher.read() == []
        watch = watcher.add(str(tmp_path), inotify.IN_CREATE | inotify.IN_DELETE)
        names = ["a", "a much longer name", "caf\udce9"]
        for name in names:
            (tmp_path / name).touch()
        (tmp_path / "dir").mkdir()
        (tmp_path / "a").unlink()
        assert select.select([watcher], [], [], 5)[0]
        events = watcher.read()
        assert [event.name for event in events] == [*names, "dir", "a"]
        assert {event.watch for event in events} == {watch}
        assert events[3].mask == inotify.IN_CREATE | inotify.IN_ISDIR
        assert events[4].mask == inotify.IN_DELETE
        assert watcher.read() == []


def test_a_rename_has_a_cookie(tmp_path: Path) -> None:
    (tmp_path / "old").touch()
    with Inotify() as watcher:
        watcher.add(str(tmp_path), inotify.IN_MOVED_FROM | inotify.IN_MOVED_TO)
        (tmp_path / "old").rename(tmp_path / "new")
        first, second = watcher.read()
        assert (first.name, second.name) == ("old", "new")
        assert first.cookie == second.cookie != 0


def test_a_watched_file_has_no_name_and_ends_with_ignored(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with Inotify() as watcher:
        watch = watcher.add(str(file), inotify.IN_MODIFY)
        file.write_text("x")
        first = watcher.read()[0]
        assert (first.mask, first.name) == (inotify.IN_MODIFY, "")
        watcher.remove(watch)
        assert [event.mask for event in watcher.read()] == [inotify.IN_IGNORED]


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with Inotify() as watcher, pytest.raises(KernelError, match="nothing-here: ENOENT") as caught:
        watcher.add(str(tmp_path / "nothing-here"), inotify.IN_MODIFY)
    assert caught.value.errno == ENOENT
