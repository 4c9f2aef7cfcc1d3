"""The daemon's doors: from addresses to servers that listen, with TLS where it was asked for."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from sampan.api.http.local import LocalListener
from sampan.daemon import sockets
from sampan.daemon.options import Address, unprotected
from sampan.daemon.sockets import BACKLOG
from sampan.engine.log import log
from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    import asyncio
    import ssl
    from collections.abc import Callable

    from sampan.daemon.options import Options, Tls
    from sampan.daemon.service import Manager

__all__ = ["Doors"]


class Doors:
    """Everything a daemon listens on; ``close`` ends it, and removes sockets that we made."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._servers: list[asyncio.Server | LocalListener] = []
        self._paths: list[str] = []
        self._tls: Tls | None = None
        self._context: ssl.SSLContext | None = None

    async def open(
        self, options: Options, manager: Manager, server: Callable[[], asyncio.Protocol]
    ) -> None:
        """Listen on every address. Raises InvalidArgument, Conflict, KernelError."""
        secure = self._secured(options.tls, server) if options.tls is not None else None
        for address in options.hosts:
            if address.fd:
                found = manager.sockets(address)
            else:
                found = [sockets.bind(address, options.group)]
                if address.path:
                    self._paths.append(address.path)
            for sock in found:
                local = sock.family == socket.AF_UNIX
                if not local and not options.tcp_allowed:
                    raise InvalidArgument(unprotected(f"-H {address}"))
                await self._listen(sock, server if local else secure or server)
                name = sock.getsockname()
                where = f"unix://{name}" if local else Address(host=name[0], port=name[1])
                if address.path:
                    where = str(address)  # it was bound by another name
                log.info("listening", address=where, tls=not local and secure is not None)

    def _secured(
        self, tls: Tls, server: Callable[[], asyncio.Protocol]
    ) -> Callable[[], asyncio.Protocol]:
        # OpenSSL is 2 MB of a daemon: only of those that serve TLS.
        from sampan.api.http.tls import Tls as Connection

        self._tls, self._context = tls, _context(tls)

        def refused(reason: str) -> None:
            log.debug("a TLS client was refused", reason=reason)

        def connection() -> asyncio.Protocol:
            assert self._context is not None
            return Connection(server, self._context, self._loop, refused)

        return connection

    def reload(self) -> None:
        """Read the certificates again, for whoever connects from now on.

        What is wrong with them is logged, and those we had stay: a renewal puts two files there,
        one after the other.
        """
        if self._tls is None:
            return
        try:
            self._context = _context(self._tls)
        except InvalidArgument as error:
            log.error("the certificates stay as they were", error=error.message)

    async def _listen(self, sock: socket.socket, factory: Callable[[], asyncio.Protocol]) -> None:
        if sock.family == socket.AF_UNIX:
            sock.listen(BACKLOG)
            self._servers.append(LocalListener(self._loop, sock, factory, _report))
            return
        # To asyncio a backlog is also how often it tries to accept at once; mostly one has come.
        self._servers.append(await self._loop.create_server(factory, sock=sock, backlog=1))
        sock.listen(BACKLOG)

    async def also(self, address: Address, factory: Callable[[], asyncio.Protocol]) -> None:
        """Listen at one more TCP address, for something else."""
        await self._listen(sockets.bind(address, ""), factory)
        log.info("serving metrics", address=address)

    def close(self) -> None:
        for listener in self._servers:
            listener.close()
        for path in self._paths:
            try:
                os.unlink(path)
            except FileNotFoundError:
                continue


def _report(error: OSError) -> None:
    log.error("no connection can be accepted for a moment", error=error)


def _context(tls: Tls) -> ssl.SSLContext:
    from sampan.api.http.tls import server_context

    try:
        return server_context(tls.certificate, tls.key, tls.ca if tls.verify else None)
    except OSError as error:
        files = [tls.certificate, tls.key, *([tls.ca] if tls.verify else [])]
        raise InvalidArgument(f"TLS with {', '.join(files)}: {error}") from error
