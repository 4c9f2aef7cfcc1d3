"""Docker's user syntax, against passwd and group files that somebody hostile wrote."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from sampan.errors import InvalidArgument
from sampan.runtime import users

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
broken line
ada:x:1000:1001:Ada:/home/ada:/bin/sh
7:x:70:71:a number for a name:/home/seven:/bin/sh
big:x:99999999999999999999:0::/:/bin/sh
minus:x:-1:0::/:/bin/sh
"""
GROUP = """\
root:x:0:
ada:x:1001:
wheel:x:10:root,ada
ships:x:20:ada,ada
"""


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(PASSWD)
    (tmp_path / "etc/group").write_text(GROUP)
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ada", (1000, 1001, (1001, 10, 20), "/home/ada")),
        ("1000", (1000, 1001, (1001, 10, 20), "/home/ada")),
        ("ada:wheel", (1000, 10, (10,), "/home/ada")),
        ("ada:10", (1000, 10, (10,), "/home/ada")),
        ("ada:777", (1000, 777, (777,), "/home/ada")),
        ("4242", (4242, 0, (0,), None)),
        ("4242:4343", (4242, 4343, (4343,), None)),
        (":wheel", (0, 10, (10,), "/root")),
        ("", (0, 0, (0, 10), "/root")),
    ],
)
def test_resolution(root: int, name: str, expected: tuple[object, ...]) -> None:
    found = users.resolve(root, name)
    assert (found.uid, found.gid, found.gids, found.home) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("7", (7, 0, None)),
        ("7:8", (7, 8, None)),
        ("70", (70, 71, "/home/seven")),
        ("ada:8", (1000, 8, "/home/ada")),
    ],
)
def test_a_number_is_never_somebodys_name_cve_2016_3697(
    root: int, tmp_path: Path, name: str, expected: tuple[object, ...]
) -> None:
    with open(tmp_path / "etc/group", "a", encoding="ascii") as file:
        file.write("8:x:0:ada\n")
    found = users.resolve(root, name)
    assert (found.uid, found.gid, found.home) == expected


def test_the_group_itself_is_among_the_groups_cve_2022_36109(root: int) -> None:
    assert 1001 in users.resolve(root, "ada").gids


@pytest.mark.parametrize("name", ["nobody", "ada:nogroup", "big", "minus", "-1", "4294967296", "٣"])
def test_what_is_not_there_is_refused(root: int, name: str) -> None:
    with pytest.raises(InvalidArgument, match="unable to find"):
        users.resolve(root, name)


def test_an_image_without_the_files_takes_numbers(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    try:
        assert users.resolve(fd, "5:6").uid == 5
        assert users.home_of(fd, 5) is None
        with pytest.raises(InvalidArgument):
            users.resolve(fd, "ada")
    finally:
        os.close(fd)


def test_a_link_stays_inside_the_root(root: int, tmp_path: Path) -> None:
    """CVE-2019-14271's class: the machine's passwd must not be read through the image's link."""
    (tmp_path / "etc/passwd").unlink()
    (tmp_path / "etc/passwd").symlink_to("/etc/hidden")
    (tmp_path / "etc/hidden").write_text("eve:x:666:666::/:/bin/sh\n")
    assert users.resolve(root, "eve").uid == 666
    (tmp_path / "etc/hidden").unlink()
    with pytest.raises(InvalidArgument):
        users.resolve(root, "daemon")


@pytest.mark.parametrize("kind", ["fifo", "directory", "loop"])
def test_what_is_no_file_is_refused_and_does_not_hang(root: int, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "etc/passwd"
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("passwd")
    with pytest.raises(InvalidArgument, match="etc/passwd"):
        users.resolve(root, "ada")


def test_a_file_without_an_end_is_refused(root: int, tmp_path: Path) -> None:
    with open(tmp_path / "etc/passwd", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InvalidArgument, match="larger than"):
        users.resolve(root, "ada")


def test_bytes_that_are_no_text_do_not_matter(root: int, tmp_path: Path) -> None:
    (tmp_path / "etc/passwd").write_bytes(b"\xff\xfe:x:1:1::/:\n\0\0\nada:x:8:9::/h\xff:/bin/sh\n")
    assert users.resolve(root, "ada").uid == 8
