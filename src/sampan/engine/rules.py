"""The rule set stays as it is: what somebody deletes of our table is built again, at once.

``nft flush ruleset``, which many a machine's own rules begin with, takes everybody's tables. The
kernel tells of it (``nftables.Watch``), and names the program; nobody polls. Who deletes our table
again and again is told so and waited for.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sampan.engine.log import log
from sampan.errors import KernelError, SampanError
from sampan.kernel.nftables import Watch

if TYPE_CHECKING:
    from sampan.engine.core import Engine
    from sampan.network.networks import Networks

__all__ = ["RuleWatch"]

_MOST, _WITHIN = 10, 10.0
"""So often within so many seconds our table is built again."""


class RuleWatch:
    """One engine's look at its table, from its first bridge on."""

    def __init__(self, engine: Engine, networks: Networks) -> None:
        self._engine = engine
        self._networks = networks
        self._watch: Watch | None = None
        self._deleted: list[str] = []
        self._mending: asyncio.Task[None] | None = None
        self._times: list[float] = []

    def begin(self) -> None:
        """Where there are rules and nobody watches yet."""
        firewall = self._networks.firewall
        if self._watch is not None or firewall is None or not self._networks.has_rules:
            return
        try:
            self._watch = Watch(firewall.table, firewall.port)
        except KernelError as error:
            # The next start looks whether the table is there.
            log.warn("nobody tells of changed rules", error=error.message)
            return
        asyncio.get_running_loop().add_reader(self._watch.fileno(), self._readable)

    def close(self) -> None:
        """Before the table is taken down."""
        if self._watch is not None:
            asyncio.get_running_loop().remove_reader(self._watch.fileno())
            self._watch.close()
            self._watch = None

    def _readable(self) -> None:
        if self._watch is None:
            return
        self._deleted += self._watch.read()
        if self._deleted and (self._mending is None or self._mending.done()):
            self._mending = self._engine.spawn_task(self._mend())

    async def _mend(self) -> None:
        loop = asyncio.get_running_loop()
        while self._deleted:
            who = self._deleted[-1]
            self._deleted.clear()
            now = loop.time()
            self._times = [one for one in self._times if now - one < _WITHIN]
            if len(self._times) >= _MOST:
                log.error("our rules are deleted again and again", by=who)
                await asyncio.sleep(_WITHIN)
            self._times.append(loop.time())
            try:
                if await asyncio.to_thread(self._networks.mend, sure=who != "?"):
                    log.warn("our rules were deleted, and are there again", by=who)
            except SampanError as error:
                log.error("our rules were deleted", by=who, error=error.message)
