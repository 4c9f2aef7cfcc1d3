"""How containers end: time, memory, processes, output without end, signals, and what is killed."""

from __future__ import annotations

import signal
import time

import pytest

import sampan
from sampan import Outcome

pytestmark = [pytest.mark.root, pytest.mark.v2]


def test_the_end_of_its_time_kills_all_of_it(session: sampan.Session, enough: float) -> None:
    begin = time.monotonic()
    line = "trap '' TERM INT HUP; (setsid sleep 600 &) ; sleep 600 & echo up; sleep 600; sleep 600"
    result = session.run("host", ["sh", "-c", line], timeout=enough)
    assert enough * 0.9 < time.monotonic() - begin < 60
    assert (result.outcome, result.exit_code, result.timed_out) == (Outcome.TIMED_OUT, 137, True)
    assert result.text == "up\n"
    with pytest.raises(sampan.TimedOut, match="timed out"):
        result.check()


def test_a_command_that_ends_in_time_did_not_time_out(session: sampan.Session) -> None:
    result = session.run("host", ["sh", "-c", "kill -KILL $$; sleep 5"], timeout=60, init=True)
    assert (result.outcome, result.exit_code) == (Outcome.EXITED, 137)
    assert session.run("host", ["true"], timeout=60).ok


def test_want_of_memory(session: sampan.Session) -> None:
    result = session.run("host", ["tail", "/dev/zero"], memory="32m", timeout=60)
    assert (result.outcome, result.exit_code) == (Outcome.OUT_OF_MEMORY, 137)
    assert (result.oom_killed, result.oom_kills, result.signal) == (True, 1, signal.SIGKILL)
    assert 30 << 20 < result.usage.peak_memory <= 32 << 20
    with pytest.raises(sampan.OutOfMemory) as caught:
        result.check()
    assert caught.value.result is result


def test_want_of_memory_of_another_process(session: sampan.Session) -> None:
    result = session.run("host", ["sh", "-c", "tail /dev/zero; echo $?"], memory="32m", timeout=60)
    assert (result.outcome, result.oom_killed, result.text) == (Outcome.EXITED, True, "137\n")


def test_a_fork_bomb_is_held_by_the_limit_of_processes(session: sampan.Session) -> None:
    bomb = "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"
    begin = time.monotonic()
    result = session.run("host", ["python3", "-c", bomb], pids=32, timeout=2, memory="256m")
    assert result.outcome is Outcome.TIMED_OUT
    assert time.monotonic() - begin < 60


def test_output_without_end_is_held_by_limit_and_time(
    session: sampan.Session, enough: float
) -> None:
    result = session.run("host", ["yes"], timeout=enough, output_limit=1000)
    assert result.outcome is Outcome.TIMED_OUT
    assert result.stdout == b"y\n" * 500
    assert result.stdout_size > 100_000


def test_output_of_a_process_that_is_killed_is_all_there(session: sampan.Session) -> None:
    code = "import os; os.write(1, b'x' * 50000); os.kill(os.getpid(), 9); os.kill(1, 9)"
    result = session.run("host", ["python3", "-c", code], init=True)
    assert len(result.stdout) == 50000


def test_a_signal(session: sampan.Session) -> None:
    with session.start("host", ["sh", "-c", "trap - TERM; sleep 600"], init=False) as process:
        process.kill(signal.SIGUSR1)  # PID 1 ignores what it has no handler for
        process.kill()
        result = process.wait()
    assert (result.outcome, result.exit_code, result.signal) == (Outcome.KILLED, 137, 9)


def test_a_process_that_stops_itself_ends_with_its_time(session: sampan.Session) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"
    line = f'python3 -c "{code}"; true'  # not the first process, which nothing stops
    result = session.run("host", ["sh", "-c", line], timeout=1)
    assert result.outcome is Outcome.TIMED_OUT


def test_children_do_not_outlive_the_first_process(session: sampan.Session) -> None:
    begin = time.monotonic()
    assert session.run("host", ["sh", "-c", "sleep 600 & sleep 600 & echo x"]).text == "x\n"
    assert time.monotonic() - begin < 100


def test_cpu_time_is_that_of_all_its_processes(session: sampan.Session) -> None:
    # Not by asking for the time alone, which is the system's time.
    burn = "import time\nwhile time.process_time() < 0.3: sum(range(10000))"
    line = f"for i in 1 2; do python3 -c '{burn}' & done; wait"
    usage = session.run("host", ["sh", "-c", line]).usage
    assert 0.6 < usage.cpu_time < 60
    assert usage.user_time > 0.1
    assert usage.wall_time > 0.3
