"""Files into a container, and out of it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

import sampan
from sampan.sdk import files as sdk_files

pytestmark = pytest.mark.root


def test_files_go_in_wherever_they_belong(session: sampan.Session, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho script\n")
    script.chmod(0o750)
    result = session.run(
        "host",
        ["sh", "-c", "cat /work/deep/a /usr/local/b /bin/zz /var/run/c; /work/script; stat -c "
         "'%a %u %g' /work /work/deep/a /work/script /d; ls /usr/bin/env"],
        files={
            "/work/deep/a": b"a\n",
            "/usr/local/b": "b\n",
            "/bin/zz": "through a link of the image\n",
            "/var/run/c": "c\n",
            "/work/script": script,
            "/d": sampan.File(b"d", mode=0o4711, uid=5, gid=6),
        },
    )  # fmt: skip
    assert result.text == (
        "a\nb\nthrough a link of the image\nc\nscript\n"
        "755 0 0\n644 0 0\n750 0 0\n4711 5 6\n/usr/bin/env\n"
    )
    assert result.error_text == ""


def test_a_file_of_the_image_is_replaced_for_this_container(session: sampan.Session) -> None:
    files = {"/etc/passwd": "me:x:0:0::/:\n"}
    assert session.run("host", ["cat", "/etc/passwd"], files=files).text == files["/etc/passwd"]
    assert session.run("host", ["head", "-c4", "/etc/passwd"]).text == "root"


def test_they_are_ordinary_files_there(session: sampan.Session) -> None:
    line = "mv /a /b && echo more >> /b && cat /b && rm /b"
    result = session.run("host", ["sh", "-c", line], files={"/a": "x\n"})
    assert result.text == "x\nmore\n"


def test_files_in_a_read_only_root(session: sampan.Session) -> None:
    result = session.run("host", ["cat", "/a"], files={"/a": "x"}, read_only=True)
    assert result.text == "x"


def test_the_programs_mask_is_not_theirs(session: sampan.Session) -> None:
    old = os.umask(0o077)
    try:
        result = session.run("host", ["stat", "-c%a", "/new", "/new/a"], files={"/new/a": "x"})
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(old)
    assert result.text == "755\n644\n"


@pytest.mark.parametrize("path", ["/usr", "/etc/passwd/x"])
def test_a_place_that_cannot_be(session: sampan.Session, path: str) -> None:
    with pytest.raises(sampan.InvalidArgument, match=f"files {path}"):
        session.run("host", ["true"], files={path: "x"})


def test_files_come_out(session: sampan.Session) -> None:
    line = (
        "mkdir -p /out/d; cd /out; printf a > a; printf b > d/b; ln -s a link; mkfifo fifo; "
        "printf u > /usr/local/u; rm /etc/issue; ln -s /out/a /through"
    )
    result = session.run(
        "host",
        ["sh", "-c", line],
        collect=["/out", "/usr/local/u", "/etc/issue", "/through", "/out/fifo", "/etc/hostname"],
    )
    assert result.files == {
        "/out/a": b"a",
        "/out/d/b": b"b",
        "/usr/local/u": b"u",
        "/through": b"a",
        "/etc/hostname": b"",
    }
    assert result.omitted == {
        "/etc/issue": "No such file or directory",
        "/out/fifo": "neither a regular file nor a directory",
    }


def test_they_come_out_of_what_was_killed(session: sampan.Session, enough: float) -> None:
    line = "echo x > /a; tail /dev/zero"
    result = session.run("host", ["sh", "-c", f"{line}; {line}"], memory="32m", collect=["/a"])
    assert result.files == {"/a": b"x\n"}
    line = "echo x > /a; sleep 600"
    result = session.run("host", ["sh", "-c", line], timeout=enough, collect=["/a"])
    assert (result.timed_out, result.files) == (True, {"/a": b"x\n"})


def test_links_lead_nowhere_else(session: sampan.Session, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    line = (
        f"ln -s {secret} /a; ln -s ../../../../..{secret} /b; ln -s {tmp_path} /c; "
        "ln -s /proc/1/root/etc/shadow /d; mkdir /out; ln -s / /out/root"
    )
    wanted = ["/a", "/b", "/c/secret", "/d", "/out"]
    result = session.run("host", ["sh", "-c", line], collect=wanted)
    assert result.files == {}
    assert set(result.omitted) == set(wanted) - {"/out"}


def test_what_is_too_large_is_left_out_and_said(
    session: sampan.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sdk_files, "COLLECT_LIMIT", 1000)
    monkeypatch.setattr(sdk_files, "_MOST_FILES", 5)
    line = "head -c 600 /dev/zero > /a; cp /a /b; mkdir /d; cd /d; touch 1 2 3 4 5 6 7 8"
    result = session.run("host", ["sh", "-c", line], collect=["/a", "/b", "/d"])
    assert len(result.files["/a"]) == 600
    assert result.omitted == {"/b": "more than 1000 bytes in all", "/d": "more than 5 files"}
    result = session.run("host", ["truncate", "-s", "1T", "/sparse"], collect=["/sparse"])
    assert (result.files, list(result.omitted)) == ({}, ["/sparse"])


def test_a_tree_deeper_than_any_path(session: sampan.Session) -> None:
    code = (
        "import os\nos.mkdir('/out'); os.chdir('/out')\n"
        "for _ in range(60): os.mkdir('d' * 200); os.chdir('d' * 200)\nopen('deepest', 'w')"
    )
    result = session.run("host", ["python3", "-c", code], collect=["/out"])
    assert result.files == {}
    assert list(result.omitted.values()) == ["File name too long"]


def test_a_name_that_is_no_text(session: sampan.Session) -> None:
    code = "import os; os.mkdir('/out'); os.close(os.open(b'/out/\\xff', os.O_CREAT))"
    result = session.run("host", ["python3", "-c", code], collect=["/out"])
    assert [os.fsencode(name) for name in result.files] == [b"/out/\xff"]


def test_set_id_bits_stay_inside(session: sampan.Session, data_root: Path) -> None:
    """What a container's root makes lies where nobody else gets."""
    top = data_root / "sessions"
    for path in top.iterdir():
        if path.is_dir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
