"""A monitor before there is work for it, and what it costs.

A monitor is forked with a frozen heap and collection off, so every page it does not write to stays
shared with all others; but to touch a Python object is to write to its reference count, and to be
a fork as Python knows them costs more than all that follows. So until something happens a monitor
is a fork of the C library's with descriptors in a poll(2) set (``sampan.kernel.bare``). It forks a
maker that shares its descriptor table, and waits. The maker takes a spawn request, makes the
container, moves what the monitor is to own to the numbers from ``BASE`` on, takes a table of its
own, and hands over the poll set. Whatever comes then, a request, output, the end of init, is left
where it is, and the monitor becomes a ``Monitor``, which finds it there.

The descriptors of a monitor that sleeps: the channel to its maker; from ``BASE`` on the daemon's
connection, the report (a memfd: what was made, in marshal's form, and the request), and those that
the report names.
"""

from __future__ import annotations

import _socket
import marshal
import os
import struct
from typing import Any

from sampan.kernel.bare import Bare, PollSet, Words, unshare_files
from sampan.runtime.supervisor import maker, protocol
from sampan.runtime.supervisor.handover import (
    BASE,
    CONTROL,
    HIGHEST,
    PROMISE,
    REPORT,
    SLOTS,
    SOCKET_FD,
    TAKEN_OVER,
)
from sampan.runtime.supervisor.monitor import Monitor

__all__ = ["Container", "Sleeper"]

_PACKET = 1 << 16
_LENGTH = struct.Struct("Q")
_LAST = 0xFFFFFFFF
_REHEARSALS = 80
_PROMISE_SIZE = 128


