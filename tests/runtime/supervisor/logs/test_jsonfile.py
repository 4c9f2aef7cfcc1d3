"""The json-file log: its lines, its batches, its rotation, and a disk that is full."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from sampan.errors import InvalidArgument, KernelError, NotSupported
from sampan.runtime.supervisor.logs import jsonfile
from sampan.runtime.supervisor.logs.drivers import open_logs
from sampan.runtime.supervisor.logs.files import RotatedFile
from sampan.runtime.supervisor.logs.jsonfile import JsonFile
from sampan.runtime.supervisor.logs.log import Log
from sampan.runtime.supervisor.logs.text import ENTRY_LIMIT, Splitter, timestamp
from sampan.runtime.supervisor.messages import LogOptions

if TYPE_CHECKING:
    from pathlib import Path

MOMENT = 1_767_323_045_123_456_789
STAMP = b"2026-01-02T03:04:05.123456789Z"


class Lines:
    """One stream's way to lines of JSON."""

    def __init__(self, stream: str, attributes: dict[str, str] | None = None) -> None:
        self._stream = stream
        self._splitter = Splitter()
        self._encoder = JsonFile(RotatedFile(os.devnull, fd=os.open(os.devnull, 0)), attributes)

    def feed(self, data: bytes) -> bytes:
        return self._encoder.encode(self._stream, self._splitter.feed(data), MOMENT)

    def finish(self) -> bytes:
        return self._encoder.encode(self._stream, self._splitter.finish(), MOMENT)

    def __del__(self) -> None:
        self._encoder.close()


def opened(path: Path, max_size: int | None = None, max_file: int = 1) -> Log:
    return Log(JsonFile(RotatedFile(str(path), max_size, max_file, whole=jsonfile.whole)))


def entries(data: bytes) -> list[str]:
    assert data.endswith(b"\n") or not data
    return [json.loads(line)["log"] for line in data.splitlines()]


def test_a_line_is_dockers_byte_for_byte() -> None:
    assert Lines("stdout").feed(b"hi there\n") == (
        b'{"log":"hi there\\n","stream":"stdout","time":"2026-01-02T03:04:05.123456789Z"}\n'
    )


def test_attributes_are_repeated_in_every_line_in_order() -> None:
    lines = Lines("stderr", {"tag": "web", "b<": "1&2"})
    assert lines.feed(b"a\n") == (
        b'{"log":"a\\n","stream":"stderr","attrs":{"b\\u003c":"1\\u00262","tag":"web"},'
        b'"time":"2026-01-02T03:04:05.123456789Z"}\n'
    )


@pytest.mark.parametrize(
    ("raw", "escaped"),
    [
        (b"\t", b"\\u0009"),
        (b"\r", b"\\r"),
        (b'a"b\\c', b'a\\"b\\\\c'),
        (b"\\n", b"\\\\n"),
        (b"<&>", b"\\u003c\\u0026\\u003e"),
        (b"\x00\x01\x08\x0c\x1b\x1f\x7f", b"\\u0000\\u0001\\u0008\\u000c\\u001b\\u001f\x7f"),
        ("é 舢 \U0001f6a2".encode(), "é 舢 \U0001f6a2".encode()),
        ("\u2028\u2029".encode(), b"\\u2028\\u2029"),
        (b"\xff", b"\\ufffd"),
        (b"\xe2\x82x", b"\\ufffd\\ufffdx"),
        (b"\xed\xa0\x80", b"\\ufffd\\ufffd\\ufffd"),
        (b'\xc3"', b'\\ufffd\\"'),
        ("ok é".encode() + b"\xfe<", "ok é".encode() + b"\\ufffd\\u003c"),
    ],
)
def test_text_is_escaped_as_docker_does(raw: bytes, escaped: bytes) -> None:
    assert jsonfile.escape(raw) == escaped


def test_every_byte_survives_as_json() -> None:
    text = bytes(range(128))
    assert "".join(entries(Lines("stdout").feed(text + b"\n"))) == text.decode() + "\n"


def test_pieces_of_a_line_become_one_entry() -> None:
    lines = Lines("stdout")
    assert lines.feed(b"one ") == b""
    assert lines.feed("tw\u00f6".encode()[:-1]) == b""
    assert entries(lines.feed(b"\xb6\nthree\nfo")) == ["one twö\n", "three\n"]
    assert entries(lines.finish()) == ["fo"]
    assert lines.finish() == b""


