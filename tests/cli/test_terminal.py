"""On a terminal: keys, sizes, signals and progress, and the terminal as it was afterwards."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sampan.cli import progress
from sampan.errors import SampanError
from tests.daemon_fixture import Daemon

pytestmark = pytest.mark.root

DEADLINE = 60.0


class Terminal:
    """A program on a terminal of its own: what it shows, and keys for it."""

    def __init__(self, argv: list[str], rows: int = 24, columns: int = 80) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(rows, columns)
        self.before = termios.tcgetattr(self.slave)
        self.shown = ""
        self.child = subprocess.Popen(
            ["setsid", "--ctty", *argv],  # the program itself: it need not fork
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env={**os.environ, "TERM": "xterm"},
        )

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def press(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def read(self, seconds: float = 0.0) -> None:
        while select.select([self.master], [], [], seconds)[0]:
            self.shown += os.read(self.master, 65536).decode(errors="replace")

    def wait_for(self, pattern: str) -> re.Match[str]:
        deadline = time.monotonic() + DEADLINE
        while not (match := re.search(pattern, self.shown)):
            assert time.monotonic() < deadline, f"{pattern!r} is not in:\n{self.shown}"
            self.read(0.05)
        return match

    @property
    def raw(self) -> bool:
        return not termios.tcgetattr(self.slave)[3] & termios.ICANON

    def wait_until(self, test: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE
        while not test():
            assert time.monotonic() < deadline, self.shown
            time.sleep(0.02)

    def end(self) -> int:
        deadline = time.monotonic() + DEADLINE
        while self.child.poll() is None:
            assert time.monotonic() < deadline, self.shown
            self.read(0.02)
        self.read(0.05)
        return self.child.wait()

    def close(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def terminal(daemon: Daemon) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*words: str, rows: int = 24, columns: int = 80) -> Terminal:
        argv = [sys.executable, "-m", "sampan.cli", "-H", daemon.host, *words]
        opened.append(Terminal(argv, rows, columns))
        return opened[-1]

    yield start
    for one in opened:
        one.close()
    daemon.remove_all()


RUN = ("run", "--network", "none", "-it")


def test_keys_go_in_and_output_comes_back(terminal: Callable[..., Terminal]) -> None:
    one = terminal(*RUN, "--rm", "host", "sh", "-c", "read x; echo got-$x; exit 3")
    one.wait_until(lambda: one.raw)
    one.press(b"word\r")
    one.wait_for("got-word")
    assert one.end() == 3
    assert termios.tcgetattr(one.slave) == one.before


def test_an_interrupt_is_the_programs_own(terminal: Callable[..., Terminal]) -> None:
    script = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.1; done"
    one = terminal(*RUN, "--rm", "host", "sh", "-c", script)
    one.wait_for("ready")
    one.press(b"\x03")
    one.wait_for("caught")
    assert one.end() == 9


def test_the_windows_size_goes_with_it(terminal: Callable[..., Terminal]) -> None:
    script = "stty size; trap 'stty size' WINCH; echo ready; while :; do sleep 0.1; done"
    one = terminal(*RUN, "--name", "sized", "host", "sh", "-c", script, rows=31, columns=97)
    one.wait_for("31 97")
    one.wait_for("ready")
    one.resize(40, 120)
    one.child.send_signal(signal.SIGWINCH)
    one.wait_for("40 120")


def test_who_comes_back_sees_the_prompt_again(terminal: Callable[..., Terminal]) -> None:
    """A program draws anew when its window changes: the client makes one of the same size do so."""
    script = "trap 'echo drawn' WINCH; echo ready; while :; do sleep 0.1; done"
    one = terminal(*RUN, "--name", "back", "host", "sh", "-c", script)
    one.wait_for("ready")
    one.press(b"\x10\x11")
    assert one.end() == 0
    two = terminal("attach", "back")
    two.wait_for("drawn")


def test_detach_keys_leave_it_running(terminal: Callable[..., Terminal], daemon: Daemon) -> None:
    one = terminal(*RUN, "--name", "left", "host", "sh")
    one.wait_until(lambda: one.raw)
    one.press(b"\x10\x11")
    assert one.end() == 0
    assert termios.tcgetattr(one.slave) == one.before
    assert daemon.state("left")["Running"]
    two = terminal("attach", "--detach-keys", "ctrl-x,x", "left")
    two.wait_until(lambda: two.raw)
    two.press(b"echo sum-$((1+2))\r")
    two.wait_for("sum-3")
    two.press(b"\x18x")
    two.wait_for("read escape sequence")
    assert two.end() == 1 and daemon.state("left")["Running"]
    three = terminal("exec", "-it", "left", "sh")
    three.wait_until(lambda: three.raw)
    three.press(b"\x10\x11")
    three.wait_for("read escape sequence")
    assert three.end() == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_that_ends_us_gives_the_terminal_back(
    terminal: Callable[..., Terminal], number: signal.Signals
) -> None:
    one = terminal(*RUN, "host", "sleep", "600")
    one.wait_until(lambda: one.raw)
    one.child.send_signal(number)
    assert one.end() == 128 + number
    assert termios.tcgetattr(one.slave) == one.before


def test_a_stop_gives_the_terminal_back_until_we_go_on(
    terminal: Callable[..., Terminal],
) -> None:
    one = terminal(*RUN, "host", "sh")
    one.wait_until(lambda: one.raw)
    one.child.send_signal(signal.SIGTSTP)
    os.waitpid(one.child.pid, os.WUNTRACED)
    assert not one.raw
    one.child.send_signal(signal.SIGCONT)
    one.wait_until(lambda: one.raw)
    one.press(b"echo sum-$((3+4))\r")
    one.wait_for("sum-7")
    one.press(b"exit 5\r")
    assert one.end() == 5


def test_figures_are_drawn_again_until_interrupted(
    terminal: Callable[..., Terminal], daemon: Daemon
) -> None:
    daemon.run("sh", "-c", "while :; do :; done", name="busy")
    one = terminal("stats", columns=120)
    one.wait_for(r"busy +[1-9][0-9.]*%")  # of a second sample: the first has nothing to compare
    one.press(b"\x03")
    assert one.end() == 130


def test_a_terminal_is_not_made_of_a_pipe(daemon: Daemon) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sampan.cli", "-H", daemon.host, *RUN, "host", "true"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "not a TTY" in done.stderr


def test_a_question_is_asked(terminal: Callable[..., Terminal], daemon: Daemon) -> None:
    daemon.create("true", name="stays")
    for answer in (b"n\r", b"\r", b"\x04"):
        one = terminal("container", "prune")
        one.wait_for(r"\[y/N\]")
        one.press(answer)
        assert one.end() == 0
        assert daemon.state("stays")


# -- progress ------------------------------------------------------------------------------------


def message(name: str, status: str, current: int = 0, total: int = 0) -> dict[str, object]:
    detail = {"current": current, "total": total} if total or current else {}
    return {"id": name, "status": status, "progressDetail": detail}


MESSAGES: list[dict[str, object]] = [
    {"status": "Pulling from library/x", "id": "latest"},
    message("aaa", "Pulling fs layer"),
    message("bbb", "Pulling fs layer"),
    *(message("aaa", "Downloading", n * 10**6, 10**7) for n in range(1, 11)),
    message("aaa", "Pull complete"),
    message("bbb", "Downloading", 5, 0),
    message("bbb", "Pull complete"),
    {"status": "Digest: sha256:0"},
    {"stream": "Step 1\n"},
    {"aux": {"ID": "sha256:1"}},
]

_DRAW = """
import json, sys
import time
from sampan.cli import progress
def slowly():
    for message in json.loads(sys.argv[1]):
        yield message
        time.sleep(float(sys.argv[2]))
