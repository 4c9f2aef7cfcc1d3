"""Pseudoterminals made in a given devpts, by descriptor only.

After pts(4), ioctl_tty(2) and termios(3). A container's console must come from the container's
devpts and from nowhere a path can be bent to (CVE-2025-52565): the master is ``ptmx`` of the devpts
whose descriptor is given, checked to be the device 5:2 on a devpts, and the slave is opened from
the master with ``TIOCGPTPEER`` (Linux 4.13), never by its name ``/dev/pts/N``.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import termios
from errno import ENODEV

from sampan.errors import KernelError
from sampan.kernel.mounts import DEVPTS_SUPER_MAGIC, filesystem_magic
from sampan.kernel.resolve import (
    RESOLVE_BENEATH,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    openat2,
)

_TIOCSCTTY = 0x540E
_TIOCGPTN = 0x80045430
_TIOCSPTLCK = 0x40045431
_TIOCGPTPEER = 0x5441
_PTMX_DEVICE = (5, 2)

Attributes = list[int | list[bytes | int]]


def new_terminal(devpts_fd: int) -> tuple[int, int]:
    """(master, slave) of a new pseudoterminal in the devpts whose root is ``devpts_fd``."""
    flags = os.O_RDWR | os.O_NOCTTY
    resolve = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS
    if filesystem_magic(devpts_fd) != DEVPTS_SUPER_MAGIC:
        raise KernelError("open", ENODEV, "ptmx (the directory given is not on a devpts)")
    master = openat2(devpts_fd, "ptmx", flags, resolve=resolve)
    try:
        status = os.fstat(master)
        device = (os.major(status.st_rdev), os.minor(status.st_rdev))
        if not stat.S_ISCHR(status.st_mode) or device != _PTMX_DEVICE:
            raise KernelError("open", ENODEV, "ptmx (it is not the pseudoterminal multiplexer)")
        _ioctl(master, _TIOCSPTLCK, struct.pack("i", 0), "TIOCSPTLCK")
        slave = open_slave(master)
    except KernelError:
        os.close(master)
        raise
    return master, slave


def open_slave(master: int) -> int:
    """The slave of ``master``, close-on-exec, not made anybody's controlling terminal."""
    flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
    try:
        return fcntl.ioctl(master, _TIOCGPTPEER, flags)
    except OSError as error:
        raise KernelError("ioctl TIOCGPTPEER", error.errno or 0, f"fd {master}") from None


def terminal_number(master: int) -> int:
    """N of the slave's name ``pts/N`` in its devpts."""
    number: int = struct.unpack("I", _ioctl(master, _TIOCGPTN, bytes(4), "TIOCGPTN"))[0]
    return number


def set_window_size(fd: int, rows: int, columns: int) -> None:
    """Set the size in characters; the foreground process group gets SIGWINCH if it changed."""
    _ioctl(fd, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0), "TIOCSWINSZ")


def get_window_size(fd: int) -> tuple[int, int]:
    """(rows, columns)."""
    size = _ioctl(fd, termios.TIOCGWINSZ, bytes(8), "TIOCGWINSZ")
    rows, columns, _, _ = struct.unpack("4H", size)
    return rows, columns


def set_raw(fd: int, keep_output: bool = False) -> Attributes:
    """Raw mode of cfmakeraw(3): bytes through as they are. Returns what ``restore`` takes.

    ``keep_output`` leaves output processing on, so that "\\n" still begins a line.
    """
    saved = _attributes(fd)
    raw = _attributes(fd)
    iflag, oflag, cflag, lflag = (flag for flag in raw[:4] if isinstance(flag, int))
    iflag &= ~(
        termios.IGNBRK
        | termios.BRKINT
        | termios.PARMRK
        | termios.ISTRIP
        | termios.INLCR
        | termios.IGNCR
        | termios.ICRNL
        | termios.IXON
    )
    if not keep_output:
        oflag &= ~termios.OPOST
    cflag = cflag & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    lflag &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    raw[:4] = [iflag, oflag, cflag, lflag]
    characters = raw[6]
    assert isinstance(characters, list)
    characters[termios.VMIN], characters[termios.VTIME] = 1, 0
    restore(fd, raw)
    return saved


def clear_onlcr(fd: int) -> None:
    """Do not turn "\\n" into "\\r\\n" on output: for a console whose master is relayed raw."""
    attributes = _attributes(fd)
    oflag = attributes[1]
    assert isinstance(oflag, int)
    attributes[1] = oflag & ~termios.ONLCR
    restore(fd, attributes)


def restore(fd: int, attributes: Attributes) -> None:
    """Set the attributes ``set_raw`` returned, now."""
    try:
        termios.tcsetattr(fd, termios.TCSANOW, attributes)
    except termios.error as error:
        raise KernelError("tcsetattr", error.args[0], f"fd {fd}") from None


def set_controlling_terminal(fd: int) -> None:
    """Make ``fd`` the controlling terminal of this session, whose leader we must be (setsid)."""
    try:
        fcntl.ioctl(fd, _TIOCSCTTY, 0)
    except OSError as error:
        raise KernelError("ioctl TIOCSCTTY", error.errno or 0, f"fd {fd}") from None


def _attributes(fd: int) -> Attributes:
    try:
        return termios.tcgetattr(fd)
    except termios.error as error:
        raise KernelError("tcgetattr", error.args[0], f"fd {fd}") from None


def _ioctl(fd: int, request: int, argument: bytes, name: str) -> bytes:
    try:
        return fcntl.ioctl(fd, request, argument)
    except OSError as error:
        raise KernelError(f"ioctl {name}", error.errno or 0, f"fd {fd}") from None
