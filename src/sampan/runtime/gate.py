"""How the parent and a container's init talk until the program runs, and the gate where init waits.

**The channel** is a SOCK_SEQPACKET pair (unix(7)); a message is one tag byte and a body. Both ends
are close-on-exec, so the end of file *is* the news that the program was executed:

    child to parent                          parent to child
    M  map my new user namespace             m  mapped
    P  body: the host's pid of the child     g  go on: cgroup, mappings and devices are there
    H  run the hooks of the runtime's side   h  they ran
    T  the terminal's name; its master       s  I have the listener
    S  body: the listener's number           x  execute
    W  waiting at the gate
    E  body: {"type", "message"} of an error, and the child ends

**The FIFO gate** is for a command whose ``create`` ends and whose ``start`` is another process:
``exec.fifo``, where a byte releases init, and ``status.fifo``, which init holds open for writing
until it executes: ``start`` reads an error, or the end of file. Both are opened by ``create``,
before the child exists, because the child cannot reach them from inside (fifo(7): a descriptor
opened O_RDWR waits for nobody).
"""

from __future__ import annotations

import _socket
import errno
import json
import os
import stat
from abc import ABC, abstractmethod
from array import array
from typing import TYPE_CHECKING

from sampan.errors import Conflict, KernelError, NotFound, SampanError, by_name

if TYPE_CHECKING:
    from sampan.runtime.child import Child

__all__ = ["Channel", "Fifos", "Heir", "decode_error", "encode_error", "open_by_start"]

EXEC_FIFO = "exec.fifo"
STATUS_FIFO = "status.fifo"
MAX_MESSAGE = 65536
MAX_ERROR = 16384


def encode_error(error: BaseException) -> bytes:
    """The body of an error message; an error outside the tree keeps its class in the text."""
    if isinstance(error, SampanError):
        kind, message = type(error).__name__, error.message
    else:
        kind, message = "SampanError", f"{type(error).__name__}: {error}"
    return json.dumps({"type": kind, "message": message[:MAX_ERROR]}).encode()


def decode_error(body: bytes) -> SampanError:
    """The error that ``encode_error`` wrote."""
    value = json.loads(body)
    return by_name(value["type"], value["message"])


class Channel:
    """One end of the pair, as a bare descriptor."""

    __slots__ = ("fd",)
    wants_limits_early = False
    """Whether the child asks for its limits while it has all of its rights."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @property
    def kept(self) -> tuple[int, ...]:
        """What the child keeps open until the program is executed."""
        return (self.fd,)

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """(the parent's end, the child's end)."""
        ours, theirs = _socket.socketpair(
            _socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC
        )
        return cls(ours.detach()), cls(theirs.detach())

    def close(self) -> None:
        """Close this end; harmless when it is closed."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def send(self, tag: bytes, body: bytes = b"", descriptor: int = -1) -> None:
        """Send one message, with a descriptor if one is given.

        A bare write(2) otherwise: by then a seccomp filter may leave little else.
        """
        if descriptor < 0:
            os.write(self.fd, tag + body)
            return
        sock = _socket.socket(fileno=self.fd)
        try:
            rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array("i", [descriptor]))
            sock.sendmsg([tag + body], [rights])
        finally:
            sock.detach()

    def receive(self) -> tuple[bytes, bytes]:
        """(tag, body); the tag is empty at the end of file."""
        message = os.read(self.fd, MAX_MESSAGE)
        return message[:1], message[1:]

    def receive_with_descriptor(self) -> tuple[bytes, bytes, int]:
        """As ``receive``, with the descriptor that came along or -1."""
        sock = _socket.socket(fileno=self.fd)
        try:
            message, ancillary, _, _ = sock.recvmsg(
                MAX_MESSAGE, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC
            )
        finally:
            sock.detach()
        descriptor = -1
        for level, kind, data in ancillary:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                descriptor = array("i", data[:4])[0]
        return message[:1], message[1:], descriptor

    def expect(self, tag: bytes) -> bytes:
        """Wait for the parent's message ``tag``: its body. The parent's death ends this process."""
        found, body = self.receive()
        if found != tag:
            raise SystemExit(1)
        return body


class Heir(Channel, ABC):
    """What stands in the place of the parent where that has become the init itself: the same
    conversation, held with oneself. ``fd`` leads to who is to know that the program is executed.
    """

    __slots__ = ()
    wants_limits_early = True

    @abstractmethod
    def prepare(self, child: Child) -> None:
        """Before the change: what has to be done from outside. May raise."""

    @abstractmethod
    def arrived(self, child: Child, terminal: tuple[int, int, bytes] | None) -> None:
        """After it: ``child`` is this process, by its number outside."""


class Fifos:
    """Both FIFOs of a gate directory, open in ``create`` and in the container's init."""

    __slots__ = ("exec_fd", "status_fd")

    def __init__(self, directory: str) -> None:
        self.exec_fd = self.status_fd = -1
        try:
            self.exec_fd = _make(os.path.join(directory, EXEC_FIFO))
            self.status_fd = _make(os.path.join(directory, STATUS_FIFO))
        except KernelError:
            self.close()
            raise

    def close(self) -> None:
        """Close both; harmless when they are closed."""
        for fd in (self.exec_fd, self.status_fd):
            if fd >= 0:
                os.close(fd)
        self.exec_fd = self.status_fd = -1


def remove(directory: str) -> None:
    """Remove the FIFOs' names; what holds them open is not disturbed."""
    for name in (EXEC_FIFO, STATUS_FIFO):
        try:
            os.unlink(os.path.join(directory, name))
        except FileNotFoundError:
            pass


def open_by_start(directory: str) -> None:
    """Release the init that waits at ``directory``'s gate and return once it has executed.

    Raises Conflict when it was started before, NotFound when init is gone, and init's own error
    (CommandNotFound, ...) when it cannot execute. The names are removed when it was released.
    """
    exec_path = os.path.join(directory, EXEC_FIFO)
    try:
        status_fd = os.open(
            os.path.join(directory, STATUS_FIFO), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        )
        try:
            exec_fd = os.open(exec_path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            os.close(status_fd)
            raise
    except FileNotFoundError:
        raise Conflict("cannot start: the container is not in the created state") from None
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise NotFound("cannot start: the container's init has ended") from None
        raise KernelError("open", error.errno or 0, exec_path) from None
    try:
        os.write(exec_fd, b"x")
        remove(directory)
        os.set_blocking(status_fd, True)
        data = bytearray()
        while chunk := os.read(status_fd, MAX_MESSAGE):
            data += chunk
    finally:
        os.close(exec_fd)
        os.close(status_fd)
    if data:
        raise decode_error(bytes(data))


def _make(path: str) -> int:
    try:
        os.mkfifo(path, 0o600)
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise KernelError("mkfifo", error.errno or 0, path) from None
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        os.close(fd)
        raise KernelError("open", errno.EINVAL, path)
    return fd