@pytest.mark.parametrize("piece", [100, 16384, 65536, 1 << 20])
@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (16383, [16384]),
        (16384, [16384, 1]),
        (16385, [16384, 2]),
        (40000, [16384, 16384, 7233]),
        (32768, [16384, 16384, 1]),
    ],
)
def test_a_long_line_is_cut_at_16_kib_however_it_is_read(
    piece: int, length: int, expected: list[int]
) -> None:
    lines = Lines("stdout")
    text = b"before\n" + b"x" * length + b"\nafter\n"
    result: list[str] = []
    for start in range(0, len(text), piece):
        result += entries(lines.feed(text[start : start + piece]))
    assert [len(entry) for entry in result] == [7, *expected, 6]
    assert "".join(result).encode() == text


def test_an_endless_line_does_not_pile_up() -> None:
    lines = Lines("stdout")
    for _ in range(10):
        assert len(lines.feed(b"y" * ENTRY_LIMIT)) > ENTRY_LIMIT
    assert lines.finish() == b""


def test_the_time_is_rfc_3339_nano_without_trailing_zeros() -> None:
    assert timestamp(1_700_000_000_123_456_780) == b"2023-11-14T22:13:20.12345678Z"
    assert timestamp(1_700_000_000_000_000_000) == b"2023-11-14T22:13:20Z"
    assert timestamp(1_700_000_000_000_000_001) == b"2023-11-14T22:13:20.000000001Z"


def test_streams_are_kept_apart_and_ends_are_logged(tmp_path: Path) -> None:
    log = opened(tmp_path / "log")
    log.write("stdout", b"out")
    log.write("stderr", b"err\n")
    log.write("stdout", b"put\nlast")
    log.finish("stdout")
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [(line["stream"], line["log"]) for line in lines] == [
        ("stderr", "err\n"),
        ("stdout", "output\n"),
        ("stdout", "last"),
    ]
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o640


def test_a_log_is_continued_not_begun_anew(tmp_path: Path) -> None:
    for number in range(2):
        log = opened(tmp_path / "log", max_size=100_000)
        log.write("stdout", b"%d\n" % number)
        log.close()
    assert entries((tmp_path / "log").read_bytes()) == ["0\n", "1\n"]


def test_files_rotate_between_entries_and_the_oldest_goes(tmp_path: Path) -> None:
    log = opened(tmp_path / "log", max_size=10_000, max_file=3)
    written = [f"{number:05d} {'z' * 90}\n" for number in range(1000)]
    for start in range(0, 1000, 40):
        log.write("stdout", "".join(written[start : start + 40]).encode())
    log.close()
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1", "log.2"]
    kept = [(tmp_path / name).read_bytes() for name in ("log.2", "log.1", "log")]
    # As Docker: a file that has reached the size is rotated before the next entry.
    assert all(10_000 <= len(data) < 10_200 for data in kept[:2])
    assert len(kept[2]) < 10_200
    texts = [text for data in kept for text in entries(data)]
    assert texts == written[-len(texts) :]


def test_one_file_is_begun_anew_when_it_is_full(tmp_path: Path) -> None:
    log = opened(tmp_path / "log", max_size=1000, max_file=1)
    for number in range(100):
        log.write("stdout", b"%03d %s\n" % (number, b"w" * 100))
    log.close()
    assert os.listdir(tmp_path) == ["log"]
    assert entries((tmp_path / "log").read_bytes())[-1].startswith("099")
    assert (tmp_path / "log").stat().st_size < 1200


def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    def options(**fields: Any) -> LogOptions:
        return LogOptions(**{"driver": "json-file", "path": str(tmp_path / "log"), **fields})

    assert open_logs(LogOptions(driver="none")) == {}
    os.close(open_logs(options())["log"])
    with pytest.raises(NotSupported, match="'gelf'"):
        open_logs(options(driver="gelf"))
    with pytest.raises(InvalidArgument, match="path"):
        open_logs(options(path=""))
    with pytest.raises(InvalidArgument, match="max_file 0"):
        open_logs(options(max_file=0))
    with pytest.raises(InvalidArgument, match="max_size -1"):
        open_logs(options(max_size=-1))
    with pytest.raises(KernelError, match="ENOENT"):
        open_logs(options(path=str(tmp_path / "missing" / "log")))
    with pytest.raises(InvalidArgument, match="not a regular file"):
        open_logs(options(path="/dev/null"))


def test_a_link_in_the_logs_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KernelError, match="ELOOP"):
        opened(tmp_path / "log")


def test_a_torn_last_entry_is_cut_off_before_the_next(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b'{"log":"whole\\n"}\n' + b'{"log":"' + b"torn" * 50_000)
    log = opened(tmp_path / "log")
    log.write("stdout", b"next\n")
    log.close()
    assert entries((tmp_path / "log").read_bytes()) == ["whole\n", "next\n"]
