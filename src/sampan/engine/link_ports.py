"""What links open where containers of the default network do not reach one another (--icc=false).

As in Docker, a link leads to the ports that the other one exposes, by IPv4, and nobody else's way
there is open. It is so while both run: openings are made of their endpoints, and go with either.
docs/network.md, "Links".
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sampan.engine import ports
from sampan.engine.config import HostConfig
from sampan.engine.links import children, default_endpoint
from sampan.errors import NotFound
from sampan.network.types import Opening

if TYPE_CHECKING:
    from sampan.engine.core import Engine

__all__ = ["note", "renew"]


def _wanted(engine: Engine) -> list[Opening]:
    found = []
    for live in engine.registry:
        own = default_endpoint(engine, live.id) if live.record.links else None
        if own is None:
            continue
        for _, child in children(engine, live.record):
            there = default_endpoint(engine, child.id)
            if there is None or not (own.ipv4 and there.ipv4):
                continue
            for text in ports.exposed(child.record.config, HostConfig()):
                number, _, protocol = text.partition("/")
                found.append(Opening(own, there, protocol, int(number)))
    return found


def _are_needed(engine: Engine) -> bool:
    networks = engine.networking.networks
    try:
        return networks.firewall is not None and not networks.default().icc
    except NotFound:
        return False  # --bridge none


async def renew(engine: Engine) -> None:
    """Have what the links of those that run open be open, and nothing else. Raises KernelError."""
    if not _are_needed(engine):
        return
    # One after the other, for what is wanted is looked up first.
    async with engine.networking.linking:
        wanted = _wanted(engine)
        await asyncio.to_thread(engine.networking.networks.open_links, wanted)


def note(engine: Engine) -> None:
    """Have the rules that are built next have them."""
    if _are_needed(engine):
        engine.networking.networks.note_links(_wanted(engine))
