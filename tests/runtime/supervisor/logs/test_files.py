"""Files of a log: rotation, compression, and what a crash between two steps leaves."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from sampan.runtime.supervisor.logs import files as files_module
from sampan.runtime.supervisor.logs.files import RotatedFile, compress

if TYPE_CHECKING:
    from pathlib import Path


def cut(entries: bytes, size: int) -> int:
    return entries.rfind(b"\n", 0, size) + 1


def content(directory: Path) -> dict[str, bytes]:
    """What each file holds, unpacked."""
    return {
        path.name: gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for path in directory.iterdir()
    }


def test_compressed_files_move_up_and_the_oldest_goes(tmp_path: Path) -> None:
    file = RotatedFile(str(tmp_path / "log"), 10, 4, compress=True)
    for number in range(6):
        file.append(b"%d\n" % number, cut)
        assert file.rotate()
    file.close()
    assert content(tmp_path) == {
        "log": b"",
        "log.1.gz": b"5\n",
        "log.2.gz": b"4\n",
        "log.3.gz": b"3\n",
    }


def test_a_compressed_file_keeps_its_time_and_its_mode(tmp_path: Path) -> None:
    (tmp_path / "log.1").write_bytes(b"text\n")
    os.utime(tmp_path / "log.1", ns=(10**18, 10**18))
    compress(str(tmp_path / "log.1"))
    status = (tmp_path / "log.1.gz").stat()
    assert status.st_mtime_ns == 10**18
    assert status.st_mode & 0o777 == 0o640
    assert content(tmp_path) == {"log.1.gz": b"text\n"}


def test_a_log_of_one_file_is_replaced_so_that_its_readers_notice(tmp_path: Path) -> None:
    file = RotatedFile(str(tmp_path / "log"), 10, 1)
    file.append(b"before\n", cut)
    with (tmp_path / "log").open("rb") as reader:
        assert file.rotate()
        file.append(b"after\n", cut)
        assert reader.read() == b"before\n"
    file.close()
    assert content(tmp_path) == {"log": b"after\n"}


@pytest.mark.parametrize("left", ["log.1 log.1.gz", "log.1 log.1.gz.new", "log.1.gz log.1.gz.new"])
def test_what_a_dead_compressor_left_is_settled_by_the_next_rotation(
    tmp_path: Path, left: str
) -> None:
    (tmp_path / "log").write_bytes(b"new\n")
    for name in left.split():
        (tmp_path / name).write_bytes(
            b"torn" if name.endswith(".new") else
            gzip.compress(b"old\n") if name.endswith(".gz") else b"old\n"
        )  # fmt: skip
    file = RotatedFile(str(tmp_path / "log"), 10, 3, compress=True)
    assert file.rotate()
    file.close()
    found = content(tmp_path)
    assert found.pop("log") == b""
    assert found.pop("log.1.gz") == b"new\n"
    assert list(found.values()) == [b"old\n"]


def test_a_compressor_killed_at_any_moment_loses_nothing(tmp_path: Path) -> None:
    text = os.urandom(3_000_000).hex().encode() + b"\n"
    path = str(tmp_path / "log.1")
    script = f"from sampan.runtime.supervisor.logs.files import compress; compress({path!r})"
    source = os.path.abspath(files_module.__file__).split("/sampan/runtime/")[0]
    for delay in (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4):
        (tmp_path / "log.1").write_bytes(text)
        process = subprocess.Popen([sys.executable, "-c", script], env={"PYTHONPATH": source})
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = content_or_nothing(tmp_path)
        assert text in (found.get("log.1"), found.get("log.1.gz"))
        for left in tmp_path.iterdir():
            left.unlink()


def content_or_nothing(directory: Path) -> dict[str, bytes]:
    return {
        path.name: gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for path in directory.iterdir()
        if path.suffix != ".new"
    }


def test_rotation_that_is_not_possible_goes_on_in_the_old_file(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    file = RotatedFile(str(place / "log"), 1, 2)
    (place / "log").unlink()
    place.rmdir()
    assert not file.rotate()
    assert file.append(b"still\n", cut) == 6
    file.close()
