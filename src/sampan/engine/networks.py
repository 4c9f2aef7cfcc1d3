"""Containers on networks: what they ask for, what a start gives them, and what its end takes.

``sampan.network`` knows networks, addresses and the kernel; this knows containers, and on which
thread what is done. docs/network.md, "A start, step by step".
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from sampan.engine import hosts, ports
from sampan.engine.freeing import Freeing
from sampan.engine.log import log
from sampan.engine.relays import Relays
from sampan.engine.resolving import Resolving
from sampan.engine.rules import RuleWatch
from sampan.errors import InvalidArgument, NotFound, PermissionDenied, SampanError
from sampan.network import parents
from sampan.network.networks import Networks
from sampan.network.ports import PortError
from sampan.network.types import Wish

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sampan.engine.config import EndpointSettings
    from sampan.engine.container import ContainerRecord
    from sampan.engine.core import Engine
    from sampan.engine.live import Live
    from sampan.network.types import Endpoint, Network, Port

__all__ = ["DEFAULT_MODES", "Networking"]

DEFAULT_MODES = ("", "default", "bridge")


def _check_usable(network: Network) -> None:
    if network.config_only:
        raise PermissionDenied(
            f"cannot create endpoint on configuration-only network: {network.name} is there for "
            "others to be like it (--config-from)"
        )


class Networking:
    """The networks of one engine's containers; ``networks`` are the networks."""

    def __init__(self, engine: Engine) -> None:
        settings = engine.settings
        self._engine = engine
        self.networks = Networks(
            engine.database,
            engine.identity,
            settings.exec_root,
            settings.network,
            engine.founded,
        )
        self.resolving = Resolving(engine, self.networks)
        self.relays = Relays(engine, self.networks)
        self._rules = RuleWatch(engine, self.networks)
        self._freeing = Freeing(engine, self.networks)
        self.linking = asyncio.Lock()

    # -- what containers ask for ---------------------------------------------------------------

    def find(self, mode: str) -> Network:
        """The network that a mode, a name or an ID means. Raises NotFound."""
        if mode in DEFAULT_MODES:
            try:
                return self.networks.default()
            except NotFound:
                return self.networks.find("none")  # --bridge none
        return self.networks.find(mode)

    def wishes(
        self, mode: str, given: Mapping[str, EndpointSettings], mac: str = ""
    ) -> tuple[Wish, ...]:
        """A container's wishes, the mode's network first. Raises InvalidArgument."""
        if mode.startswith("container:"):
            if given:
                raise InvalidArgument(
                    "conflicting options: a container in the network of another is on no network "
                    "of its own"
                )
            return ()
        asked = {}
        for name, settings in {mode: None, **given}.items():
            wish = self._wish(name, settings)
            key = wish.network or wish.name
            if settings is not None or key not in asked:
                asked[key] = wish
        first, *others = asked.values()
        if others and first.name in ("host", "none"):
            raise InvalidArgument(
                f"conflicting options: a container in network mode {first.name} is on no other "
                "network"
            )
        if mac and not first.mac:
            first = msgspec.structs.replace(first, mac=mac)
        return (first, *others)

    def _wish(self, name: str, settings: EndpointSettings | None) -> Wish:
        try:
            network = self.find(name)
        except NotFound:
            # Not an error before the start: it may be made by then.
            return settings.wish("", name) if settings is not None else Wish(network="", name=name)
        if settings is None:
            _check_usable(network)
            return Wish(network=network.id, name=network.name)
        return self.wish(network, settings)

    def wish(self, network: Network, settings: EndpointSettings) -> Wish:
        """One endpoint's settings, checked. Raises InvalidArgument, PermissionDenied."""
        _check_usable(network)
        found = settings.wish(network.id, network.name)
        chosen = {":" in one.subnet for one in network.subnets if one.automatic}
        asked = {six for six, text in ((False, found.ipv4), (True, found.ipv6)) if text}
        if asked & chosen and not network.predefined:
            raise InvalidArgument(
                "user specified IP address is supported only when connecting to networks with user "
                f"configured subnets: make network {network.name} with --subnet"
            )
        if network.predefined:
            if found.ipv4 or found.ipv6:
                raise InvalidArgument(
                    "user specified IP address is supported on user defined networks only"
                )
            if found.links:
                raise InvalidArgument(
                    f"links on network {network.name} are HostConfig.Links (--link), not an "
                    "endpoint's"
                )
            if found.aliases:
                raise InvalidArgument(
                    "network-scoped aliases are only supported for user-defined networks"
                )
        return found

    def wishes_of(self, record: ContainerRecord) -> tuple[Wish, ...]:
        """A container's, also of one that an earlier version made."""
        if record.networks is not None:
            return record.networks
        return self.wishes(record.host_config.network_mode, {})

    # -- networks come and go ------------------------------------------------------------------

    async def create(self, network: Network) -> Network:
        """Make it. Raises what ``Networks.create`` does."""
        network = await asyncio.to_thread(self.networks.create, network)
        self.tell(network, "create")
        return network

    async def remove(self, reference: str) -> Network:
        """Raises NotFound, PermissionDenied (a predefined one; containers are on it)."""
        network = self.networks.find(reference)
        if network.predefined:
            raise PermissionDenied(f"{network.name} is a pre-defined network and cannot be removed")
        self.networks.withdraw(network)
        try:
            await self.settle()
            await asyncio.to_thread(self.networks.remove, network)
        except BaseException:
            self.networks.restore(network)
            raise
        self.tell(network, "destroy")
        return network

    async def prune(self, filters: Mapping[str, Sequence[str]]) -> list[str]:
        """Remove every network of the users' that nobody is on; their names.

        Raises InvalidArgument.
        """
        from sampan.engine.pruning import is_labelled, read_until

        until = read_until(filters)
        removed = []
        for network in self.networks:
            if network.predefined or network.config_only or 0 < until < network.created:
                continue
            if self.networks.leases.on(network.id) or not is_labelled(filters, network.labels):
                continue
            try:
                await self.remove(network.id)
            except (PermissionDenied, NotFound):
                continue  # somebody was faster
            removed.append(network.name)
        self._engine.events.publish("network", "prune", "", {"reclaimed": "0"})
        return removed

    def tell(self, network: Network, action: str, **more: str) -> None:
        attributes = {**more, "name": network.name, "type": network.driver}
        self._engine.events.publish("network", action, network.id, attributes)

    # -- a container's life --------------------------------------------------------------------

    async def prepare(self, live: Live) -> list[dict[str, object]]:
        """Before a start: the networks are up, addresses are leased, /etc/hosts says so. What the
        maker is to plug. Raises what prevents it, by name."""
        self.release(live)  # of a start that was cut short
        wishes = tuple(self._resolved(wish) for wish in self.wishes_of(live.record))
        if wishes != live.record.networks:
            live.record = msgspec.structs.replace(live.record, networks=wishes)
            self._engine.store.put(live.record)
        for wish in wishes:
            network = self.networks.find(wish.network)
            if network.gives_links and not self.networks.is_up(network):
                await self.bring_up(network)
        await self.vacate(wishes)
        wanted = ports.published(live.record)
        try:
            endpoints = self.networks.lease(live.id, wishes, wanted)
        except PortError as error:
            raise await asyncio.to_thread(
                ports.failure, error, live.record.name, self.name_of
            ) from error
        if wanted and endpoints and not any(endpoint.ports for endpoint in endpoints):
            # As in Docker, which says so to nobody else either.
            log.warn("published ports are not: no network leads there", container=live.id)
        if any(endpoint.ports for endpoint in endpoints):
            await asyncio.to_thread(self.networks.open_ports, endpoints)
            self.relays.renew(live.id)
        hosts.write(self._engine, live.record, endpoints)
        if any(one.record.links for one in self._engine.registry):
            from sampan.engine.link_ports import renew
            from sampan.engine.links import tell_parents

            await renew(self._engine)
            tell_parents(self._engine, live)
        await self.resolving.prepare(live)
        return self.networks.plugs(endpoints)

    def name_of(self, container_id: str) -> str:
        try:
            return self._engine.registry.find(container_id).record.name
        except NotFound:
            return container_id

    def _resolved(self, wish: Wish) -> Wish:
        try:
            network = self.networks.find(wish.network or wish.name)
        except NotFound as error:
            try:
                network = self.networks.find(wish.name)  # another that was made in its place
            except NotFound:
                raise NotFound(f"network {wish.name} not found") from error
        return msgspec.structs.replace(wish, network=network.id, name=network.name)

    async def bring_up(self, network: Network) -> None:
        """See ``Networks.bring_up``."""
        await asyncio.to_thread(self.networks.bring_up, network.id)
        self._rules.begin()
        for warning in await asyncio.to_thread(self.networks.warnings, network.id):
            log.warn(warning.removeprefix("WARNING: "))

    def warnings(self, record: ContainerRecord) -> list[str]:
        """What other firewalls will do to a container's ports. Looks at their rules."""
        known = {network.id for network in self.networks}
        first = [one.network for one in self.wishes_of(record) if one.network in known][:1]
        return [
            line.removeprefix("WARNING: ") for key in first for line in self.networks.warnings(key)
        ]

    def release(self, live: Live) -> None:
        """After an end: its addresses are free as soon as its links are gone."""
        self.relays.end(live.id)
        left = self.networks.leave(live.id)
        self.resolving.release(left)
        self._freeing.begin(live.id, left)

    async def vacate(self, wishes: Sequence[Wish]) -> None:
        """An address that is asked for by itself may be one that is being freed."""
        if any(wish.ipv4 or wish.ipv6 for wish in wishes):
            await self.settle()

    async def settle(self) -> None:
        """Wait until what has ended is freed."""
        await self._freeing.settle()

    async def recover(self) -> None:
        """Take up what runs and free what does not."""
        running = {
            live.id: {wish.network for wish in self.wishes_of(live.record)}
            for live in self._engine.registry
            if live.monitor is not None or live.record.state.running
        }
        linked = any(live.record.links for live in self._engine.registry)
        if linked:
            from sampan.engine.link_ports import note, renew

            note(self._engine)  # with what has ended: it goes with its endpoint
        try:
            await asyncio.to_thread(self._freeing.recover, running)
            unheld, moved = await asyncio.to_thread(self.networks.recover, running)
            if moved:
                from sampan.engine.connecting import find_way_out, move_ports

                for container in moved:
                    live = self._engine.registry.find(container)
                    await move_ports(self._engine, live)
                    await find_way_out(self._engine, live)
        except SampanError as error:
            log.error("networks cannot be taken up", error=error.message)
            unheld = []
        self._rules.begin()
        for container in running:
            self.relays.renew(container)
        if linked:
            await renew(self._engine)
        flags, containers = await asyncio.to_thread(self.networks.decide)
        if flags:
            log.warn(
                "containers are on the default network, which stays as it was made; stop them and "
                "start the daemon again to have it as it is configured now",
                flags=" ".join(flags),
                containers=", ".join(self.name_of(one) for one in containers),
            )
        for endpoint, port in unheld:
            # The rules lead there all the same; the process is not reached.
            log.warn(
                "a published port was bound by a process while there was no daemon",
                container=endpoint.container,
                port=f"{port.address}:{port.port}/{port.protocol}",
            )
        for live in self._engine.registry:
            if live.record.links and live.record.state.running:
                from sampan.engine.links import refresh

                # Somebody may have been started as we died, and this one not told.
                refresh(self._engine, live)
        try:
            await self.resolving.recover()
        except SampanError as error:
            log.error("names cannot be answered", error=error.message)

    async def close(self) -> None:
        """Take down what nobody uses."""
        await self.settle()
        self.relays.close()
        self._rules.close()
        await self.resolving.close()
        try:
            await asyncio.to_thread(self.networks.close)
        except SampanError as error:
            log.error("networks cannot be taken down", error=error.message)

    # -- what others want to know --------------------------------------------------------------

    def endpoint(self, container_id: str, network_id: str) -> Endpoint | None:
        """A running container's endpoint on a network."""
        for endpoint in self.networks.leases.of(container_id):
            if endpoint.network == network_id:
                return endpoint
        return None

    def ports(self, container_id: str) -> tuple[Port, ...]:
        """What a running container has published."""
        return tuple(port for one in self.networks.leases.of(container_id) for port in one.ports)

    def gateways(self, endpoint: Endpoint) -> tuple[str, str]:
        """The IPv4 and the IPv6 gateway of an endpoint, empty for none."""
        found = self.networks.ways.gateways(endpoint)
        found = [gateway for gateway in found if gateway not in parents.EVERYWHERE.values()]
        four = [gateway for gateway in found if ":" not in gateway]
        return "".join(four[:1]), "".join(gateway for gateway in found if ":" in gateway)

    def publish(self, record: ContainerRecord, action: str) -> None:
        """``connect`` and ``disconnect``: the events of a container's networks around its runs."""
        for wish in self.wishes_of(record):
            try:
                network = self.networks.find(wish.network)
            except NotFound:
                continue  # it was removed meanwhile
            self.tell(network, action, container=record.id)
