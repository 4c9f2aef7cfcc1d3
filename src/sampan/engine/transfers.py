"""What pull, push and login share: the carrier, and the rules for registries."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakValueDictionary

from sampan.registry.client.proxies import Proxies
from sampan.registry.policy import Policy
from sampan.registry.types import Credentials

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sampan.engine.core import Engine
    from sampan.oci.reference import Reference
    from sampan.registry.carrier.handle import Carriers
    from sampan.registry.carrier.messages import Event, Request, Where

__all__ = ["Transfers", "short"]

E = TypeVar("E")
_MORE_TURNS = 4


def short(digest: str) -> str:
    """Twelve digits: how clients name a layer."""
    return digest.rpartition(":")[2][:12]


class Transfers:
    """The daemon's way to registries; nothing of it is loaded before it is used."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._carriers: Carriers | None = None
        self._unpacking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        # Those that wait for their bytes cost nothing but a turn.
        self.turns = asyncio.Semaphore(_MORE_TURNS + (os.cpu_count() or 1))
        """For each layer that is being unpacked, whichever it is."""

    def where(self, name: Reference, credentials: Credentials | None) -> Where:
        """A repository, for somebody."""
        from sampan.registry.carrier.messages import Where

        return Where(name.domain, name.path, credentials or Credentials(), self._policy())

    def _policy(self) -> Policy:
        rules = self._engine.settings.transfers
        ambient = Proxies.of(os.environ)
        return Policy(
            mirrors=rules.mirrors,
            insecure=rules.insecure,
            downloads=rules.downloads,
            uploads=rules.uploads,
            attempts=rules.attempts,
            proxies=Proxies(
                rules.http_proxy or ambient.http,
                rules.https_proxy or ambient.https,
                rules.no_proxy or ambient.exempt,
            ),
        )

    async def ask(
        self, request: Request, kind: type[E], heard: Callable[[Event], None] | None = None
    ) -> E:
        """As ``Carriers.ask``."""
        if self._carriers is None:
            from sampan.registry.carrier.handle import Carriers

            self._carriers = Carriers(self._engine.image_store.blobs.root)
        return await self._carriers.ask(request, kind, heard)

    @asynccontextmanager
    async def unpacking(self, chain_id: str) -> AsyncIterator[None]:
        """Nobody else unpacks this layer meanwhile."""
        async with self._unpacking.setdefault(chain_id, asyncio.Lock()):
            yield

    async def close(self) -> None:
        if self._carriers is not None:
            await self._carriers.close()
