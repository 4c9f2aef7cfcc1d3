"""Containers come onto networks and leave them, running or not. docs/network.md, "Connect".

Of what does not run only the record changes. What runs gets its endpoint's rows first, then the
link, then the record; and loses them in the opposite order. So a record that names a network has
the link, and what has a row and no word in the record is taken away by the next daemon.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from sampan.engine import files, hosts, ports
from sampan.engine.freeing import namespace_of
from sampan.engine.log import log
from sampan.errors import (
    Conflict,
    InvalidArgument,
    KernelError,
    NotFound,
    PermissionDenied,
    SampanError,
)
from sampan.network import parents
from sampan.network.ports import PortError
from sampan.runtime import plugs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sampan.engine.config import EndpointSettings
    from sampan.engine.core import Engine
    from sampan.engine.live import Live
    from sampan.network.types import Endpoint, Network, Wish

__all__ = ["connect", "disconnect", "find_way_out", "move_ports"]


def _is(wish: Wish, network: Network) -> bool:
    return wish.network == network.id or (not wish.network and wish.name == network.name)


def _check(live: Live, network: Network, others: Sequence[Wish]) -> None:
    mode = live.record.host_config.network_mode
    if "host" in (network.name, mode):
        raise InvalidArgument(
            "container cannot be disconnected from host network or connected to host network"
        )
    if mode.startswith("container:"):
        raise InvalidArgument(
            "container sharing network namespace with another container or host cannot be "
            "connected to any other network"
        )
    if others and (network.name == "none" or any(wish.name == "none" for wish in others)):
        raise InvalidArgument(
            "container cannot be connected to multiple networks with one of the networks in "
            "private (none) mode"
        )


async def connect(
    engine: Engine, reference: str, container: str, settings: EndpointSettings
) -> None:
    """Put a container on a network.

    Raises NotFound, InvalidArgument, PermissionDenied (it is on it), Conflict (the address).
    """
    networking = engine.networking
    live = engine.registry.find(container)
    async with live.lock:
        network = networking.networks.find(reference)
        if live.removing or live.id not in engine.registry:
            raise Conflict(f"container {container} is marked for removal and cannot be connected")
        wishes = networking.wishes_of(live.record)
        others = tuple(wish for wish in wishes if not _is(wish, network))
        _check(live, network, others)
        named = False
        wish = networking.wish(network, settings)
        if live.record.state.running:
            if len(others) < len(wishes):
                raise PermissionDenied(
                    f"endpoint with name {live.record.name} already exists in network "
                    f"{network.name}"
                )
            named = networking.resolving.uses(live)
            await _plug(engine, live, network, wish)
        live.record = msgspec.structs.replace(live.record, networks=(*others, wish))
        engine.store.put(live.record)
        if live.record.state.running:
            await _tell_names(engine, live, new=not named)
            networking.tell(network, "connect", container=live.id)


async def disconnect(engine: Engine, reference: str, container: str) -> None:
    """Take a container off a network. Raises NotFound, PermissionDenied (it is not on it)."""
    networking = engine.networking
    live = engine.registry.find(container)
    async with live.lock:
        network = networking.networks.find(reference)
        _check(live, network, ())
        wishes = networking.wishes_of(live.record)
        others = tuple(wish for wish in wishes if not _is(wish, network))
        if len(others) == len(wishes):
            raise PermissionDenied(
                f"container {live.id} is not connected to network {network.name}"
            )
        live.record = msgspec.structs.replace(live.record, networks=others)
        engine.store.put(live.record)
        if live.record.state.running:
            await _unplug(engine, live, network)
            await _tell_names(engine, live, new=False)
        networking.tell(network, "disconnect", container=live.id)


# -- what runs -------------------------------------------------------------------------------------


@contextmanager
def _namespace(live: Live) -> Iterator[int]:
    """A running container's network namespace. Raises NotFound when it is over."""
    namespace = namespace_of(live.record)
    if namespace is None:
        raise NotFound(f"container {live.record.name} is not running")
    try:
        yield namespace
    finally:
        os.close(namespace)


