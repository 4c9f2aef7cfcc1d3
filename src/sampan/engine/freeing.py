"""What has ended is freed behind everybody's back: its links are deleted, then its addresses free.

A link's end waits for the kernel, so one thread does it for all that end at the same time. Links on
a parent have no host's end to delete; they live on in who shares the namespace, and are deleted
there.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from sampan.engine.log import log
from sampan.errors import KernelError, SampanError
from sampan.kernel.processes import start_time
from sampan.network import parents

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from sampan.engine.container import ContainerRecord
    from sampan.engine.core import Engine
    from sampan.network.networks import Networks
    from sampan.network.types import Endpoint

__all__ = ["Freeing", "namespace_of"]


def namespace_of(record: ContainerRecord) -> int | None:
    """A descriptor of a running container's network namespace, None when it is over. The process
    is the one we think of: what has its number now began when it did."""
    state = record.state
    try:
        namespace = os.open(f"/proc/{state.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if start_time(state.pid) == state.start_time:
            return namespace
    except KernelError:
        pass  # it ended between the two
    os.close(namespace)
    return None


class Freeing:
    """One engine's."""

    def __init__(self, engine: Engine, networks: Networks) -> None:
        self._engine = engine
        self._networks = networks
        self._gone: list[Endpoint] = []
        self._shared: list[int] = []
        self._running: asyncio.Task[None] | None = None

    def begin(self, container_id: str, left: Sequence[Endpoint]) -> None:
        """A run is over: ``left`` are the endpoints it had."""
        if any(self._networks.ways.on_parent(one) for one in left):
            self._shared += [guest for guest in self._guests(container_id) if guest is not None]
        self._gone += left
        if self._gone and (self._running is None or self._running.done()):
            self._running = asyncio.get_running_loop().create_task(self._free())

    async def settle(self) -> None:
        """Wait until what has ended is freed."""
        if self._running is not None:
            await asyncio.shield(self._running)  # who waits may be cancelled, and not this

    def recover(self, running: Mapping[str, Collection[str]]) -> None:
        """Links on parents that a daemon died before it deleted them: before their addresses are
        free. ``running``: containers, and their networks."""
        if not any(network.driver in parents.KINDS for network in self._networks):
            return
        for live in self._engine.registry:
            record = live.record
            kind, _, owner = record.host_config.network_mode.partition(":")
            if live.id not in running or (kind == "container" and owner in running):
                continue
            namespace = namespace_of(record) if kind != "host" else None
            if namespace is not None:
                of = self._networks.leases.of(live.id)
                keep = {one.host for one in of if one.network in running[live.id]}
                _sweep([namespace], keep)

    async def _free(self) -> None:
        while self._gone:
            gone, self._gone = self._gone, []
            shared, self._shared = self._shared, []
            try:
                await asyncio.to_thread(_sweep, shared, ())
                await asyncio.to_thread(self._networks.free, gone)
            except SampanError as error:
                # The next daemon frees them.
                log.error("links cannot be deleted", error=error.message)

    def _guests(self, container_id: str) -> Iterator[int | None]:
        """Namespaces of containers in the network of another."""
        for live in self._engine.registry:
            if live.record.host_config.network_mode == f"container:{container_id}":
                yield namespace_of(live.record)


def _sweep(namespaces: Sequence[int], keep: Collection[str]) -> None:
    """See ``parents.sweep``; the descriptors are closed."""
    for namespace in namespaces:
        try:
            parents.sweep(namespace, keep)
        finally:
            os.close(namespace)
