"""Trees are removed by descriptor: deep ones, hostile ones, and never through a mount."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from sampan.storage.drivers.removal import Trash, remove_tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.root


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def test_a_tree_is_removed_and_what_its_links_point_at_stays(tmp_path: Path, parent: int) -> None:
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep" / "file").write_text("kept")
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "file").write_text("x")
    (tree / "a" / "out").symlink_to(tmp_path / "keep")
    (tree / "b").symlink_to("..")
    os.mkfifo(tree / "pipe")
    remove_tree(parent, "tree")
    assert os.listdir(tmp_path) == ["keep"]
    assert (tmp_path / "keep" / "file").read_text() == "kept"


def test_a_missing_name_is_no_error_and_a_file_goes_too(tmp_path: Path, parent: int) -> None:
    remove_tree(parent, "missing")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("/etc")
    remove_tree(parent, "file")
    remove_tree(parent, "link")
    assert os.listdir(tmp_path) == []


def test_a_tree_deeper_than_any_path_or_stack_is_removed(tmp_path: Path, parent: int) -> None:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(3000):
        os.mkdir("deeper", dir_fd=fd)
        below = os.open("deeper", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    before = len(os.listdir("/proc/self/fd"))
    remove_tree(parent, "deeper")
    assert os.listdir(tmp_path) == []
    assert len(os.listdir("/proc/self/fd")) == before


LEAKED = """
import os, sys
from sampan.errors import Conflict
from sampan.storage.drivers.removal import remove_tree
parent = os.open(sys.argv[1], os.O_RDONLY)
try:
    remove_tree(parent, "tree")
except Conflict as error:
    print(error)
"""


def test_what_is_mounted_below_is_not_touched(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("precious")
    (tmp_path / "tree" / "leaked").mkdir(parents=True)
    # A bind mount of the same file system: st_dev alone would not tell.
    script = 'mount --bind "$1/precious" "$1/tree/leaked"; exec "$2" -c "$3" "$1"'
    own = ("unshare", "-m", "--propagation", "private")
    done = subprocess.run(
        [*own, "sh", "-ec", script, "sh", str(tmp_path), sys.executable, LEAKED],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == (
        "cannot remove tree/…/leaked: a file system is mounted there; unmount it\n"
    )
    assert (precious / "file").read_text() == "precious"


def test_trash_is_emptied_in_the_background(tmp_path: Path, parent: int) -> None:
    trash = Trash(parent, "trash")
    for number in range(20):
        (tmp_path / "victim" / str(number)).mkdir(parents=True)
        assert trash.put(parent, "victim")
    assert not trash.put(parent, "victim")
    deadline = time.monotonic() + 60
    while os.listdir(tmp_path / "trash") and time.monotonic() < deadline:
        time.sleep(0.01)
    trash.close()
    assert os.listdir(tmp_path / "trash") == []
