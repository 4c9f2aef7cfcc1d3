"""The local driver's blocks: written here, read by the engine's reader as the oracle."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from sampan.engine.log_formats import Blocks
from sampan.runtime.supervisor.logs.drivers import open_logs, resume_logs
from sampan.runtime.supervisor.logs.local import HEAD, LENGTH, cut, whole
from sampan.runtime.supervisor.messages import LogOptions

if TYPE_CHECKING:
    from pathlib import Path

    from sampan.runtime.supervisor.logs.drivers import Logs


def opened(directory: Path, **fields: Any) -> tuple[Logs, Path]:
    path = directory / "local-logs" / "container.log"
    options = LogOptions(driver="local", path=str(path), **fields)
    return resume_logs(options, open_logs(options), 1), path


def read(data: bytes) -> list[tuple[str, bytes]]:
    entries, rest = Blocks().decode(data)
    assert rest == b""
    return [(entry.stream, entry.log) for entry in entries if isinstance(entry.log, bytes)]


def test_bytes_come_back_as_they_were_whatever_they_are(tmp_path: Path) -> None:
    log, path = opened(tmp_path)
    noise = os.urandom(200_000)
    log.write("stdout", noise)
    log.write("stderr", b"one\ntwo\nthr")
    log.write("stderr", b"ee\n\nend")
    log.close()
    found = read(path.read_bytes())
    assert b"".join(text for stream, text in found if stream == "stdout") == noise
    errors = [text for stream, text in found if stream == "stderr"]
    assert errors == [b"one\n", b"two\n", b"three\n", b"\n", b"end"]
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o640


def test_attributes_begin_every_file(tmp_path: Path) -> None:
    log, path = opened(tmp_path, tag_attrs={"b": "2", "a": "ä"}, max_size=100, max_file=3)
    for number in range(9):
        log.write("stdout", b"%020d\n" % number)
    log.close()
    names = sorted(path.parent.iterdir())
    assert [name.name for name in names] == ["container.log", "container.log.1", "container.log.2"]
    for name in names:
        data = name.read_bytes()
        length, kind, _ = HEAD.unpack_from(data)
        assert kind == 0
        assert json.loads(data[HEAD.size : HEAD.size + length]) == {"a": "ä", "b": "2"}
        entries, _ = Blocks().decode(data)
        assert all(entry.attrs == {"a": "ä", "b": "2"} for entry in entries)


def test_there_is_no_cost_per_line(tmp_path: Path) -> None:
    log, path = opened(tmp_path)
    log.write("stdout", b"x\n" * 30_000)
    log.close()
    assert path.stat().st_size < 60_000 + 5 * 20


def test_what_a_crash_tore_is_cut_off_and_the_rest_goes_on(tmp_path: Path) -> None:
    log, path = opened(tmp_path)
    log.write("stdout", b"first\n")
    log.write("stdout", b"second\n")
    log.close()
    good = path.read_bytes()
    for torn in (b"\0", good[:7], good[:20], HEAD.pack(1000, 1, 0) + b"x" * 999, b"\xff" * 40):
        path.write_bytes(good + torn)
        log, _ = opened(tmp_path)
        log.write("stdout", b"third\n")
        log.close()
        assert [text for _, text in read(path.read_bytes())] == [
            b"first\n",
            b"second\n",
            b"third\n",
        ]


def test_whole_blocks_are_told_from_pieces() -> None:
    block = HEAD.pack(3, 1, 0) + b"ab\n" + LENGTH.pack(3)
    data = block * 3
    for size in range(len(data) + 1):
        assert cut(data, size) == size // len(block) * len(block)
        with open(os.memfd_create("log"), "r+b") as file:
            file.write(data[:size])
            file.flush()
            assert whole(file.fileno(), size) == size // len(block) * len(block)