class Container:
    """What a monitor that woke has of its container.

    ``control`` is -1 once the daemon has closed it; ``channel`` None once all is said there.
    ``promised``: the event that is true when it ends (``heir``), if that was announced;
    ``is_told``: the daemon knows of it.
    """

    __slots__ = ("channel", "control", "is_told", "promised")

    def __init__(
        self, control: int, channel: int, promised: bytes = b"", is_told: bool = False
    ) -> None:
        self.control = control
        self.channel: _socket.socket | None = _socket.socket(fileno=channel)
        self.promised = promised
        self.is_told = is_told

    def request(self) -> dict[str, Any]:
        """The spawn request, decoded anew each time: it is large, and seldom needed."""
        start = _LENGTH.size + self._length()
        return protocol.decode(os.pread(REPORT, os.fstat(REPORT).st_size - start, start))

    def made(self) -> tuple[dict[str, Any], dict[str, int]]:
        """The maker's report, and its descriptors by name (``maker``)."""
        made: dict[str, Any] = marshal.loads(os.pread(REPORT, self._length(), _LENGTH.size))
        return made, made["fds"]

    def last_word(self) -> dict[str, Any] | None:
        """What the maker ended with, or None as long as it has not.

        ``started`` or ``failed``; with ``event`` where the daemon has not been told of it.
        """
        assert self.channel is not None
        while True:
            try:
                packet = self._receive(_socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
            if packet[:1] != PROMISE:
                break
            self.promised = packet[1:]
        if packet:
            # Its end: by then it has told the daemon of the start, which the exit follows.
            self._receive(0)
        self.channel.close()
        self.channel = None
        if packet:
            word: dict[str, Any] = marshal.loads(packet)
            return word
        if not self.promised:
            return maker.lost()
        event = protocol.decode(self.promised)
        return {"started": event["at"], **({} if self.is_told else {"event": event})}

    def _receive(self, flags: int) -> bytes:
        assert self.channel is not None
        try:
            return self.channel.recv(_PACKET, flags)
        except ConnectionResetError:
            # It ended without having read all that we sent: said once, before what it had sent.
            return self.channel.recv(_PACKET, flags)

    @staticmethod
    def _length() -> int:
        length: int = _LENGTH.unpack(os.pread(REPORT, _LENGTH.size, 0))[0]
        return length


class Sleeper:
    """A monitor to be. It is made before the fork, so that afterwards there is nothing to make."""

    __slots__ = (
        "_bare",
        "_control",
        "_count",
        "_is_told",
        "_promised",
        "_reaped",
        "_set",
        "_words",
    )

    def __init__(self, bare: Bare) -> None:
        self._bare = bare
        self._set = PollSet(SLOTS)
        self._count = 0
        self._control = CONTROL
        self._reaped = False
        self._words = Words(_PROMISE_SIZE)
        self._promised = 0
        self._is_told = False

    def run(self, channel: int, makers: int, zygotes: int, lifeline: int) -> None:
        """Be the monitor of one container to its end, in a bare fork.

        ``channel`` and ``makers`` are a pair of sockets, and so are ``zygotes``, which is not for
        us, and ``lifeline``, which is for the maker.
        """
        bare = self._bare
        bare.become(b"sampan-monitor")
        bare.close(zygotes)
        bare.make_room(channel, HIGHEST)
        child = bare.fork_sharing()
        if child <= 0:
            if child == 0:
                bare.awake()
                maker.stand_by(makers, lifeline)
            return
        pidfd = bare.pidfd
        if not self._hear(channel, pidfd):
            status = bare.reap(child)
            bare.awake()
            if status:
                _tell_lost()
            return
        self._drop(channel, makers, pidfd)
        bare.close(SOCKET_FD)
        if self._set.fd(0) == TAKEN_OVER:
            self._bury(child, channel, pidfd)
            self._sleep_to_start(channel)
        else:
            self._sleep(child, pidfd)
        bare.awake()
        unshare_files()
        promised = self._words.text(self._promised)[1:]
        container = Container(self._control, channel, promised, self._is_told)
        if not self._reaped:
            os.close(pidfd)
        Monitor(container).run()

    def rehearse(self) -> None:
        """Do what ``run`` does but for its forks: code that ran before is not written to any more.

        In a process without children.
        """
        bare = self._bare
        for _ in range(_REHEARSALS):
            bare.pair()
            channel, makers = bare.first, bare.second
            bare.pair()
            daemon, pidfd = bare.first, bare.second
            os.dup2(daemon, CONTROL)
            packet = PollSet(3)
            packet.watch(1, CONTROL)
            packet.watch(2, BASE + 2)
            os.write(makers, packet.packet)
            self._hear(channel, pidfd)
            os.write(daemon, b"x")
            self._drop(SOCKET_FD, makers, makers)
            self._sleep(1, makers)
            bare.close_range(SOCKET_FD + 1, _LAST)
            self._rehearse_start()
        self._reaped = self._is_told = False
        self._promised = 0

    def _rehearse_start(self) -> None:
        bare = self._bare
        bare.pair()
        channel, inits = bare.first, bare.second
        bare.pair()
        daemon, daemons = bare.first, bare.second
        os.dup2(daemon, CONTROL)
        self._set.watch(1, CONTROL)
        self._count = 2
        os.write(inits, PROMISE + b"{}")
        os.write(daemons, b"x")
        bare.close(inits)
        self._sleep_to_start(channel)
        bare.close_range(SOCKET_FD + 1, _LAST)

    def _hear(self, channel: int, pidfd: int) -> bool:
        """Wait for the poll set; False when the maker has ended without one."""
        bare, watched = self._bare, self._set
        watched.watch(0, pidfd)
        watched.watch(1, channel)
        while True:
            bare.poll(watched, 2)
            size = bare.receive(channel, watched.address, SLOTS * 8)
            if size > 0:
                self._count = size // 8 - 1
                return True
            if watched.ready(0):
                return False

    def _drop(self, channel: int, makers: int, pidfd: int) -> None:
        """Close what the maker opened, and keeps for itself."""
        bare = self._bare
        bare.close_range(self._set.fd(self._count), _LAST)
        bare.close_range((channel if channel > pidfd else pidfd) + 1, BASE - 1)
        bare.close(makers)

    def _bury(self, child: int, channel: int, pidfd: int) -> None:
        """Kill what is left of a maker that is the container's init now, and say so."""
        bare = self._bare
        bare.kill(child)
        bare.reap(child)
        bare.close(pidfd)
        self._reaped = True
        bare.nudge(channel)

    def _sleep_to_start(self, channel: int) -> None:
        """As ``_sleep``, of a container whose init is to tell of its start itself."""
        bare, watched, count, words = self._bare, self._set, self._count, self._words
        watched.watch(0, channel)
        while True:
            bare.poll(watched, count)
            if watched.ready(0):
                first = bare.peek(channel)
                if first == PROMISE[0]:
                    self._promised = bare.receive(channel, words.address, words.size)
                elif first == 0 and self._promised > 0:
                    # The program runs.
                    bare.send(CONTROL, words.address + 1, self._promised - 1)
                    self._is_told = True
                    watched.forget(0)
                else:
                    return
            elif self._is_work():
                return

    def _sleep(self, child: int, pidfd: int) -> None:
        """Return when there is work. The start, the maker's end and the daemon's are none."""
        bare, watched, count = self._bare, self._set, self._count
        watched.watch(0, pidfd)
        while True:
            bare.poll(watched, count)
            if watched.ready(0):
                watched.forget(0)
                bare.close(pidfd)
                self._reaped = True
                if bare.reap(child):
                    return
            elif self._is_work():
                return

    def _is_work(self) -> bool:
        """Whether what the last poll saw is; that the daemon is gone is noted."""
        bare, watched, count = self._bare, self._set, self._count
        if watched.ready(1) and watched.hung_up(1) and bare.is_silent(CONTROL):
            watched.forget(1)
            bare.close(CONTROL)
            self._control = -1
            return False
        index = 1
        while index < count:
            if watched.ready(index):
                return True
            index += 1
        return False


def _tell_lost() -> None:
    try:
        os.fstat(CONTROL)
    except OSError:
        return  # It had no request yet.
    with protocol.connection(CONTROL) as sock:
        try:
            protocol.send(sock, {"event": "failed", "error": maker.lost()["failed"]})
        except OSError:
            pass  # The daemon is gone: nobody is left to tell.
