"""TLS (RFC 8446) below an HTTP connection: a transport made of OpenSSL's state machine.

asyncio has a TLS transport, and it does not do for us: when a client ends its half of the stream
(``close_notify``), it ends the other half too, and with it the output of ``echo x | docker run
-i``. TLS 1.3 knows half-closes as TCP does (section 6.1), and so does this: the end of the
client's data is the protocol's ``eof_received``, and what is written afterwards is sent.

A connection that ends without ``close_notify`` was cut, by whomever: its protocol is told that it
is lost, never that its data is complete.

``ssl`` is imported by who makes the context; a daemon without TLS never loads it.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HANDSHAKE_SECONDS", "Tls", "server_context"]

HANDSHAKE_SECONDS = 10.0
_READ = 64 * 1024


def server_context(certificate: str, key: str, ca: str | None) -> ssl.SSLContext:
    """TLS 1.2 or newer; with ``ca``, clients must show a certificate that it signed.

    Raises OSError (``ssl.SSLError`` among them) for files that are not what they should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(certificate, key)
    if ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(ca)
    return context


class Tls(asyncio.Protocol, asyncio.Transport):
    """Below: the protocol of a raw transport. Above: the transport of ``protocol()``.

    ``report`` gets the reason of a handshake that failed.
    """

    def __init__(
        self,
        protocol: Callable[[], asyncio.Protocol],
        context: ssl.SSLContext,
        loop: asyncio.AbstractEventLoop,
        report: Callable[[str], None],
    ) -> None:
        asyncio.Transport.__init__(self)
        self._factory = protocol
        self._loop = loop
        self._report = report
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self._above: asyncio.Protocol | None = None
        self._raw: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        self._ended = False
        self._said = False
        self._closing = False

    # -- the raw transport's protocol --------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._raw = transport
        self._timer = self._loop.call_later(HANDSHAKE_SECONDS, self._fail, "it took too long")

    def data_received(self, data: bytes) -> None:
        if self._said:
            return  # read for the sake of our last words only, which a reset would destroy
        self._in.write(data)
        if self._above is None and not self._handshake():
            return
        self._read()

    def eof_received(self) -> bool:
        # After close_notify the socket's own end says nothing new; before it, it is a cut.
        if self._said:
            return False
        if not self._ended:
            self.abort()
        return self._ended

    def connection_lost(self, exc: Exception | None) -> None:
        self._clear_timer()
        self._raw = None
        self._closing = True
        above, self._above = self._above, None
        if above is not None:
            above.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._above is not None:
            self._above.pause_writing()

    def resume_writing(self) -> None:
        if self._above is not None:
            self._above.resume_writing()

    # -- the state machine -------------------------------------------------------------------------

    def _handshake(self) -> bool:
        """True when it is done."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except ssl.SSLError as error:
            self._flush()  # the alert
            self._fail(error.reason or str(error))
            return False
        self._flush()
        self._clear_timer()
        self._above = self._factory()
        self._above.connection_made(self)
        return True

    def _fail(self, reason: str) -> None:
        self._report(reason)
        self._clear_timer()
        self._closing = True
        if self._raw is not None:
            self._raw.close()

    def _read(self) -> None:
        """Pass on what is there, as long as it is wanted."""
        while self._above is not None and not (self._paused or self._ended or self._said):
            try:
                data = self._tls.read(_READ)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLError:
                self.abort()
                return
            if data:
                self._above.data_received(data)
            else:
                self._ended = True
                if not self._above.eof_received():
                    self.close()
        self._flush()

    def _flush(self) -> None:
        if self._raw is not None and self._out.pending:
            self._raw.write(self._out.read())

    def _clear_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- the transport of the protocol above -------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._raw is None or self._closing or not data:
            return
        try:
            self._tls.write(data)
        except ssl.SSLError:
            self.abort()
            return
        self._flush()

    def _say_end(self) -> None:
        """Send ``close_notify``; the other side's may come later or never.

        OpenSSL takes no more data from now on, so nobody gets to see any.
        """
        self._said = True
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass  # it has not come yet, or there is no session to end
        self._flush()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """The protocol above has said everything, and wants to hear nothing more."""
        if self._raw is not None and not self._closing:
            self._say_end()

    def close(self) -> None:
        if self._raw is not None and not self._closing:
            self._say_end()
            self._closing = True
            self._raw.close()

    def abort(self) -> None:
        self._closing = True
        if self._raw is not None:
            self._raw.abort()

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._paused = True
        if self._raw is not None:
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            if self._raw is not None:
                self._raw.resume_reading()
            self._loop.call_soon(self._read)

    def is_reading(self) -> bool:
        return not self._paused

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._above = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self._above is not None
        return self._above

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if self._raw is not None:
            self._raw.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._raw.get_write_buffer_size() if self._raw is not None else 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """``ssl_object`` here, and the raw transport's own but for its ``socket``: who wrote to
        that would write past the encryption.
        """
        if name == "ssl_object":
            return self._tls
        if name == "socket" or self._raw is None:
            return default
        return self._raw.get_extra_info(name, default)
