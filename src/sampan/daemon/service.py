"""The service manager's protocols: sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3).

Sockets that systemd (or anybody who speaks the same) has bound for us are the descriptors from 3
on, ``LISTEN_FDS`` of them, with ``LISTEN_FDNAMES``; ``NOTIFY_SOCKET`` is told about our state, and
about our life every half of ``WATCHDOG_USEC``. The variables are taken out of the environment:
what we start is not this service.
"""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, NamedTuple

from sampan.engine.log import log
from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    import asyncio

    from sampan.daemon.options import Address

__all__ = ["Manager", "Passed", "take_environment"]

_FIRST = 3


class Passed(NamedTuple):
    """A listening socket that was handed to us."""

    fd: int
    name: str


class Manager:
    """Who started us, if it speaks these protocols; else every method does nothing."""

    def __init__(self, notify: str, watchdog: float, passed: list[Passed]) -> None:
        self._notify = "\0" + notify[1:] if notify.startswith("@") else notify
        self._watchdog = watchdog
        self._passed = passed
        self._timer: asyncio.TimerHandle | None = None

    def sockets(self, address: Address) -> list[socket.socket]:
        """What ``fd://`` means: all of them, or one by number or name. Raises InvalidArgument."""
        wanted = [one for one in self._passed if address.fd in ("*", str(one.fd), one.name)]
        if not wanted:
            raise InvalidArgument(
                f"-H {address}: no such socket was passed to us (LISTEN_FDS); start the daemon "
                "by its systemd socket unit, or give unix:///path"
            )
        self._passed = [one for one in self._passed if one not in wanted]
        found = []
        for one in wanted:
            sock = socket.socket(fileno=one.fd)
            if sock.type != socket.SOCK_STREAM or not sock.getsockopt(
                socket.SOL_SOCKET, socket.SO_ACCEPTCONN
            ):
                raise InvalidArgument(f"-H {address}: descriptor {one.fd} does not listen")
            found.append(sock)
        return found

    def tell(self, *words: str) -> None:
        """``READY=1`` and its like. Who asked to be told may have left since: that is logged."""
        if not self._notify:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            try:
                sock.sendto("\n".join(words).encode(), self._notify)
            except OSError as error:
                log.warn("nobody hears NOTIFY_SOCKET", socket=self._notify, error=error.strerror)

    def reloading(self) -> None:
        """``READY=1`` says when that is over."""
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def keep_alive(self, loop: asyncio.AbstractEventLoop) -> None:
        """Say at half of each interval that the loop turns."""
        if self._watchdog:
            self.tell("WATCHDOG=1")
            self._timer = loop.call_later(self._watchdog / 2, self.keep_alive, loop)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


def take_environment() -> Manager:
    """Read the variables and remove them. Raises InvalidArgument."""
    names = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_USEC",
             "WATCHDOG_PID")  # fmt: skip
    given = {name: os.environ.pop(name, "") for name in names}
    passed: list[Passed] = []
    if given["LISTEN_FDS"] and given["LISTEN_PID"] in ("", str(os.getpid())):
        labels = given["LISTEN_FDNAMES"].split(":")
        for number in range(_number(given["LISTEN_FDS"], "LISTEN_FDS")):
            fd = _FIRST + number
            try:
                os.set_inheritable(fd, False)
            except OSError as error:
                raise InvalidArgument(
                    f"LISTEN_FDS={given['LISTEN_FDS']}: descriptor {fd}: {error.strerror}"
                ) from error
            passed.append(Passed(fd, labels[number] if number < len(labels) else "unknown"))
    watchdog = 0.0
    if given["WATCHDOG_USEC"] and given["WATCHDOG_PID"] in ("", str(os.getpid())):
        watchdog = _number(given["WATCHDOG_USEC"], "WATCHDOG_USEC") / 1e6
    return Manager(given["NOTIFY_SOCKET"], watchdog, passed)


def _number(text: str, name: str) -> int:
    if not text.isdecimal() or int(text) > 10**15:
        raise InvalidArgument(f"{name}={text}: not a number")
    return int(text)