async def _plug(engine: Engine, live: Live, network: Network, wish: Wish) -> None:
    networking = engine.networking
    networks = networking.networks
    if not network.gives_links:
        return
    if not networks.is_up(network):
        await networking.bring_up(network)
    await networking.vacate((wish,))
    with _namespace(live) as namespace:
        (endpoint,) = networks.lease(live.id, (wish,))
        (one,) = networks.plugs([endpoint])
        plug = plugs.Plug.from_json({**one, "gateways": []})
        try:
            await asyncio.to_thread(plugs.plug_into, [plug], live.record.state.pid, namespace)
        except KernelError:
            there = networking.endpoint(live.id, network.id) is endpoint
            networks.leave(live.id, network.id)
            await asyncio.to_thread(networks.free, [endpoint])
            if there:
                raise
            return  # it ended meanwhile: its next start makes the link
        if networking.endpoint(live.id, network.id) is not endpoint:
            await asyncio.to_thread(networks.free, [endpoint])
            return
    try:
        await move_ports(engine, live)
    except SampanError:
        await asyncio.to_thread(networks.free, networks.leave(live.id, network.id))
        raise
    if any(one.id == endpoint.id for one, _ in networks.ways.every(networks.leases.of(live.id))):
        await find_way_out(engine, live)
    await _renew_links(engine)
    _edit_hosts(engine, live, add=hosts.lines(live.record, [endpoint]))


async def _unplug(engine: Engine, live: Live, network: Network) -> None:
    networking = engine.networking
    networks = networking.networks
    try:
        await move_ports(engine, live, leaving=network.id)
    except SampanError as error:
        # It is taken off all the same; its ports are with its next start.
        log.error("ports cannot be published", container=live.id, error=error.message)
    ways = networks.ways.every(networks.leases.of(live.id))
    gone = networks.leave(live.id, network.id)
    if any(networks.ways.on_parent(one) for one in gone):
        keep = {one.host for one in networks.leases.of(live.id)}
        try:
            with _namespace(live) as namespace:
                await asyncio.to_thread(parents.sweep, namespace, keep)
        except NotFound:
            pass  # it ended, and the link with it
    await asyncio.to_thread(networks.free, gone)
    if any(one in gone for one, _ in ways):
        await find_way_out(engine, live)
    _edit_hosts(engine, live, remove=[end for one in gone for end in _addresses(one)])


async def _renew_links(engine: Engine) -> None:
    """What links open; where it goes, it goes with the endpoint (``Networks.free``)."""
    if any(one.record.links for one in engine.registry):
        from sampan.engine.link_ports import renew

        await renew(engine)


async def _tell_names(engine: Engine, live: Live, *, new: bool) -> None:
    try:
        await engine.networking.resolving.moved(live, new=new)
    except SampanError as error:
        # It is connected all the same, and a resolver that is started again is told.
        log.error("names cannot be answered", container=live.id, error=error.message)


def _addresses(endpoint: Endpoint) -> tuple[str, ...]:
    return tuple(one for one in (endpoint.address4, endpoint.address6) if one)


async def move_ports(engine: Engine, live: Live, leaving: str = "") -> None:
    """Have the published ports of what runs lead to its way out. Raises SampanError."""
    networking = engine.networking
    wanted = ports.published(live.record)
    if not wanted:
        return
    networking.relays.pause(live.id)
    try:
        await asyncio.to_thread(networking.networks.move_ports, live.id, wanted, leaving)
    except PortError as error:
        raise await asyncio.to_thread(
            ports.failure, error, live.record.name, networking.name_of
        ) from error
    finally:
        networking.relays.renew(live.id)


async def find_way_out(engine: Engine, live: Live) -> None:
    """Have the default routes of what runs lead where they are to lead now."""
    networks = engine.networking.networks
    every = networks.leases.of(live.id)
    ways = [(one.inside, gateways) for one, gateways in networks.ways.every(every)]
    if not ways:
        return
    before = [gateway for one in every for gateway in networks.ways.gateways(one)]
    try:
        with _namespace(live) as namespace:
            await asyncio.to_thread(plugs.reroute, namespace, ways, before)
    except (OSError, SampanError) as error:
        # It ended, or has changed its own links, as it may.
        log.error("no way out of a container", container=live.id, error=str(error))


def _edit_hosts(
    engine: Engine, live: Live, *, add: Sequence[str] = (), remove: Sequence[str] = ()
) -> None:
    try:
        files.edit_hosts(f"{engine.directory(live.id)}/hosts", add=add, remove=remove)
    except OSError as error:
        log.error("/etc/hosts cannot be changed", container=live.id, error=str(error))
