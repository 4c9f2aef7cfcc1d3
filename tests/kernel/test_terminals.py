"""Terminals from a given devpts: theirs and nobody else's, sized, raw, controlling."""

from __future__ import annotations

import os
import signal
import termios
from errno import ELOOP, ENODEV, ENOTTY, EXDEV
from typing import TYPE_CHECKING

import pytest

from sampan.errors import KernelError
from sampan.kernel import mounts, terminals
from tests.kernel.forked import private_mounts, run_forked

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.root


def devpts() -> int:
    """A detached devpts of our own."""
    context = mounts.fsopen("devpts")
    mounts.fsconfig_string(context, "ptmxmode", "0666")
    mounts.fsconfig_string(context, "mode", "0620")
    mounts.fsconfig_create(context)
    return mounts.fsmount(context)


def test_a_terminal_of_a_devpts_that_is_mounted_nowhere() -> None:
    def body() -> None:
        fd = devpts()
        for expected in range(3):
            master, slave = terminals.new_terminal(fd)
            assert terminals.terminal_number(master) == expected
            assert not os.get_inheritable(master)
            assert not os.get_inheritable(slave)
            status, named = os.fstat(slave), os.stat(str(expected), dir_fd=fd)
            assert (status.st_dev, status.st_ino) == (named.st_dev, named.st_ino)
            os.write(slave, b"hello\n")
            assert os.read(master, 100) == b"hello\r\n"

    run_forked(body)


def test_what_is_no_devpts_is_refused(tmp_path: Path) -> None:
    os.mknod(tmp_path / "ptmx", 0o666 | 0o020000, os.makedev(5, 2))
    fd = os.open(tmp_path, os.O_PATH)
    with pytest.raises(KernelError, match="not on a devpts") as caught:
        terminals.new_terminal(fd)
    assert caught.value.errno == ENODEV
    os.close(fd)


def test_a_ptmx_that_is_covered_or_a_link_is_refused(tmp_path: Path) -> None:
    def body() -> None:
        private_mounts()
        mounts.attach(devpts(), os.open(tmp_path, os.O_PATH))
        mounts.mount("/dev/null", str(tmp_path / "ptmx"), None, mounts.MS_BIND)
        with pytest.raises(KernelError) as caught:
            terminals.new_terminal(os.open(tmp_path, os.O_PATH))
        assert caught.value.errno in (EXDEV, ELOOP)

    run_forked(body)


def test_the_size_is_set_and_signalled() -> None:
    def body() -> None:
        master, slave = terminals.new_terminal(devpts())
        os.setsid()
        terminals.set_controlling_terminal(slave)
        seen: list[int] = []
        signal.signal(signal.SIGWINCH, lambda number, _: seen.append(number))
        terminals.set_window_size(master, 50, 132)
        assert terminals.get_window_size(slave) == (50, 132)
        assert os.get_terminal_size(slave) == (132, 50)
        assert seen == [signal.SIGWINCH]

    run_forked(body)


def test_the_controlling_terminal_interrupts() -> None:
    def body() -> None:
        master, slave = terminals.new_terminal(devpts())
        os.setsid()
        terminals.set_controlling_terminal(slave)
        with open("/dev/tty", "rb", buffering=0) as tty:
            assert os.tcgetpgrp(tty.fileno()) == os.getpgrp()
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        os.write(master, b"\x03")
        assert signal.sigtimedwait([signal.SIGINT], 10)

    run_forked(body)


def test_raw_lets_every_byte_through_and_restore_ends_it() -> None:
    def body() -> None:
        master, slave = terminals.new_terminal(devpts())
        before = termios.tcgetattr(slave)
        saved = terminals.set_raw(slave)
        everything = bytes(range(256))
        os.write(master, everything)
        got = b""
        while len(got) < 256:
            got += os.read(slave, 256)
        assert got == everything
        os.write(slave, everything)
        got = b""
        while len(got) < 256:
            got += os.read(master, 256)
        assert got == everything  # no echo, no \r before \n
        terminals.restore(slave, saved)
        assert termios.tcgetattr(slave) == before

    run_forked(body)


def test_output_processing_can_be_kept_or_be_the_only_thing_cleared() -> None:
    def body() -> None:
        master, slave = terminals.new_terminal(devpts())
        saved = terminals.set_raw(slave, keep_output=True)
        os.write(slave, b"a\n")
        assert os.read(master, 10) == b"a\r\n"
        terminals.restore(slave, saved)
        terminals.clear_onlcr(slave)
        os.write(slave, b"b\n")
        assert os.read(master, 10) == b"b\n"

    run_forked(body)


def test_what_is_no_terminal_is_told() -> None:
    with open("/dev/null", "rb") as file:
        for call in (terminals.set_raw, terminals.get_window_size, terminals.terminal_number):
            with pytest.raises(KernelError) as caught:
                call(file.fileno())
            assert caught.value.errno == ENOTTY
