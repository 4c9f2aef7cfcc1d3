"""HTTP requests over a pool of connections, through a proxy where one is set.

``Pool.send`` is one exchange: no redirects, no authentication, nothing tried again but a small
request on a kept connection that the other end closed meanwhile. Every wait has a deadline
(docs/registry.md): to connect, to the head of the answer, and for the least that must move in a
minute.
"""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

from sampan import __version__
from sampan.errors import SampanError
from sampan.registry.client.connection import Connection
from sampan.registry.client.errors import NoConnection, NotHttp, Transient, UnknownHost
from sampan.registry.client.urls import parse_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Mapping

    from sampan.registry.client.connection import Head
    from sampan.registry.client.proxies import Proxies
    from sampan.registry.client.tls import Trust
    from sampan.registry.client.urls import Url

__all__ = ["Body", "Deadlines", "Pool", "Response"]

_IDLE_SECONDS = 30.0
_IDLE_CONNECTIONS = 8
_SMALL = range(4 << 20)
_EAI_NODATA = -5  # glibc's netdb.h: the name has no address; musl says EAI_NONAME
USER_AGENT = f"Sampan/{__version__}"


class Deadlines(NamedTuple):
    """Seconds; ``least`` is the bytes that must move in ``quiet`` seconds."""

    connect: float = 30.0
    head: float = 60.0
    quiet: float = 60.0
    least: int = 1024


def _unresolved(where: str, host: str, error: OSError | UnicodeError) -> NoConnection:
    """getaddrinfo(3): that there is no such name is final, that nobody says so now is not.

    A name that cannot be one (a label of more than 63 bytes, an empty one) Python does not ask for.
    """
    if isinstance(error, UnicodeError) or error.errno in (socket.EAI_NONAME, _EAI_NODATA):
        return UnknownHost(f"{where}: lookup {host}: no such host")
    return NoConnection(f"{where}: lookup {host}: {(error.strerror or str(error)).lower()}")


class Body(Protocol):
    """What a request carries: its length, and its pieces, each time from the beginning."""

    @property
    def length(self) -> int | None:
        """Bytes, or None where nobody knows before the end."""

    def pieces(self) -> AsyncIterator[bytes | memoryview]: ...


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self.length = len(data)
        self._data = data

    async def pieces(self) -> AsyncIterator[bytes | memoryview]:
        if self._data:
            yield self._data


