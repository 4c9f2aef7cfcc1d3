"""A monitor before there is work for it, and what it costs.

A monitor is forked with a frozen heap and collection off, so every page it does not write to stays
shared with all others; but to touch a Python object is to write to its reference count. So until
something happens a monitor is little more than descriptors in a poll(2) set. It lets a maker make
the container and tell the daemon, and sleeps; whatever comes first then, a request, output, the end
of init, is left where it is, and the monitor becomes a ``Monitor``, which finds it there.

The code here keeps to built-in functions, below the library's Python: each function called, each
enumeration looked up, is a page or two for every container that runs.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed has the library's name only
import _socket
import marshal
import os
import select
import socket
import struct
from typing import Any

from sampan.runtime.supervisor import maker, protocol
from sampan.runtime.supervisor.monitor import Monitor

__all__ = ["PACKET", "RIGHTS", "Container", "rehearse", "run"]

# One byte more than a message may have: what is larger shows as cut off.
PACKET = protocol.INLINE_LIMIT + 1
RIGHTS = _socket.CMSG_SPACE(protocol.MAX_FDS * 4)


class Container:
    """What a monitor has of its container, as it came.

    ``packet``, ``flags`` and ``request_fds`` are the spawn request, the daemon's connection last, a
    body in memory first. ``report`` and ``report_fds`` are the maker's (``made``). ``control`` is
    -1 once the daemon has closed it, ``channel`` None once the maker has spoken: then ``word`` is
    its last (``last_word``).
    """

    __slots__ = (
        "channel",
        "control",
        "flags",
        "packet",
        "report",
        "report_fds",
        "request_fds",
        "word",
    )

    def __init__(self, packet: bytes, flags: int, request_fds: tuple[int, ...]) -> None:
        self.packet = packet
        self.flags = flags
        self.request_fds = request_fds
        self.control = request_fds[-1]
        self.channel: _socket.socket | None = None
        self.report = b""
        self.report_fds: tuple[int, ...] = ()
        self.word = b""

    def request(self) -> dict[str, Any]:
        """The spawn request, decoded anew each time: it is large, and seldom needed."""
        return protocol.decode(protocol.body_of(self.packet, self.flags, self.request_fds[:-1]))

    def made(self) -> tuple[dict[str, Any], dict[str, int]]:
        """The maker's report, and its descriptors by name (``maker``)."""
        made: dict[str, Any] = marshal.loads(self.report[2:])
        return made, dict(zip(made["fds"], self.report_fds, strict=True))

    def last_word(self) -> dict[str, Any] | None:
        """What the maker ended with, or None as long as it has not."""
        if self.channel is not None:
            return None
        word: dict[str, Any] = marshal.loads(self.word[1:]) if self.word else maker.lost()
        return word


def run(packet: bytes, flags: int, fds: tuple[int, ...]) -> None:
    """Be the monitor of the container that a spawn request describes, to its end.

    The request is as recvmsg(2) gave it; its maker reads it.
    """
    os.setsid()
    _take_name()
    # The zygote ignores it, and a child that is not waited for leaves no status.
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    container = Container(packet, flags, fds)
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        maker.run_first(container, ours.fileno(), theirs.detach())
    theirs.close()
    if not _hear(container, ours):
        if not container.report:
            _tell_lost(container.control)
        return
    if container.report[1]:
        _sleep(container, child)
    Monitor(container).run()


def rehearse() -> None:
    """Do what ``run`` does but for its forks: code that ran before is not written to any more."""
    for _ in range(20):
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", ours.fileno()))
        theirs.sendmsg([b"\1\1"], [rights])
        theirs.send(b"s")
        daemon, control = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        container = Container(b"", 0, (control.fileno(),))
        _take_name()
        _hear(container, ours)
        daemon.send(b"x")
        _sleep(container, 0)
        os.close(container.report_fds[0])


def _take_name() -> None:
    """Set the process's name as prctl(PR_SET_NAME) would, with less."""
    fd = os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC)
    os.write(fd, b"sampan-monitor")
    os.close(fd)


def _hear(container: Container, channel: _socket.socket) -> bool:
    """Take in what the maker made; False when there is no container."""
    packet, ancillary, _, _ = channel.recvmsg(PACKET, RIGHTS, _socket.MSG_CMSG_CLOEXEC)
    container.report = packet
    if not ancillary:
        return False
    rights = ancillary[0][2]
    container.report_fds = struct.unpack(f"{len(rights) // 4}i", rights)
    container.channel = channel
    return True


def _sleep(container: Container, child: int) -> None:
    """Return when there is work. The start, the maker's end and the daemon's are none."""
    control, channel = container.control, container.channel
    assert channel is not None
    spoken = channel.fileno()
    poll = select.poll()
    # First, and so first in what poll returns: the daemon may ask for what it was just told of.
    poll.register(spoken, select.POLLIN)
    for fd in container.report_fds[: container.report[0]]:
        poll.register(fd, select.POLLIN)
    poll.register(control, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == spoken:
                container.word = channel.recv(PACKET)
                poll.unregister(spoken)
                channel.close()
                spoken = -1
                container.channel = None
                if child:
                    os.waitpid(child, 0)  # It ends with its last word.
                if not container.word.startswith(b"s"):
                    return
            elif fd == control and not _peek(control):
                poll.unregister(control)
                os.close(control)
                container.control = control = -1
            else:
                return


def _peek(control: int) -> bytes:
    """The beginning of what the daemon said; nothing when it is gone."""
    sock = _socket.socket(fileno=control)
    try:
        return sock.recv(1, _socket.MSG_PEEK | _socket.MSG_DONTWAIT)
    except OSError:
        return b""
    finally:
        sock.detach()


def _tell_lost(control: int) -> None:
    with socket.socket(fileno=control) as sock:
        try:
            protocol.send(sock, {"event": "failed", "error": maker.lost()["failed"]})
        except OSError:
            pass  # The daemon is gone: nobody is left to tell.
