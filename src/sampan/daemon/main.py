"""``sampan daemon``: from the command line to the last goodbye.

The order matters: arguments; the zygote, before anything secret is read; the state, under its
lock; what an earlier daemon left; and only then the sockets, so that whoever connects finds
everything in place. SIGTERM and SIGINT end the daemon and not its containers; SIGKILL does too.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

from sampan.daemon import lean
from sampan.engine.log import log
from sampan.errors import PermissionDenied, SampanError
from sampan.kernel.processes import set_process_name
from sampan.runtime.supervisor.client import start_zygote

if TYPE_CHECKING:
    from sampan.daemon.options import Options
    from sampan.runtime.supervisor.client import Zygote

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Run until told to stop; the exit code."""
    with lean.OPTIONAL:
        from sampan.daemon.options import parse
    try:
        options = parse(sys.argv[1:] if argv is None else argv)
        log.set_level(options.log_level)
        if os.geteuid() != 0:
            raise PermissionDenied("the daemon needs root: run it with sudo")
        set_process_name("sampan-daemon")
        os.umask(0o022)
        return _run(options, start_zygote())
    except SampanError as error:
        log.error(error.message)
        return 1


def _run(options: Options, zygote: Zygote) -> int:
    # Imported behind the zygote's start, so that it gets ready while we do.
    with lean.OPTIONAL:
        import asyncio

        import sampan.api.docker.server
        import sampan.engine.core  # noqa: F401 - loaded for _serve
    try:
        asyncio.run(_serve(options, zygote))
    except KeyboardInterrupt:
        log.debug("interrupted")
    return 0


async def _serve(options: Options, zygote: Zygote) -> None:
    import asyncio

    from sampan.api.docker.server import ApiServer
    from sampan.daemon import sockets
    from sampan.engine.core import Engine, Settings

    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    engine = Engine(
        Settings(
            data_root=options.data_root,
            exec_root=options.exec_root,
            storage_driver=options.storage_driver,
            cgroup_parent=options.cgroup_parent,
        ),
        zygote,
    )
    await engine.start()
    server = ApiServer(engine)
    listeners: list[asyncio.Server] = []
    try:
        for address in options.hosts:
            sock = sockets.bind(address, options.group)
            listeners.append(
                await (
                    loop.create_unix_server(server, sock=sock)
                    if address.path
                    else loop.create_server(server, sock=sock)
                )
            )
            log.info("listening", address=address)
        sockets.write_pidfile(options.pidfile)
        lean.settle()
        sockets.notify("READY=1")
        await stopping.wait()
        log.info("stopping; containers live on")
        sockets.notify("STOPPING=1")
    finally:
        for address, listener in zip(options.hosts, listeners, strict=False):
            listener.close()
            if address.path:
                _unlink(address.path)
        await server.shutdown(timeout=1.0)
        await engine.stop()
        sockets.remove_pidfile(options.pidfile)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
