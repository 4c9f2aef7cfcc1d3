"""Names of user-defined networks: what the resolver is told, and when.

What it knows is a function of the rows. An endpoint's names are told before whoever has it is
made, and its sockets are there before its command runs; both go at its end, the sockets by the
resolver's own look at the container's process. A resolver that died is started again and told
everything; one that an earlier daemon started is taken up. docs/network.md, "The resolver".
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any

from sampan.engine import files
from sampan.engine.config import read_link
from sampan.engine.log import log
from sampan.errors import KernelError, NotFound, SampanError, Unavailable
from sampan.kernel.processes import pidfd_open, start_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sampan.engine.core import Engine
    from sampan.engine.live import Live
    from sampan.network.networks import Networks
    from sampan.network.resolver.client import Resolver
    from sampan.network.types import Endpoint

__all__ = ["Resolving"]


class Resolving:
    """The resolver as one engine uses it."""

    def __init__(self, engine: Engine, networks: Networks) -> None:
        self._engine = engine
        self._networks = networks
        self._resolver: Resolver | None = None
        self._process = 0  # the resolver's PID
        self._watched: set[int] = set()  # PIDs, until they have ended
        self._lock = asyncio.Lock()

    # -- a container's life --------------------------------------------------------------------

    def uses(self, live: Live) -> bool:
        """Whether a container has an endpoint on a user-defined network."""
        return bool(self._named(live))

    async def prepare(self, live: Live) -> None:
        """Before the container is made: its names are known, its resolv.conf says who knows."""
        named = self._named(live)
        if not named:
            return
        text = files.resolv_conf_inside(live.record.host_config)
        files.write_file(f"{self._engine.directory(live.id)}/resolv.conf", text)
        for endpoint in named:
            await self._tell({"op": "endpoint", **self._endpoint(live, endpoint)})

    async def serve(self, live: Live) -> None:
        """Once it is made, and before its command runs."""
        async with self._lock:
            await self._open()
            await asyncio.to_thread(self._serve, live)

    async def rename(self, live: Live) -> None:
        """It is known by its new name from now on."""
        for endpoint in self._named(live):
            await self._tell({"op": "endpoint", **self._endpoint(live, endpoint)})

    async def moved(self, live: Live, *, new: bool) -> None:
        """It came onto a network as it runs, or left one: everything is told anew, and who is
        ``new`` to it gets sockets, and a resolv.conf that says so."""
        if new and self._named(live):
            text = files.resolv_conf_inside(live.record.host_config)
            files.write_file(f"{self._engine.directory(live.id)}/resolv.conf", text)
        async with self._lock:
            self._drop()
            if any(self.uses(one) for one in self._engine.registry):
                await self._open()

    def release(self, endpoints: Iterable[Endpoint]) -> None:
        """After an end."""
        gone = [one for one in endpoints if self._is_named(one)]
        if gone:
            # Its sockets are closed by the resolver, and may be those of its next run already. One
            # that is being told everything may have been told of it too.
            message = {"op": "forget", "endpoints": [one.id for one in gone]}
            self._engine.spawn_task(self._forget(message))

    async def recover(self) -> None:
        """After a daemon's end: who runs is served, by the resolver that was there or another."""
        if any(self.uses(live) for live in self._engine.registry):
            async with self._lock:
                await self._open()

    async def close(self) -> None:
        """It goes on without us for those who run; nobody finds one that has nobody to serve."""
        async with self._lock:
            self._drop()
            if not any(self.uses(live) for live in self._engine.registry):
                from sampan.network.resolver.client import SOCKET_NAME

                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{self._engine.settings.exec_root}/{SOCKET_NAME}")

    # -- what is told --------------------------------------------------------------------------

    def _is_named(self, endpoint: Endpoint) -> bool:
        try:
            network = self._networks.find(endpoint.network)
        except NotFound:
            return False  # it was removed meanwhile
        return not network.predefined

    def _named(self, live: Live) -> list[Endpoint]:
        return [one for one in self._networks.leases.of(live.id) if self._is_named(one)]

    def _endpoint(self, live: Live, endpoint: Endpoint) -> dict[str, object]:
        network = self._networks.find(endpoint.network)
        record = live.record
        names = [record.name, record.id[:12], *endpoint.wish.aliases]
        if record.config.hostname:
            names.append(record.config.hostname)
        return {
            "id": endpoint.id,
            "container": record.id,
            "network": network.id,
            "names": [*names, *(f"{name}.{network.name}" for name in names)],
            "title": f"{record.name}.{network.name}",
            "addresses": [one for one in (endpoint.address4, endpoint.address6) if one],
        }

    def _client(self, live: Live) -> dict[str, object]:
        host = live.record.host_config
        networks = [self._networks.find(one.network) for one in self._networks.leases.of(live.id)]
        # Servers of its own are asked from its network, which leads there or does not.
        servers: list[str] | None = list(host.dns) or None
        if servers is None and all(network.internal for network in networks):
            servers = []
        linked: dict[str, dict[str, str]] = {}
        for endpoint in self._named(live):
            network = self._networks.find(endpoint.network)
            known = linked.setdefault(network.id, {})
            for link in endpoint.wish.links:
                # By name: who has it may come later, or be another by then.
                name, alias = read_link(link)
                for title in (alias, f"{alias}.{network.name}"):
                    known.setdefault(title, name)
        return {
            "id": live.id,
            "networks": [network.id for network in networks if not network.predefined],
            "linked": linked,
            "servers": servers,
            "bare": any(option.startswith("ndots:") for option in host.dns_options),
        }

    # -- the process ---------------------------------------------------------------------------

    async def _tell(self, message: Mapping[str, object]) -> None:
        async with self._lock:
            if self._resolver is None:
                await self._open()  # tells everything
                return
            try:
                await asyncio.to_thread(self._resolver.tell, message)
            except Unavailable:
                self._drop()
                await self._open()

    async def _forget(self, message: Mapping[str, object]) -> None:
        async with self._lock:
            if self._resolver is None:
                return
            try:
                await asyncio.to_thread(self._resolver.tell, message)
            except Unavailable:
                self._drop()
            if not any(self.uses(live) for live in self._engine.registry):
                self._drop()  # and it ends

    async def _open(self) -> None:
        """Have a resolver that knows everything. Raises Unavailable, KernelError."""
        if self._resolver is not None:
            return
        lives = [live for live in self._engine.registry if self.uses(live)]
        state = {
            "op": "state",
            "endpoints": [self._endpoint(live, one) for live in lives for one in self._named(live)],
            "clients": [self._client(live) for live in lives],
        }
        resolver, answer = await asyncio.to_thread(self._found, state)
        self._resolver = resolver
        self._watch(answer["pid"])
        lacking = set(answer["lacking"])
        for live in lives:
            if live.id in lacking and live.record.state.running:
                try:
                    await asyncio.to_thread(self._serve, live)
                except SampanError as error:
                    log.warn("a container has no resolver", container=live.id, error=error.message)

    def _found(self, state: Mapping[str, object]) -> tuple[Resolver, Mapping[str, Any]]:
        from sampan.network.resolver import client

        directory = self._engine.settings.exec_root
        try:
            resolver = client.connect(directory)
            try:
                return resolver, resolver.tell(state)
            except Unavailable:
                resolver.close()  # it was about to end
        except NotFound:
            pass
        resolver = client.start(directory)
        return resolver, resolver.tell(state)

    def _serve(self, live: Live) -> None:
        """Its sockets, made in its network namespace. Raises KernelError, Unavailable."""
        resolver = self._resolver
        state = live.record.state
        if resolver is None:
            return
        process = pidfd_open(state.pid)
        try:
            path = f"/proc/{state.pid}/ns/net"
            try:
                namespace = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise KernelError("open", error.errno or 0, path) from error
            try:
                if start_time(state.pid) != state.start_time:
                    raise Unavailable(f"container {live.record.name} has ended")
                resolver.serve(self._client(live), namespace, process)
            finally:
                os.close(namespace)
        finally:
            os.close(process)

    def _watch(self, pid: int) -> None:
        """Once for each process, however often it is told everything."""
        self._process = pid
        if pid not in self._watched:
            process = pidfd_open(pid)
            self._watched.add(pid)
            asyncio.get_running_loop().add_reader(process, self._ended, process, pid)

    def _ended(self, process: int, pid: int) -> None:
        """A process is gone: where it was needed another is started."""
        asyncio.get_running_loop().remove_reader(process)
        self._watched.discard(pid)
        try:
            os.waitid(os.P_PIDFD, process, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            pass  # an earlier daemon's
        os.close(process)
        if self._resolver is not None and self._process == pid:
            self._engine.spawn_task(self._replace(self._resolver))

    async def _replace(self, resolver: Resolver) -> None:
        async with self._lock:
            if self._resolver is not resolver:
                return
            self._drop()
            if any(self.uses(live) for live in self._engine.registry):
                log.warn("the resolver ended; starting another")
                await self._open()

    def _drop(self) -> None:
        """Let go of the connection; the process is watched until it ends."""
        if self._resolver is not None:
            self._resolver.close()
            self._resolver = None
