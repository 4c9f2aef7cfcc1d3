"""``sampan daemon``: from the command line to the last goodbye.

The order matters: arguments and configuration; what the service manager handed us; the zygote,
before anything secret is read; the state, under its lock; what an earlier daemon left; and only
then the sockets, so that whoever connects finds everything in place. SIGTERM and SIGINT end the
daemon and not its containers; SIGKILL does too.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
import sys
from typing import TYPE_CHECKING

from sampan.daemon import lean
from sampan.engine.log import log
from sampan.errors import PermissionDenied, SampanError
from sampan.kernel.footprint import use_one_heap
from sampan.kernel.processes import set_process_name
from sampan.runtime.supervisor.client import start_zygote

if TYPE_CHECKING:
    from sampan.daemon.configuration import Given
    from sampan.daemon.options import Options
    from sampan.daemon.service import Manager
    from sampan.runtime.supervisor.client import Zygote

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Run until told to stop; the exit code."""
    with lean.IMPORTS:
        from sampan.daemon import configuration, options, service
    try:
        given = configuration.read_arguments(sys.argv[1:] if argv is None else argv)
        if "help" in given.actions:
            print(configuration.usage())
            return 0
        if "version" in given.actions:
            from sampan import __version__

            print(f"Sampan version {__version__}")
            return 0
        chosen = options.resolve(configuration.merge(given))
        if "validate" in given.actions:
            print("configuration OK")
            return 0
        log.set_level(chosen.log_level)
        log.set_format(chosen.log_format)
        if os.geteuid() != 0:
            raise PermissionDenied("the daemon needs root: run it with sudo")
        set_process_name("sampan-daemon")
        use_one_heap()
        os.umask(0o022)
        _raise_descriptors()
        manager = service.take_environment()
        return _run(given, chosen, manager, start_zygote())
    except SampanError as error:
        log.error(error.message)
        return 1


def _raise_descriptors() -> None:
    """A running container takes a descriptor, and shells give programs 1,024 where more is allowed.

    Containers have limits of their own, whatever ours is.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _run(given: Given, options: Options, manager: Manager, zygote: Zygote) -> int:
    # Imported behind the zygote's start, so that it gets ready while we do.
    with lean.IMPORTS:
        import asyncio

        import sampan.api.docker.server
        import sampan.engine.core  # noqa: F401 - loaded for _serve
    try:
        asyncio.run(_serve(given, options, manager, zygote))
    except KeyboardInterrupt:
        log.debug("interrupted")
    return 0


async def _serve(given: Given, options: Options, manager: Manager, zygote: Zygote) -> None:
    import asyncio

    from sampan.api.docker.server import ApiServer
    from sampan.daemon import sockets
    from sampan.daemon.reload import Reloader
    from sampan.daemon.serving import Doors
    from sampan.daemon.signals import Signals
    from sampan.engine.core import Engine

    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    signals = Signals(loop)
    for number in (signal.SIGTERM, signal.SIGINT):
        signals.on(number, stopping.set)
    for number in (signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    engine = Engine(options.settings, zygote)
    await engine.start()
    server = ApiServer(engine)
    reloader = Reloader(given, options, engine)
    doors = Doors(loop)

    def reload() -> None:
        manager.reloading()
        reloader.reload()
        doors.reload()
        manager.tell("READY=1")

    def dump() -> None:
        from sampan.daemon.tasks import dump

        dump(options.settings.exec_root)

    try:
        await doors.open(options, manager, server)
        if options.metrics is not None:
            from sampan.daemon.metrics import Metrics

            metrics = Metrics(engine)
            server.observer = metrics.observe
            await doors.also(options.metrics, metrics.server())
        sockets.write_pidfile(options.pidfile)
        signals.on(signal.SIGHUP, reload)
        signals.on(signal.SIGUSR1, dump)
        faulthandler.register(signal.SIGUSR1, all_threads=True, chain=True)
        lean.settle()
        manager.tell("READY=1", f"MAINPID={os.getpid()}", "STATUS=serving the Engine API")
        manager.keep_alive(loop)
        await stopping.wait()
        log.info("stopping; containers live on")
        manager.tell("STOPPING=1")
    finally:
        manager.close()
        doors.close()
        await server.shutdown(1.0, reloader.options.shutdown_timeout)
        await engine.stop()
        sockets.remove_pidfile(options.pidfile)
        signals.close()
