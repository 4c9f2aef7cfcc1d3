"""A monitor before there is work for it, and what it costs.

A monitor is forked with a frozen heap and collection off, so every page it does not write to stays
shared with all others; but to touch a Python object is to write to its reference count, and to be
a fork as Python knows them costs more than all that follows. So until something happens a monitor
is a fork of the C library's with descriptors in a poll(2) set (``sampan.kernel.bare``). It forks a
maker that shares its descriptor table, and waits. The maker takes a spawn request, makes the
container, moves what the monitor is to own to the numbers from ``BASE`` on, takes a table of its
own, and hands over the poll set. Whatever comes then, a request, output, the end of init, is left
where it is, and a ``Monitor`` finds it there: this process becomes one before the start is over and
when init has ended, and forks one at any other time, to sleep on when that rests (``rest``).

The descriptors of a monitor that sleeps: the channel to its maker; from ``BASE`` on the daemon's
connection, the report (a memfd: what was made, in marshal's form, and the request), and those that
the report names.
"""

from __future__ import annotations

import _socket
import marshal
import os
import signal
import struct
from typing import TYPE_CHECKING, Any

from sampan.kernel.bare import FORK_SIZE, Door, awake
from sampan.kernel.processes import set_parent_death_signal, set_process_name
from sampan.kernel.syscalls import NUMBERS
from sampan.runtime.supervisor import forks, handover, maker, protocol
from sampan.runtime.supervisor.handover import (
    BASE,
    CONTROL,
    HIGHEST,
    PROMISE,
    REPORT,
    SLOTS,
    SOCKET_FD,
    TAKEN,
    TAKEN_OVER,
)
from sampan.runtime.supervisor.monitor import Monitor
from sampan.runtime.supervisor.rest import LENGTH, RESTED, Keeper

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CRASHED", "ENDED", "REFUSED", "Container", "Sleeper"]

_PACKET = 1 << 16
_LAST = 0xFFFFFFFF
_PROMISE_SIZE = 128


class Container:
    """What a monitor that woke has of its container.

    ``control`` is -1 once the daemon has closed it; ``channel`` None once all is said there.
    ``promised``: the event that is true when it ends (``heir``), if that was announced;
    ``is_told``: the daemon knows of it. ``keeper`` is who sleeps on meanwhile, and reaps init;
    ``init_status`` what it was reaped with already.
    """

    __slots__ = ("channel", "control", "init_status", "is_told", "keeper", "promised")

    def __init__(
        self, control: int, channel: int, promised: bytes = b"", is_told: bool = False
    ) -> None:
        self.keeper: Keeper | None = None
        self.init_status: int | None = None
        self.control = control
        self.channel: _socket.socket | None = None
        if channel >= 0:
            self.channel = _socket.socket(fileno=channel)
        self.promised = promised
        self.is_told = is_told

    def request(self) -> dict[str, Any]:
        """The spawn request, decoded anew each time: it is large, and seldom needed."""
        start = LENGTH.size + self._length()
        return protocol.decode(os.pread(REPORT, os.fstat(REPORT).st_size - start, start))

    def made(self) -> tuple[dict[str, Any], dict[str, int]]:
        """The maker's report, and its descriptors by name (``maker``)."""
        made: dict[str, Any] = marshal.loads(os.pread(REPORT, self._length(), LENGTH.size))
        return made, made["fds"]

    def last_word(self) -> dict[str, Any] | None:
        """What the maker ended with, or None as long as it has not.

        ``started`` or ``failed``; with ``event`` where the daemon has not been told of it.
        """
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
        assert self.channel is not None
        self.channel.close()
        self.channel = None
        if packet:
            word: dict[str, Any] = marshal.loads(packet)
            return word
        if not self.promised:
            return forks.lost()
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
        length: int = LENGTH.unpack(os.pread(REPORT, LENGTH.size, 0))[0]
        return length


