"""TLS for a connection (RFC 8446), as a plain socket: a thread of ours encrypts between the two.

What talks to the daemon polls its socket, hands it over and closes one half of it. A TLS socket
can do none of that; so it gets one end of a pair, and a thread moves bytes between the other end
and the connection. The end of our half is TLS's close_notify, after which the other side's words
are still read.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    from sampan.cli.settings import Tls

__all__ = ["wrap"]

_CHUNK = 1 << 16


def wrap(sock: socket.socket, files: Tls, name: str) -> socket.socket:
    """Shake hands on ``sock``, for the server ``name``. Raises ssl.SSLError, InvalidArgument."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = _context(files).wrap_bio(incoming, outgoing, server_hostname=name)
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            sock.sendall(outgoing.read())
            _receive(sock, incoming)
        except ssl.SSLError:
            sock.sendall(outgoing.read())  # the alert that says why
            raise
    sock.sendall(outgoing.read())
    ours, theirs = socket.socketpair()
    bridge = _Bridge(sock, theirs, tls, incoming, outgoing)
    threading.Thread(target=bridge.run, daemon=True).start()
    return ours


def _context(files: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not files.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        if files.ca:
            context.load_verify_locations(files.ca)
        elif files.verify:
            context.load_default_certs()
        if files.cert or files.key:
            context.load_cert_chain(files.cert, files.key or None)
    except (OSError, ValueError) as error:
        shown = ", ".join(filter(None, (files.ca, files.cert, files.key)))
        raise InvalidArgument(f"TLS files ({shown}) cannot be used: {error}") from error
    return context


def _receive(sock: socket.socket, incoming: ssl.MemoryBIO) -> None:
    data = sock.recv(_CHUNK)
    if data:
        incoming.write(data)
    else:
        incoming.write_eof()


class _Bridge:
    """Between the network and the plain end; ends when both directions have."""

    def __init__(
        self,
        network: socket.socket,
        plain: socket.socket,
        tls: ssl.SSLObject,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
    ) -> None:
        self._network = network
        self._plain = plain
        self._tls = tls
        self._incoming = incoming
        self._outgoing = outgoing

    def run(self) -> None:
        try:
            self._run()
        except OSError:
            pass  # a side is gone: closing the other says so
        finally:
            self._plain.close()
            self._network.close()

    def _run(self) -> None:
        poller = select.poll()
        poller.register(self._network, select.POLLIN)
        poller.register(self._plain, select.POLLIN)
        if not self._decrypt():
            return
        while True:
            for descriptor, _ in poller.poll():
                if descriptor == self._plain.fileno():
                    data = self._plain.recv(_CHUNK)
                    if data:
                        self._tls.write(data)
                    else:
                        poller.unregister(self._plain)
                        self._say_goodbye()
                    self._network.sendall(self._outgoing.read())
                else:
                    _receive(self._network, self._incoming)
                    if not self._decrypt():
                        return

    def _decrypt(self) -> bool:
        """Hand on what has arrived; false at the other side's end."""
        while True:
            try:
                data = self._tls.read(_CHUNK)
            except ssl.SSLWantReadError:
                return True
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return False
            if not data:
                return False
            self._plain.sendall(data)

    def _say_goodbye(self) -> None:
        """Send close_notify. Nothing of theirs is waiting undecrypted, so nothing is dropped."""
        try:
            self._tls.unwrap()
        except ssl.SSLWantReadError:
            return  # theirs is still to come