class Response:
    """An answer whose body is still to be read."""

    def __init__(self, url: Url, head: Head, connection: Connection, deadlines: Deadlines) -> None:
        self.url = url
        self.head = head
        self._connection = connection
        self._deadlines = deadlines
        self.complete = False

    @property
    def status(self) -> int:
        return self.head.status

    @property
    def length(self) -> int | None:
        """Content-Length; None without one."""
        text = self.head.fields.get("content-length", "")
        return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises Transient where it ends early or (nearly) stands still."""
        loop = asyncio.get_running_loop()
        quiet, least = self._deadlines.quiet, self._deadlines.least
        seen, deadline = 0, loop.time() + quiet
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    piece = await self._connection.read()
            except TimeoutError as error:
                raise Transient(
                    f"{self.url.shown}: less than {least} bytes in {quiet:g} seconds"
                ) from error
            if not piece:
                self.complete = True
                return
            yield piece
            seen += len(piece)
            if seen >= least:
                seen, deadline = 0, loop.time() + quiet

    async def read(self, limit: int, *, cut: bool = False) -> bytes:
        """All of a small body; more than ``limit`` is an error, or is left out with ``cut``."""
        parts: list[bytes] = []
        size = 0
        async for piece in self.pieces():
            parts.append(piece)
            size += len(piece)
            if size > limit:
                if cut:
                    break
                raise SampanError(
                    f"{self.url.shown}: the answer is larger than {limit} bytes: refused"
                )
        return b"".join(parts)[:limit]


class Pool:
    """Connections by where they lead to."""

    def __init__(self, trust: Trust, proxies: Proxies, deadlines: Deadlines | None = None) -> None:
        self._trust = trust
        self._proxies = proxies
        self.deadlines = deadlines or Deadlines()
        self._idle: dict[tuple[object, ...], list[tuple[Connection, float]]] = {}

    def close(self) -> None:
        for kept in self._idle.values():
            for connection, _ in kept:
                connection.close()
        self._idle.clear()

    @asynccontextmanager
    async def send(
        self,
        method: str,
        url: Url,
        fields: Mapping[str, str] | None = None,
        body: Body | bytes | None = None,
        *,
        verify: bool = True,
    ) -> AsyncIterator[Response]:
        """One exchange; the answer is valid inside the ``async with``.

        ``verify`` False accepts any certificate. Raises NoConnection, NotHttp, Transient.
        """
        carried = _Bytes(body) if isinstance(body, bytes) else body
        key = (*url.origin, verify)
        while True:
            connection, used = self._take(key), True
            if connection is None:
                connection, used = await self._connect(url, verify), False
            try:
                head = await self._exchange(connection, method, url, fields or {}, carried)
            except Transient:
                connection.close()
                if not used or (carried is not None and carried.length not in _SMALL):
                    raise
                continue  # a kept connection that had been closed says nothing of the server
            except BaseException:
                connection.close()
                raise
            break
        response = Response(url, head, connection, self.deadlines)
        try:
            yield response
        except BaseException:
            connection.close()
            raise
        if method == "HEAD":
            response.complete = True
        if response.complete:
            connection.finish()
            self._keep(key, connection)
        else:
            connection.close()

    def _take(self, key: tuple[object, ...]) -> Connection | None:
        kept = self._idle.get(key, [])
        now = asyncio.get_running_loop().time()
        while kept:
            connection, since = kept.pop()
            if connection.reusable and now - since < _IDLE_SECONDS:
                return connection
            connection.close()
        return None

    def _keep(self, key: tuple[object, ...], connection: Connection) -> None:
        kept = self._idle.setdefault(key, [])
        if connection.reusable and len(kept) < _IDLE_CONNECTIONS:
            kept.append((connection, asyncio.get_running_loop().time()))
        else:
            connection.close()

    # -- connecting ----------------------------------------------------------------------------

    async def _connect(self, url: Url, verify: bool) -> Connection:
        proxy = self._proxies.find(*url.origin)
        where = f"{url.scheme}://{url.authority}"
        if proxy:
            where += f" (by way of proxy {parse_url(proxy).authority})"
        try:
            async with asyncio.timeout(self.deadlines.connect):
                if not proxy:
                    return await self._direct(url, url.host, url.port, verify)
                return await self._through(parse_url(proxy), url, verify)
        except TimeoutError as error:
            raise NoConnection(
                f"{where}: no connection within {self.deadlines.connect:g} seconds"
            ) from error
        except ssl.SSLCertVerificationError as error:
            raise SampanError(
                f"{where}: tls: failed to verify certificate: {error.verify_message}"
            ) from error
        except ssl.SSLError as error:
            words = error.reason or str(error)
            if "WRONG_VERSION_NUMBER" in words or "HTTP" in words:
                words = "http: server gave HTTP response to HTTPS client"
            raise NotHttp(f"{where}: {words}") from error
        except (socket.gaierror, UnicodeError) as error:
            raise _unresolved(where, parse_url(proxy).host if proxy else url.host, error) from error
        except OSError as error:
            reason = os.strerror(error.errno).lower() if error.errno else str(error)
            raise NoConnection(f"{where}: connect: {reason}") from error

    async def _direct(self, url: Url, host: str, port: int, verify: bool) -> Connection:
        loop = asyncio.get_running_loop()
        where = f"{url.scheme}://{url.authority}"
        secure = url.scheme == "https"
        _, connection = await loop.create_connection(
            lambda: Connection(where),
            host,
            port,
            ssl=self._trust.context(url.authority, verify=verify) if secure else None,
            server_hostname=url.host if secure else None,
        )
        return connection

    async def _through(self, proxy: Url, url: Url, verify: bool) -> Connection:
        """By way of a proxy: a tunnel for https (RFC 9110, 9.3.6), else its own connection."""
        connection = await self._direct(proxy, proxy.host, proxy.port, True)
        if url.scheme == "http":
            return connection
        tunnel = f"{url.host}:{url.port}" if ":" not in url.host else f"[{url.host}]:{url.port}"
        lines = [f"CONNECT {tunnel} HTTP/1.1", f"Host: {tunnel}", *self._proxy_fields(url)]
        head = connection.begin("CONNECT")
        await connection.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        answer = await head
        if answer.status != 200 or connection.transport is None:
            connection.close()
            raise NoConnection(f"proxy {proxy.shown}: {answer.status} {answer.reason}")
        loop = asyncio.get_running_loop()
        secured = Connection(f"{url.scheme}://{url.authority}")
        transport = await loop.start_tls(
            connection.transport,
            secured,
            self._trust.context(url.authority, verify=verify),
            server_hostname=url.host,
        )
        assert transport is not None
        secured.connection_made(transport)
        return secured

    def _proxy_fields(self, url: Url) -> list[str]:
        """The proxy's own credentials, from its address's ``user:password@``."""
        parts = urlsplit(self._proxies.find(*url.origin))
        if not parts.username:
            return []
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        return [f"Proxy-Authorization: Basic {base64.b64encode(pair.encode()).decode()}"]

    # -- an exchange ---------------------------------------------------------------------------

    async def _exchange(
        self,
        connection: Connection,
        method: str,
        url: Url,
        fields: Mapping[str, str],
        body: Body | None,
    ) -> Head:
        proxied = url.scheme == "http" and bool(self._proxies.find(*url.origin))
        lines = [f"{method} {url if proxied else url.target} HTTP/1.1", f"Host: {url.authority}"]
        lines += [f"User-Agent: {USER_AGENT}", "Accept-Encoding: identity"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        if proxied:
            lines += self._proxy_fields(url)
        chunked = body is not None and body.length is None
        if chunked:
            lines.append("Transfer-Encoding: chunked")
        elif body is not None or method in ("POST", "PUT", "PATCH"):
            lines.append(f"Content-Length: {body.length if body is not None else 0}")
        head = connection.begin(method)
        try:
            await self._timely(
                connection.write("\r\n".join([*lines, "", ""]).encode("latin-1")), url
            )
            if body is not None:
                await self._send_body(connection, body, chunked, head, url)
            async with asyncio.timeout(self.deadlines.head):
                return await asyncio.shield(head)
        except TimeoutError as error:
            raise Transient(
                f"{url.shown}: no answer within {self.deadlines.head:g} seconds"
            ) from error
        except Transient:
            if head.done() and head.exception() is None:
                return head.result()  # it answered before it hung up on our body
            raise
        finally:
            head.cancel()
            if not head.cancelled():
                head.exception()  # seen, or asyncio reports it as an error nobody took

    async def _send_body(
        self,
        connection: Connection,
        body: Body,
        chunked: bool,
        head: asyncio.Future[Head],
        url: Url,
    ) -> None:
        async for piece in body.pieces():
            if head.done():
                break  # an answer before the end is a refusal: the rest interests nobody
            if chunked:
                piece = b"%x\r\n%b\r\n" % (len(piece), bytes(piece))  # noqa: PLW2901 - framed
            await self._timely(connection.write(piece), url)
        else:
            if chunked:
                await self._timely(connection.write(b"0\r\n\r\n"), url)
            return
        connection.stop_reuse()

    async def _timely(self, sending: Coroutine[object, object, None], url: Url) -> None:
        try:
            async with asyncio.timeout(self.deadlines.quiet):
                await sending
        except TimeoutError as error:
            raise Transient(
                f"{url.shown}: nothing taken in {self.deadlines.quiet:g} seconds"
            ) from error