class Sleeper:
    """A monitor to be. It is made before the fork, so that afterwards there is nothing to make."""

    __slots__ = ("_door", "_ints", "_life", "_words")

    def __init__(self) -> None:
        door = self._door = Door(_BLOCK)
        self._ints = door.ints
        self._life = _life(door)
        self._words = door.ints[_WORDS : _WORDS + _PROMISE_SIZE // 4].cast("B")

    def breed(self) -> int:
        """Keep a monitor and its maker forked, until there is something else to do: ENDED, REFUSED,
        or CRASHED when every pair does; in a monitor or a maker, what else came of it.

        Monitors are bare forks and stay that: to be one as Python knows them means new locks and a
        new list of threads, for a process that has one thread and none of whose locks was held. A
        hundred pages would be copied for it while somebody waits. Makers have the time.
        """
        outcome = self._life()
        if _NO_MAKER <= outcome < _WORK:
            awake()
        return outcome

    def become(self, outcome: int) -> int:
        """Go on as the monitor or the maker that ``breed`` returned in, to its end; its code."""
        ints = self._ints
        if outcome == _MAKER:
            maker.stand_by(ints[_MAKERS], ints[_LIFELINE])
        if outcome == _LOST and ints[_STATUS]:
            _tell_lost()
        if outcome not in (_WORK, _AWAKE):
            return 0
        control = -1 if ints[_IS_DESERTED] else CONTROL
        promised = bytes(self._words[: ints[_PROMISED]])[1:]
        if ints[_HAS_PIDFD]:
            os.close(ints[_PIDFD])
        container = Container(control, ints[_CHANNEL], promised, bool(ints[_IS_TOLD]))
        if ints[_IS_OVER]:
            container.init_status = ints[_INIT]
        if outcome == _AWAKE:
            set_parent_death_signal(signal.SIGKILL)
            set_process_name("sampan-awake")
            container.keeper = Keeper(ints[_THEIRS], ints[_OURS])
            if os.getppid() != container.made()[0]["monitor"]:
                return 0  # It has died, and everything with it.
        return RESTED if Monitor(container).run() else 0


# What a bare life comes to, in the zygote; and in a monitor or a maker.
ENDED, REFUSED, CRASHED, _NO_MAKER, _MAKER, _LOST, _WORK, _AWAKE, _OVER = range(9)

# The words of a sleeper's block: the poll set, then what is said on the channel, then these.
_WORDS = 2 * SLOTS
_STATUS = _WORDS + _PROMISE_SIZE // 4
_PROMISED, _IS_TOLD, _IS_DESERTED, _HAS_PIDFD = range(_STATUS + 1, _STATUS + 5)
_CHANNEL, _MAKERS, _ZYGOTES, _LIFELINE = range(_STATUS + 5, _STATUS + 9)
_PAUSE = _STATUS + 9  # struct timespec, which ppoll(2) writes to: what is left of it
_THEIRS, _OURS, _INIT, _IS_OVER, _FIRST, _PIDFD = range(_STATUS + 13, _STATUS + 19)
_BLOCK = _PIDFD + 1
_LULL = 2_000_000
"""Nanoseconds after a start in which whoever was told of it goes before the next pair's fork."""
_LATER = 10_000_000
"""Nanoseconds that a maker's old self outlives the start (``execs``)."""
_MOST_CRASHES = 3
_IN = 1
_HANG_UP = 0x10 << 16
_SIGCHLD, _SIGKILL, _SIGSTOP = 17, 9, 19
_PR_SET_NAME = 15
_PEEK = 0x02 | 0x40  # MSG_PEEK, MSG_DONTWAIT
_AF_UNIX = 1
_CLOEXEC = 0o2000000
_PACKETS = 5 | _CLOEXEC  # SOCK_SEQPACKET, SOCK_CLOEXEC
_WALL = 0x40000000
_SIGACTION = struct.pack("4Q", 0, 0, 0, 0)  # SIG_DFL, in the kernel's shape


def _life(door: Door) -> Callable[[], int]:
    """The life of the zygote between requests, and of a monitor until there is work, as one
    function: see ``kernel.bare``."""
    call, ints, address = door.call, door.ints, door.address
    clone3, close, close_range, dup3 = _numbers("clone3 close close_range dup3")
    kill, ppoll, prctl, read, recvmsg = _numbers("kill ppoll prctl read recvmsg")
    rt_sigaction, setsid, socketpair = _numbers("rt_sigaction setsid socketpair")
    wait4, write = _numbers("wait4 write")
    fork, fork_sharing, first_byte = door.fork, door.fork_sharing, door.first_byte
    name, default = door.keep(b"sampan-monitor\0"), door.keep(_SIGACTION)
    words, status = address + 4 * _WORDS, address + 4 * _STATUS
    channels, lifelines = address + 4 * _CHANNEL, address + 4 * _ZYGOTES
    links, first = address + 4 * _THEIRS, address + 4 * _FIRST
    pause = address + 4 * _PAUSE
    fork_awake, rested = door.fork_sharing_only, RESTED << 8
    promise, taken, ended = PROMISE[0], TAKEN[0], handover.ENDED[0]

    def life() -> int:
        crashes = 0
        while True:
            ints[_CHANNEL] = ints[_ZYGOTES] = -1
            call(socketpair, _AF_UNIX, _PACKETS, 0, channels)
            call(socketpair, _AF_UNIX, _PACKETS, 0, lifelines)
            channel, makers, zygotes = ints[_CHANNEL], ints[_MAKERS], ints[_ZYGOTES]
            child = -1
            if channel >= 0 and zygotes >= 0:
                child = call(clone3, fork, FORK_SIZE, 0, 0)
            if child == 0:
                break
            if channel >= 0:
                call(close, channel, 0, 0, 0)
                call(close, makers, 0, 0, 0)
            if zygotes >= 0:
                call(close, ints[_LIFELINE], 0, 0, 0)
            if child < 0:
                if zygotes >= 0:
                    call(close, zygotes, 0, 0, 0)
                return REFUSED
            word = -1
            if call(read, zygotes, first, 1, 0) == 1:
                word = ints[_FIRST] & 0xFF
            if word == ended:
                call(read, zygotes, first, 1, 0)  # Until the pair has ended too.
                return ENDED
            # Until another comes, or the start is over. A pair that died without a request is
            # replaced when there is one.
            ints[0], ints[1], ints[3] = SOCKET_FD, _IN, _IN
            ints[2] = zygotes if word == taken else -1
            call(ppoll, address, 2, 0, 0)
            call(close, zygotes, 0, 0, 0)
            if not ints[1] >> 16:
                ints[_PAUSE], ints[_PAUSE + 1], ints[_PAUSE + 2], ints[_PAUSE + 3] = 0, 0, _LULL, 0
                call(ppoll, address, 1, pause, 0)
            # Whatever kills every pair before it takes its request would kill the next one too:
            # the daemon, whose request this is, must hear of it.
            crashes = 0 if word == taken else crashes + 1
            if crashes == _MOST_CRASHES:
                return CRASHED

        call(setsid, 0, 0, 0, 0)
        call(rt_sigaction, _SIGCHLD, default, 0, 8)
        call(prctl, _PR_SET_NAME, name, 0, 0)
        call(close, zygotes, 0, 0, 0)
        # A table that is shared grows only after an RCU grace period, which is milliseconds
        # (``expand_fdtable`` in the kernel's fs/file.c): have it large enough before that.
        call(dup3, channel, HIGHEST, _CLOEXEC, 0)
        call(close, HIGHEST, 0, 0, 0)
        child = call(clone3, fork_sharing, FORK_SIZE, 0, 0)
        if child <= 0:
            return _NO_MAKER if child else _MAKER
        pidfd = ints[_PIDFD]

        # Wait for the poll set, or for the maker's end without one.
        ints[0], ints[1], ints[2], ints[3] = pidfd, _IN, channel, _IN
        while True:
            call(ppoll, address, 2, 0, 0)
            if ints[3] >> 16:
                count = (call(read, channel, address, 8 * SLOTS, 0) >> 3) - 1
                if count > 0:
                    break
                ints[2] = -1  # It has closed its end, in the table we share: it is about to end.
            elif ints[1] >> 16:
                call(wait4, child, status, _WALL, 0)
                return _LOST
        # Close what the maker opened, and keeps for itself.
        call(close_range, ints[2 * count], _LAST, 0, 0)
        call(close_range, (channel if channel > pidfd else pidfd) + 1, BASE - 1, 0, 0)
        call(close, makers, 0, 0, 0)
        call(close, SOCKET_FD, 0, 0, 0)
        taken_over = ints[0] == TAKEN_OVER
        # What is left of a maker that is the container's init now hangs in the kernel, and does not
        # come back from there. It is killed a while after the program runs: two have the
        # interpreter's memory until then, and the last frees it, which takes a processor for a
        # millisecond.
        old = 0
        if taken_over:
            old = child
            call(kill, old, _SIGSTOP, 0, 0)
            call(write, channel, words, 1, 0)
        ints[_HAS_PIDFD] = 1
        ints[0], ints[1] = channel if taken_over else pidfd, _IN

        # Sleep. The start, the maker's end and the daemon's are no work.
        promised, starting, patience = 0, True, 0
        while True:
            if not call(ppoll, address, count, patience, 0):
                patience = 0
                call(kill, old, _SIGKILL, 0, 0)
            elif ints[1] >> 16 and starting and taken_over:
                size = call(recvmsg, channel, first_byte, _PEEK, 0)
                if size > 0 and ints[_FIRST] & 0xFF == promise:
                    promised = call(read, channel, words, _PROMISE_SIZE, 0)
                    ints[_PROMISED] = promised
                elif size == 0 and promised:
                    # The program runs.
                    call(write, CONTROL, words + 1, promised - 1, 0)
                    ints[_IS_TOLD] = 1
                    starting = False
                    ints[0], patience = pidfd, pause
                    ints[_PAUSE], ints[_PAUSE + 1] = 0, 0
                    ints[_PAUSE + 2], ints[_PAUSE + 3] = _LATER, 0
                else:
                    break
            elif ints[1] >> 16:
                ints[0], starting, patience = -1, False, 0
                call(close, pidfd, 0, 0, 0)
                ints[_HAS_PIDFD] = 0
                call(wait4, child, status, _WALL, 0)
                if ints[_STATUS] and not old:
                    break
                old = 0
            elif ints[3] & _HANG_UP and call(recvmsg, CONTROL, first_byte, _PEEK, 0) <= 0:
                ints[2] = -1
                call(close, CONTROL, 0, 0, 0)
                ints[_IS_DESERTED] = 1
            else:
                index = 3
                while index < 2 * count and not ints[index] >> 16:
                    index += 2
                if index >= 2 * count:
                    continue
                # Before the start is over, and when init has ended, it is our own.
                if starting or ints[5] >> 16 or call(socketpair, _AF_UNIX, _PACKETS, 0, links):
                    break
                if old:
                    call(kill, old, _SIGKILL, 0, 0)
                    call(wait4, old, 0, _WALL, 0)
                    call(close, pidfd, 0, 0, 0)
                    ints[0], ints[_HAS_PIDFD], old, patience = -1, 0, 0, 0
                child = call(clone3, fork_awake, FORK_SIZE, 0, 0)
                if child == 0:
                    return _AWAKE
                if child < 0:
                    break
                theirs = ints[_THEIRS]
                while True:
                    reaped = call(wait4, -1, status, _WALL, 0)
                    if reaped == child:
                        break
                    if reaped > 0:
                        ints[_IS_OVER], ints[_INIT] = 1, ints[_STATUS]
                        call(write, theirs, status, 4, 0)
                if ints[_STATUS] != rested:
                    return _OVER
                count = call(read, theirs, address, 8 * SLOTS, 0) >> 3
                call(close, theirs, 0, 0, 0)
                call(close, ints[_OURS], 0, 0, 0)
                ints[_CHANNEL] = -1
                if ints[_IS_OVER]:
                    break
        if old:
            call(kill, old, _SIGKILL, 0, 0)
        return _WORK

    return life


def _numbers(names: str) -> list[int]:
    return [NUMBERS[name] for name in names.split()]


def _tell_lost() -> None:
    try:
        os.fstat(CONTROL)
    except OSError:
        return  # It had no request yet.
    with protocol.connection(CONTROL) as sock:
        try:
            protocol.send(sock, {"event": "failed", "error": forks.lost()["failed"]})
        except OSError:
            pass  # The daemon is gone: nobody is left to tell.
