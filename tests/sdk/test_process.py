"""``start``: following a container while it runs, writing to it, and leaving it."""

from __future__ import annotations

import gc
import threading
import time
import warnings
from pathlib import Path

import pytest

import sampan
from tests.sdk.conftest import PATIENCE, left

pytestmark = pytest.mark.root


def test_output_comes_while_it_runs(session: sampan.Session) -> None:
    with session.start(
        "host", ["sh", "-c", "echo one; read x; echo two $x"], stdin=True
    ) as process:
        assert process.read() == sampan.Chunk("stdout", b"one\n")
        process.write(b"ship\n")
        assert process.read() == sampan.Chunk("stdout", b"two ship\n")
        assert process.read() is None
        result = process.wait()
    assert result.ok
    assert result.stdout == b""


def test_all_chunks_of_both_streams(session: sampan.Session) -> None:
    line = "head -c 200000 /dev/zero; head -c 100000 /dev/zero >&2"
    sizes = {"stdout": 0, "stderr": 0}
    with session.start("host", ["sh", "-c", line]) as process:
        for chunk in process:
            sizes[chunk.stream] += len(chunk.data)
    assert sizes == {"stdout": 200_000, "stderr": 100_000}


def test_lines_are_put_together(session: sampan.Session) -> None:
    code = (
        "import os, time\n"
        "for piece in (b'a', b'b\\nc', b'\\n\\nlast'): os.write(1, piece); time.sleep(0.05)\n"
        "os.write(2, b'\\xff\\n')"
    )
    with session.start("host", ["python3", "-c", code]) as process:
        lines = list(process.lines())
    assert [line.data for line in lines if line.stream == "stdout"] == [
        b"ab\n",
        b"c\n",
        b"\n",
        b"last",
    ]
    assert [line.text for line in lines if line.stream == "stderr"] == ["\ufffd\n"]


def test_what_was_not_read_is_in_the_result(session: sampan.Session) -> None:
    with session.start("host", ["sh", "-c", "echo one; read x; echo two"], stdin=True) as process:
        assert process.read() is not None
        process.close_stdin()
        result = process.wait()
    assert result.text == "two\n"
    assert process.wait() is result


def test_a_filter_that_is_fed_more_than_pipes_hold(session: sampan.Session) -> None:
    data = bytes(range(256)) * 8000
    with session.start("host", ["cat"], stdin=True) as process:
        process.write(data)
        process.close_stdin()
        assert process.wait().stdout == data


def test_output_that_nobody_takes_is_an_error_not_a_stand_still(session: sampan.Session) -> None:
    with (
        session.start("host", ["cat"], stdin=True, output_limit="1m") as process,
        pytest.raises(sampan.Conflict, match="waits for its output to be read"),
    ):
        while True:
            process.write(b"x" * 500_000)


def test_input_that_is_closed(session: sampan.Session) -> None:
    with (
        session.start("host", ["sleep", "600"]) as process,
        pytest.raises(sampan.Conflict, match="stdin=True"),
    ):
        process.write(b"x")
    line = "exec 0<&-; echo closed; sleep 600"
    with session.start("host", ["sh", "-c", line], stdin=True) as process:
        assert process.read() is not None
        with pytest.raises(BrokenPipeError):
            process.write(b"x" * 1_000_000)
        process.kill()
        assert process.wait().outcome is sampan.Outcome.KILLED
        process.kill()
        process.close_stdin()


def test_a_block_that_is_left_kills_it(session: sampan.Session, data_root: Path) -> None:
    begin = time.monotonic()
    with session.start("host", ["sh", "-c", "echo up; sleep 600"]) as process:
        assert process.read() is not None
    assert left(data_root) == []

    with (
        pytest.raises(KeyError),
        session.start("host", ["sh", "-c", "sleep 600 & yes"], merge_stderr=True) as process,
    ):
        assert process.read() is not None
        raise KeyError
    assert left(data_root) == []
    assert time.monotonic() - begin < PATIENCE


def test_the_time_runs_while_it_is_followed(session: sampan.Session, enough: float) -> None:
    with session.start("host", ["sh", "-c", "echo up; sleep 600"], timeout=enough) as process:
        assert [chunk.text for chunk in process] == ["up\n"]
        assert process.wait().outcome is sampan.Outcome.TIMED_OUT


def test_usage_while_it_runs(session: sampan.Session) -> None:
    with session.start("host", ["sh", "-c", "echo up; read x"], stdin=True) as process:
        assert process.read() is not None
        usage = process.usage()
        assert usage.peak_memory > 0
        assert usage.wall_time > 0
        process.close_stdin()
        process.wait()
        with pytest.raises(sampan.Conflict, match="has ended"):
            process.usage()


def test_another_thread_may_kill_it(session: sampan.Session) -> None:
    with session.start("host", ["sleep", "600"]) as process:
        threading.Timer(0.2, process.kill).start()
        assert process.wait().outcome is sampan.Outcome.KILLED


def test_one_that_is_dropped_is_killed_and_said(shared: sampan.Session, data_root: Path) -> None:
    process = shared.start("host", ["sleep", "600"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del process
        gc.collect()
    assert [w for w in caught if issubclass(w.category, ResourceWarning)]
    deadline = time.monotonic() + PATIENCE
    while any("cgroup" in place for place in left(data_root)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert shared.run("host", ["true"]).ok
    assert left(data_root) == []


def test_a_bad_signal(session: sampan.Session) -> None:
    with (
        session.start("host", ["sleep", "600"]) as process,
        pytest.raises(sampan.InvalidArgument, match="no signal 1000"),
    ):
        process.kill(1000)
