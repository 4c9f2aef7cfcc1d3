"""What the registry listens on, and whom it lets in: made at the start, and again on SIGHUP."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from sampan.engine.log import log
from sampan.errors import InvalidArgument, KernelError, SampanError

if TYPE_CHECKING:
    import asyncio
    import ssl
    from collections.abc import Callable

    from sampan.api.distribution.access import Elsewhere, Gate
    from sampan.api.distribution.server import DistributionServer
    from sampan.daemon.registry.options import Issuer, Listen, Options, Tls
    from sampan.registry.server.place import Place

__all__ = ["Doors", "gate"]

_BACKLOG = 1024


class Doors:
    """Listeners of one server; ``close`` ends them, and not their connections."""

    def __init__(self, options: Options, place: Place, server: DistributionServer) -> None:
        self._options = options
        self._place = place
        self._server = server
        self._listeners: list[asyncio.Server] = []
        self._context: ssl.SSLContext | None = None

    async def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Raises InvalidArgument, KernelError."""
        options = self._options
        factory: Callable[[], asyncio.Protocol] = self._server
        if options.tls is not None:
            factory = self._secured(loop, options.tls)
        elif options.login is not None:
            log.warn("passwords travel in the clear: give --tls-cert and --tls-key, or a proxy")
        for listen in options.listen:
            await self._listen(loop, listen, factory, "listening")
        if options.metrics is not None:
            from sampan.daemon.registry.metrics import Metrics

            metrics = Metrics(self._place)
            self._server.observer = metrics.observe
            if self._server.cache is not None:
                metrics.more = self._server.cache.counts.all
            await self._listen(loop, options.metrics, metrics.server(), "serving metrics")

    async def _listen(
        self,
        loop: asyncio.AbstractEventLoop,
        listen: Listen,
        factory: Callable[[], asyncio.Protocol],
        what: str,
    ) -> None:
        for sock in _bind(listen):
            listener = await loop.create_server(factory, sock=sock, backlog=_BACKLOG)
            self._listeners.append(listener)
            name = sock.getsockname()
            host = f"[{name[0]}]" if ":" in name[0] else name[0]
            log.info(what, address=f"{host}:{name[1]}", root=self._place.root)

    def _secured(self, loop: asyncio.AbstractEventLoop, tls: Tls) -> Callable[[], asyncio.Protocol]:
        from sampan.api.http.tls import Tls as Connection

        self._context = _context(tls)

        def refused(reason: str) -> None:
            log.debug("a TLS client was refused", reason=reason)

        def connection() -> asyncio.Protocol:
            assert self._context is not None
            return Connection(self._server, self._context, loop, refused)

        return connection

    def reload(self) -> None:
        """Certificates, accounts, rules and the policy anew, for whoever comes from now on.

        What is wrong with them is logged, and those we had stay.
        """
        from sampan.registry.server.policy.policy import read_policy

        options = self._options
        if self._server.audit_log is not None:
            try:
                self._server.audit_log.reopen()
                log.info("audit log reopened", path=options.audit_log)
            except SampanError as error:
                log.error("the audit log stays where it was", error=error.message)
        try:
            context = _context(options.tls) if options.tls is not None else None
            fresh = gate(options, self._place)
            policy = read_policy(options.policy) if options.policy else None
            self._renew_cache(options)
        except SampanError as error:
            log.error("certificates and accounts stay as they were", error=error.message)
            return
        if policy is not None:
            self._place.policy = policy
        self._context = context
        self._server.gate = fresh
        log.info("certificates and accounts reloaded")

    def _renew_cache(self, options: Options) -> None:
        """Raises InvalidArgument."""
        cache = self._server.cache
        if cache is not None and options.proxy is not None and options.credentials:
            from sampan.registry.cache.settings import read_credentials

            cache.renew(read_credentials(options.credentials))

    def close(self) -> None:
        for listener in self._listeners:
            listener.close()


def _elsewhere(issuer: Issuer) -> Elsewhere:
    """Raises InvalidArgument."""
    from sampan.api.distribution.access import Elsewhere
    from sampan.registry.server.access.foreign import Foreign
    from sampan.registry.server.access.keys import read_keys

    keys = read_keys(issuer.keys)
    for what in keys.ignored:
        log.warn("a key is ignored", path=issuer.keys, why=what)
    log.info("tokens are taken", issuer=issuer.name, keys=", ".join(keys.named))
    return Elsewhere(Foreign(keys, issuer.name, issuer.service), issuer.realm, issuer.service)


def gate(options: Options, place: Place) -> Gate | None:
    """None where everybody may do everything. Raises InvalidArgument."""
    login = options.login
    if login is None:
        return None
    from sampan.api.distribution.access import Gate
    from sampan.registry.server.access.accounts import read_accounts
    from sampan.registry.server.access.rules import read_rules, simple_rules
    from sampan.registry.server.access.tokens import SERVICE, Tokens

    rules = (
        read_rules(login.rules)
        if login.rules
        else simple_rules(anonymous_pull=login.anonymous_pull)
    )
    return Gate(
        read_accounts(login.accounts) if login.accounts else None,
        rules,
        Tokens(place.token_key(), SERVICE, place.clock),
        bearer=login.bearer,
        public_url=login.public_url,
        elsewhere=_elsewhere(login.issuer) if login.issuer is not None else None,
        home=options.proxy.home if options.proxy is not None else str,
    )


def _context(tls: Tls) -> ssl.SSLContext:
    from sampan.api.http.tls import server_context

    try:
        return server_context(tls.certificate, tls.key, tls.client_ca or None)
    except OSError as error:
        files = [tls.certificate, tls.key, *([tls.client_ca] if tls.client_ca else [])]
        raise InvalidArgument(f"TLS with {', '.join(files)}: {error}") from error


def _bind(listen: Listen) -> list[socket.socket]:
    """A socket for each address that the host has. Raises InvalidArgument, KernelError."""
    try:
        found = socket.getaddrinfo(
            listen.host or None,
            listen.port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )
    except socket.gaierror as error:
        raise InvalidArgument(f"--listen {listen}: {error.strerror}") from error
    sockets: list[socket.socket] = []
    for family, kind, protocol, _, address in found:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
            sock.listen(_BACKLOG)
        except OSError as error:
            for one in (sock, *sockets):
                one.close()
            raise KernelError("bind", error.errno or 0, str(listen)) from error
        sockets.append(sock)
    return sockets
