"""The daemon's side of a monitor's connection, on the event loop.

A connection is a SOCK_SEQPACKET socket (``sampan.runtime.supervisor.protocol``): requests carry a
number and get one reply each, events come between. Requests may be sent before the monitor is up:
the socket keeps them, in order. The end of the connection without an ``exit`` event means that
the monitor died; its last word may be in its run directory.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec

from sampan.engine.log import log
from sampan.errors import SampanError, Unavailable, by_name
from sampan.runtime.supervisor import protocol

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["Monitor", "read_exit", "rebuilt"]

EXIT_FILE = "exit.json"

REQUEST_DEADLINE = 30.0
"""Seconds a monitor has for a reply. It answers in microseconds; a start may wait for the disk."""


def rebuilt(fields: Mapping[str, Any]) -> SampanError:
    """The error of a reply or event, with the exit code it carries."""
    error = by_name(str(fields.get("type", "")), str(fields.get("message", "unknown error")))
    code = fields.get("exit_code")
    if isinstance(code, int) and code != error.exit_code:
        error.exit_code = code
    return error


class Monitor:
    """One connection. ``on_event`` gets each event, ``on_lost`` is called once, at the end."""

    def __init__(
        self,
        sock: socket.socket,
        on_event: Callable[[dict[str, Any]], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._socket = sock
        self._on_event = on_event
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._replies: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._thens: dict[int, Callable[[], None]] = {}
        self._waiting: deque[tuple[dict[str, object], tuple[int, ...]]] = deque()
        self._next = 1
        self.open = True
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._readable)

    def request(
        self,
        op: str,
        fds: Sequence[int] = (),
        then: Callable[[], None] | None = None,
        **fields: object,
    ) -> asyncio.Future[dict[str, Any]]:
        """Send a request now; the future is the reply, or a SampanError.

        The descriptors are copied before this returns: the caller may close its own. ``then`` is
        called when it was done, before any event that followed is.
        """
        reply: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        if not self.open:
            reply.set_exception(Unavailable("the container's monitor is gone"))
            return reply
        number = self._next
        self._next += 1
        self._replies[number] = reply
        if then is not None:
            self._thens[number] = then
        self._send({"op": op, "seq": number, **fields}, fds)
        return reply

    def hint(self, op: str, **fields: object) -> None:
        """Send a request now whose outcome nobody has to know: there is no reply."""
        if self.open:
            self._send({"op": op, "seq": 0, **fields}, ())

    def _send(self, message: dict[str, object], fds: Sequence[int]) -> None:
        if self._waiting:
            self._waiting.append((message, tuple(os.dup(fd) for fd in fds)))
            return
        try:
            protocol.send(self._socket, message, fds)
        except BlockingIOError:
            self._waiting.append((message, tuple(os.dup(fd) for fd in fds)))
            self._loop.add_writer(self._socket.fileno(), self._writable)
        except OSError:
            pass  # It has closed; its last words may still be unread: the end is heard there.

    async def call(
        self,
        op: str,
        fds: Sequence[int] = (),
        then: Callable[[], None] | None = None,
        **fields: object,
    ) -> dict[str, Any]:
        """Send a request, wait for its reply. Raises SampanError, Unavailable when it is late."""
        try:
            async with asyncio.timeout(REQUEST_DEADLINE):
                # The last that is done before others' turn: who gets it is to have the processor.
                return await self.request(op, fds, then, **fields)
        except TimeoutError as error:
            raise Unavailable(
                f"the container's monitor did not answer {op} within {REQUEST_DEADLINE:.0f} s"
            ) from error

    def _writable(self) -> None:
        while self._waiting:
            message, fds = self._waiting[0]
            try:
                protocol.send(self._socket, message, fds)
            except BlockingIOError:
                return
            except OSError:
                break  # as in ``request``
            self._waiting.popleft()
            _close(fds)
        self._loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        while self.open:
            try:
                received = protocol.receive(self._socket)
            except BlockingIOError:
                return
            except ConnectionResetError:
                # It closed with words of ours unread, and that is told before its own last words.
                continue
            except OSError:
                received = None
            if received is None:
                self._lost()
                return
            message, fds = received
            _close(fds)
            if "reply" in message:
                self._reply(message)
            else:
                self._on_event(message)

    def _reply(self, message: dict[str, Any]) -> None:
        reply = self._replies.pop(message["reply"], None)
        then = self._thens.pop(message["reply"], None)
        if then is not None and message.get("ok"):
            then()
        if reply is None or reply.done():
            return
        if message.get("ok"):
            reply.set_result(message)
        else:
            reply.set_exception(rebuilt(message.get("error") or {}))

    def _lost(self) -> None:
        if self.open:
            self.close()
            self._on_lost()

    def close(self, why: SampanError | None = None) -> None:
        """Let go of the connection; the monitor lives on. ``on_lost`` is not called.

        What it was asked and has not answered fails with ``why``.
        """
        if not self.open:
            return
        self.open = False
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(why or Unavailable("the container's monitor is gone"))
                # Whoever sent the request may not wait for its reply any more.
                reply.exception()
        self._replies.clear()
        self._thens.clear()
        self._loop.remove_reader(self._socket.fileno())
        if self._waiting:
            self._loop.remove_writer(self._socket.fileno())
        for _, fds in self._waiting:
            _close(fds)
        self._waiting.clear()
        self._socket.close()


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def read_exit(directory: str) -> dict[str, Any] | None:
    """The exit event as a monitor left it in its run directory."""
    try:
        with open(f"{directory}/{EXIT_FILE}", "rb") as file:
            event = msgspec.json.decode(file.read())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        log.error("an exit record cannot be read", directory=directory, error=str(error))
        return None
    return event if isinstance(event, dict) else None