progress.show(slowly(), aux=lambda a: print("aux", a))
"""


def drawn(
    messages: list[dict[str, object]], rows: int = 24, columns: int = 80, pause: float = 0
) -> str:
    argv = [sys.executable, "-c", _DRAW, json.dumps(messages), str(pause)]
    one = Terminal(argv, rows, columns)
    try:
        assert one.end() == 0
        return one.shown
    finally:
        one.close()


def screen(text: str, rows: int, columns: int) -> list[str]:
    """What a terminal shows of ``text``: as much of one as our sequences need."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[(\d*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n]+)", text):
        count, letter, carriage, newline, words = part
        if letter == "A":
            row = max(0, row - int(count or 1), len(lines) - rows)
        elif letter == "K":
            lines[row] = ""
        elif letter == "J":
            lines[row] = lines[row][:column]
            del lines[row + 1 :]
        elif carriage:
            column = 0
        elif newline:
            row, column = row + 1, 0
            if row == len(lines):
                lines.append("")
        elif words:
            lines[row] = lines[row][:column].ljust(column) + words
            column += len(words)
            assert column <= columns, f"wider than the terminal: {lines[row]!r}"
    return lines


def test_a_pipe_gets_plain_lines_once(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w+") as out:
        progress.show(iter(MESSAGES), out)
        out.seek(0)
        text = out.read()
    assert text.splitlines() == [
        "latest: Pulling from library/x",
        "aaa: Pulling fs layer",
        "bbb: Pulling fs layer",
        "aaa: Pull complete",
        "bbb: Pull complete",
        "Digest: sha256:0",
        "Step 1",
    ]


def test_a_terminal_gets_bars_and_keeps_the_end() -> None:
    text = drawn(MESSAGES, pause=0.06)
    assert "█" in text and "5MB/10MB" in text
    assert screen(text, 24, 80) == [
        "latest: Pulling from library/x",
        "aaa: Pull complete",
        "bbb: Pull complete",
        "Digest: sha256:0",
        "Step 1",
        "aux {'ID': 'sha256:1'}",
        "",
    ]


@pytest.mark.parametrize("columns", [20, 40, 200])
def test_no_line_is_wider_than_the_terminal(columns: int) -> None:
    screen(drawn(MESSAGES[:-3], columns=columns), 24, columns)


def test_more_layers_than_lines() -> None:
    """None of them is lost, and nothing above is drawn over."""
    names = [f"layer{number:02}" for number in range(30)]
    messages: list[dict[str, object]] = [{"status": "first line"}]
    messages += [message(name, "Waiting") for name in names]
    messages += [message(name, "Downloading", n, 9) for n in range(9) for name in names]
    messages += [message(name, "Pull complete") for name in names]
    lines = screen(drawn(messages, rows=10), 10, 80)
    assert lines == ["first line", *(f"{name}: Pull complete" for name in names), ""]


def test_a_failure_is_raised_and_what_was_seen_stays() -> None:
    failure: dict[str, object] = {"errorDetail": {"message": "no space"}, "error": "no space"}
    messages = [*MESSAGES[:3], failure]
    with open(os.devnull, "w", encoding="ascii") as out, pytest.raises(SampanError, match="space"):
        progress.show(iter(messages), out)


def test_quiet_is_quiet(tmp_path: Path) -> None:
    found: list[object] = []
    with (tmp_path / "out").open("w+") as out:
        progress.show(iter(MESSAGES), out, quiet=True, aux=found.append)
        assert out.tell() == 0
    assert found == [{"ID": "sha256:1"}]
