"""proc_pid_mountinfo(5), on crafted lines: escapes, optional fields, propagation."""

from __future__ import annotations

import os

import pytest

from sampan.kernel.mounts import MountInfo, mountinfo


def test_every_field_of_a_line() -> None:
    (entry,) = mountinfo(
        "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"
    )
    assert (entry.id, entry.parent, entry.major, entry.minor) == (36, 35, 98, 0)
    assert (entry.root, entry.mount_point) == ("/mnt1", "/mnt2")
    assert entry.options == ("rw", "noatime")
    assert (entry.shared, entry.master, entry.propagate_from) == (None, 1, None)
    assert (entry.fstype, entry.source) == ("ext3", "/dev/root")
    assert entry.super_options == ("rw", "errors=continue")


@pytest.mark.parametrize(
    ("optional", "propagation"),
    [
        ("", "private"),
        ("shared:7 ", "shared"),
        ("master:3 ", "slave"),
        ("shared:7 master:3 ", "shared,slave"),
        ("master:3 propagate_from:2 ", "slave"),
        ("unbindable ", "unbindable"),
        ("some_new_tag:9 shared:1 ", "shared"),
    ],
)
def test_propagation_comes_from_the_optional_fields(optional: str, propagation: str) -> None:
    entry = MountInfo(f"1 2 0:3 / /x rw {optional}- tmpfs tmpfs rw")
    assert entry.propagation == propagation
    assert entry.fstype == "tmpfs"


def test_octal_escapes_are_undone_once() -> None:
    entry = MountInfo(r"1 2 0:3 /a\040b /tab\011new\012back\134040 rw - fuse.x a\040b rw,x=\054")
    assert entry.root == "/a b"
    assert entry.mount_point == "/tab\tnew\nback\\040"
    assert entry.source == "a b"


def test_names_that_are_not_utf8_survive() -> None:
    entry = MountInfo("1 2 0:3 / " + os.fsdecode(b"/caf\xe9\\040bar") + " rw - tmpfs none rw")
    assert os.fsencode(entry.mount_point) == b"/caf\xe9 bar"


def test_a_hyphen_as_source_and_an_empty_source() -> None:
    assert MountInfo("1 2 0:3 / /x rw - tmpfs - rw").source == "-"
    empty = MountInfo("1 2 0:3 / /x rw - tmpfs  rw,size=1k")
    assert (empty.source, empty.super_options) == ("", ("rw", "size=1k"))


def test_peer_of_another_mount_namespace_file() -> None:
    entry = MountInfo("1 2 0:4 mnt:[4026533245] /run/ns rw - nsfs nsfs rw")
    assert entry.root == "mnt:[4026533245]"


def test_our_own_table_reads() -> None:
    assert any(entry.mount_point == "/proc" and entry.fstype == "proc" for entry in mountinfo())
