"""The registry's process: from options to the last goodbye.

The root is opened, which says whether it is ours; what an earlier process left needs nothing done
before serving (docs/registry-server.md); then the sockets. SIGTERM and SIGINT: no new connections,
requests under way are answered, then the end. SIGKILL loses no more than what was not answered; so
where a bucket or a database keeps threads waiting we end without them.
"""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

from sampan.daemon import lean
from sampan.engine.log import log
from sampan.errors import SampanError
from sampan.kernel.footprint import use_one_heap
from sampan.kernel.processes import set_process_name

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from sampan.api.distribution.server import DistributionServer
    from sampan.daemon.registry.options import Options
    from sampan.registry.server.core import Registry

__all__ = ["serve"]

_TEND_SECONDS = 30.0


def serve(options: Options) -> int:
    """Run until told to stop; the exit code. Raises SampanError for what it cannot begin with."""
    log.set_level(options.log_level)
    log.set_format(options.log_format)
    set_process_name("sampan-registry")
    use_one_heap()
    os.umask(0o077)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # asyncio without OpenSSL cannot ask another registry by HTTPS.
    with nullcontext() if options.proxy is not None else lean.IMPORTS:
        import asyncio

        import sampan.api.distribution.server  # noqa: F401 - loaded for _serve
    return asyncio.run(_serve(options))


async def _serve(options: Options) -> int:
    import asyncio

    from sampan.api.distribution.server import DistributionServer
    from sampan.daemon import service
    from sampan.daemon.registry.doors import Doors, gate
    from sampan.registry.server.audit import AuditLog
    from sampan.registry.server.core import Registry
    from sampan.registry.server.place import Place
    from sampan.registry.server.policy.policy import read_policy

    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    manager = service.take_environment()
    lease = options.lease if options.proxy is None else options.proxy.keep
    registry = Registry(Place(options.where, serving=True, lease=lease))
    try:
        place = registry.place
        place.redirect = options.redirect
        server = DistributionServer(
            registry,
            gate=gate(options, place),
            read_only=options.read_only,
        )
        server.access_log = options.access_log
        if options.audit_log:
            server.audit_log = AuditLog(options.audit_log)
        _become_cache(server, options, registry)
        if options.policy:
            place.policy = read_policy(options.policy)
        doors = Doors(options, place, server)
        try:
            await doors.open(loop)
            loop.add_signal_handler(signal.SIGHUP, doors.reload)
            lean.settle()
            manager.tell("READY=1", f"MAINPID={os.getpid()}", "STATUS=serving the registry")
            manager.keep_alive(loop)
            await _tend(server, options, stopping)
            log.info("stopping")
            server.draining = True
            manager.tell("STOPPING=1")
        finally:
            manager.close()
            doors.close()
            await server.shutdown(options.drain, options.drain)
            if server.audit_log is not None:
                server.audit_log.close()
        if server.hanging:
            log.warn("ending, though the storage or the database does not answer")
            os._exit(0)  # whoever would wait for threads would wait for them
    finally:
        registry.close()
    return 0


def _become_cache(server: DistributionServer, options: Options, registry: Registry) -> None:
    """Where that is asked for. Raises Conflict."""
    if options.proxy is None and not registry.place.upstream:
        return
    from sampan.registry.cache.settings import claim

    claim(registry.place, options.proxy.url if options.proxy is not None else "")
    if options.proxy is not None:
        from sampan.registry.cache.cache import Cache

        server.cache = Cache(registry, options.proxy, log)


async def _clean(server: DistributionServer, options: Options) -> None:
    if options.retain:
        await server.retain()
    if options.proxy is not None:
        await server.evict(options.proxy.keep, options.proxy.size)
    await server.collect(options.upload)


async def _tend(server: DistributionServer, options: Options, stopping: asyncio.Event) -> None:
    """Until ``stopping``: what is to be done now and then, each at its interval."""
    import asyncio

    async def every(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except (SampanError, OSError, sqlite3.Error) as error:
                # A full disk, most of all. The next turn may find room.
                log.error("housekeeping failed", error=error)
            await asyncio.sleep(seconds)

    tasks = [asyncio.create_task(every(_TEND_SECONDS, server.tend))]
    if options.collect and not options.read_only:
        tasks.append(asyncio.create_task(every(options.collect, partial(_clean, server, options))))
    until = asyncio.create_task(stopping.wait())
    await asyncio.wait([until, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception):  # a bug: being cancelled is none
            raise outcome
