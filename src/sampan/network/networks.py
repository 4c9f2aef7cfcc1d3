"""The networks of one engine: who is on them, and the kernel's part; ``catalogue`` has the rows.

What is in memory is what the rows say. Methods block; those that touch the kernel beyond a look
take ``_lock``, so that they may run on any thread. docs/network.md says what is true when a daemon
dies between two of them.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import msgspec

from sampan.errors import Conflict, InvalidArgument, NotFound, Unavailable
from sampan.network import bridge, parents
from sampan.network.catalogue import DEFAULT, Catalogue
from sampan.network.firewall import Firewall
from sampan.network.flows import forget_stale
from sampan.network.host import (
    IPV4_FORWARDING,
    Machine,
    did_not_forward,
    forward,
    index_of,
    locked,
    note_forwarding,
    stop_forwarding,
)
from sampan.network.options import INTERFACE, SYSCTLS, link_local, parameters
from sampan.network.ports import ANY, CARRIED, Ports

if TYPE_CHECKING:
    import socket
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from sampan.network.types import Endpoint, Network, Opening, Options, Port, PortWish, Wish
    from sampan.storage.database import Database

__all__ = ["Networks"]

_RULELESS = (
    "ports are published by this engine's rules, and --firewall none leaves those to you: publish "
    "nothing, and translate to the container's address yourself"
)


class Networks:
    """Opened once per data root. ``exec_root`` is where notes lie that a reboot may take."""

    def __init__(
        self, database: Database, identity: str, exec_root: str, options: Options, created: int
    ) -> None:
        self.options = options
        self._identity = identity
        self._exec_root = exec_root
        self._database = database
        self._lock = threading.RLock()  # the kernel's part
        self._rows = threading.Lock()  # leases, which nobody waits for
        self.firewall = Firewall(identity) if options.firewall != "none" else None
        self._known = Catalogue(database, identity, options, created)
        self._all = self._known.all
        self.leases = self._known.leases
        self._ports = Ports()
        self._localhost: dict[str, int] = {}  # network -> index of its bridge with route_localnet
        self._passing: dict[str, int] = {}  # the same, with what links need
        self._up: dict[str, tuple[int, int]] = {}  # network -> its bridge's index, its MTU

    # -- which there are -----------------------------------------------------------------------

    def __iter__(self) -> Iterator[Network]:
        return iter(self._known)

    def find(self, reference: str) -> Network:
        """By ID, name, or the unique beginning of an ID. Raises NotFound, InvalidArgument."""
        return self._known.find(reference)

    def default(self) -> Network:
        """What a container gets that asks for nothing. Raises NotFound (``--bridge none``)."""
        return self._known.default()

    def create(self, network: Network) -> Network:
        """Make a network's row; its bridge comes with its first container.

        Raises AlreadyExists (name), PermissionDenied (what it asks for is another's), Unavailable.
        """
        with self._lock, locked():
            network = self._known.add(network)
            if network.driver in parents.KINDS:
                # What is not to be had is told now; a bridge comes with its first container.
                try:
                    self._up[network.id] = parents.bring_up(network, self._identity)
                except BaseException:
                    self._known.drop(network)
                    raise
        return network

    def withdraw(self, network: Network) -> None:
        """Nobody is to find a network that is about to go. Raises PermissionDenied while
        containers are on it. Then ``remove``, or ``restore``."""
        self._known.withdraw(network)

    def restore(self, network: Network) -> None:
        self._known.restore(network)

    def remove(self, network: Network) -> None:
        """The kernel's part first, and then the row: who dies in between has a network that is
        down."""
        with self._lock:
            self._localhost.pop(network.id, None)
            self._passing.pop(network.id, None)
            if self._up.pop(network.id, None) is not None:
                self._take_down(network)
                if network.driver == DEFAULT:
                    self.refresh()
            self._known.drop(network)

    # -- up and down ---------------------------------------------------------------------------

    def is_up(self, network: Network) -> bool:
        """Whether its bridge is the one we know, and the rules are there: a look that takes no
        lock, before each start."""
        known = self._up.get(network.id)
        if known is None or index_of(network.link) != known[0]:
            return False
        if network.driver in parents.KINDS:
            return True
        return self.firewall is None or self.firewall.present()

    def bring_up(self, network_id: str) -> None:
        """Have the kernel have its bridge and rules. Raises Unavailable, Conflict, KernelError."""
        with self._lock:
            network = self.find(network_id)
            if self.is_up(network):
                return
            if network.driver in parents.KINDS:
                self._up[network.id] = parents.bring_up(network, self._identity)
                return
            with locked():
                network = self._bridge(network)
            if self.options.forward:
                forward(self._exec_root, six=network.ipv6)
                self._note_forwarding()
            self.refresh()
            if any(one.port for endpoint in self.leases.on(network_id) for one in endpoint.ports):
                self._open_localhost(network_id)
            if network.name == DEFAULT and not network.icc:
                self._pass_on(network)

    def _note_forwarding(self) -> None:
        """It may have been another engine that turned it on, and that ends before us."""
        if self.firewall is None or did_not_forward(self._exec_root):
            return
        if self.firewall.guarded_by_another():
            note_forwarding(self._exec_root, IPV4_FORWARDING)

    def _bridge(self, network: Network) -> Network:
        machine = Machine()
        there = machine.links.get(network.link)
        if there is not None and bridge.is_ours(there, self._identity, network):
            bridge.adopt(there)
            self._up[network.id] = (there.link, there.mtu)
            return network
        endpoints = self.leases.on(network.id)
        network = self._known.renumbered(network, machine, bool(endpoints))
        mtu = network.mtu or machine.mtu
        index = bridge.make(network, self._identity, mtu, forward=self.options.forward)
        self._up[network.id] = (index, mtu)
        if endpoints:
            bridge.repair(network, endpoints)
        return network

    def refresh(self) -> None:
        """Build the rule set of the networks that are up."""
        with self._lock:
            if self.firewall is not None:
                up = [one for key, one in self._all.items() if self._has_bridge(key)]
                guard = self.options.guard and did_not_forward(self._exec_root)
                self.firewall.apply(up, guard=guard)
                forget_stale(one for network in up for one in self.leases.on(network.id))

    def _has_bridge(self, key: str) -> bool:
        return key in self._up and self._all[key].driver == DEFAULT

    def _take_down(self, network: Network) -> None:
        if network.driver in parents.KINDS:
            parents.remove(network, self._identity, self._all.values())
        else:
            bridge.remove(network.link)

    @property
    def has_rules(self) -> bool:
        return self.firewall is not None and any(self._has_bridge(key) for key in list(self._up))

    def warnings(self, network: str = "") -> list[str]:
        """What other firewalls of the machine's do to our bridges that are up, or to the one of a
        network, which need not be up."""
        from sampan.network import foreign

        if self.firewall is None:
            return []
        keys = [network] if network else list(self._up)
        found = [self._all[key] for key in keys if key in self._all]
        links = [one.link for one in found if one.driver == DEFAULT and not one.internal]
        return foreign.warnings(links)

    def mend(self, *, sure: bool) -> bool:
        """Somebody deleted something of our rules, or, not ``sure``, all of them: build them. False
        where there are to be none, or they are there."""
        with self._lock:
            if not self.has_rules or (not sure and self.firewall and self.firewall.present()):
                return False
            self.refresh()
            return True

    def close(self) -> None:
        """Take down what nobody uses: what lives on keeps its bridge, and the rules."""
        with self._lock:
            used = self._used_links()
            for key in list(self._up):
                if self._all[key].link not in used:
                    self._take_down(self._all[key])
                    del self._up[key]
            if any(self._has_bridge(key) for key in self._up):
                self.refresh()
                return
            if did_not_forward(self._exec_root):
                with locked():
                    stop_forwarding(self._exec_root)
            if self.firewall is not None:
                self.firewall.remove()

    def _used_links(self) -> set[str]:
        """Bridges and parents that containers are on; networks may share a parent."""
        return {self._all[key].link for key in self.leases.used() if key in self._all}

    def plugs(self, endpoints: Sequence[Endpoint]) -> list[dict[str, object]]:
        """What the maker is told to make of them; their networks are up."""
        ways = {endpoint.id: gateways for endpoint, gateways in self.ways_out(endpoints)}
        plugs = []
        for endpoint in endpoints:
            network = self._all[endpoint.network]
            index, mtu = self._up[network.id]
            shares = network.driver in parents.KINDS
            one = (parents if shares else bridge).plug(network, endpoint, index, mtu)
            plugs.append({**one, **_asked(endpoint), "gateways": ways.get(endpoint.id, [])})
        return plugs

    def on_parent(self, endpoint: Endpoint) -> bool:
        """Whether its link is a macvlan or ipvlan one."""
        network = self._all.get(endpoint.network)
        return network is not None and network.driver in parents.KINDS

    def gateways(self, endpoint: Endpoint) -> list[str]:
        network = self._all[endpoint.network]
        if network.driver in parents.KINDS:
            return parents.gateways(network, endpoint)
        return bridge.gateways(network, endpoint)

    def ways_out(self, endpoints: Sequence[Endpoint]) -> list[tuple[Endpoint, list[str]]]:
        """By whom the default routes lead, and where to, for each version of IP: the highest
        priority's; among equals theirs that have both versions, and then the first name's."""
        gateways = {endpoint.id: self.gateways(endpoint) for endpoint in endpoints}
        found: list[tuple[Endpoint, list[str]]] = []
        led: set[bool] = set()  # whether it is IPv6's

        def rank(one: Endpoint) -> tuple[int, int, str]:
            versions = {":" in gateway for gateway in gateways[one.id]}
            return -one.wish.priority, -len(versions), one.wish.name

        for endpoint in sorted(endpoints, key=rank):
            own = [one for one in gateways[endpoint.id] if (":" in one) not in led]
            if own:
                found.append((endpoint, own))
                led |= {":" in gateway for gateway in own}
        return found

    def way_out(self, endpoints: Sequence[Endpoint]) -> Endpoint | None:
        """The first of ``ways_out``."""
        return next((endpoint for endpoint, _ in self.ways_out(endpoints)), None)

    def lease(
        self, container_id: str, wishes: Sequence[Wish], ports: Sequence[PortWish] = ()
    ) -> list[Endpoint]:
        """Endpoints for a start, in one transaction; one of them has the published ports. Networks
        without links give none.

        Raises NotFound, and what ``Leases.add`` and ``Ports.reserve`` raise: then there are none.
        """
        made: list[Endpoint] = []
        with self._rows:
            try:
                with self._database.transaction():
                    for wish in wishes:
                        network = self.find(wish.network)
                        if network.gives_links:
                            made.append(self._lease(container_id, network, wish))
                    if ports:
                        self._reserve(made, ports)
            except BaseException:
                if ports:
                    self._ports.release(container_id)
                for endpoint in made:
                    self.leases.free(self.leases.leave(container_id, endpoint.network))
                raise
        return made

    def _publisher(self, endpoints: Sequence[Endpoint]) -> Endpoint | None:
        """The ports are the endpoint's whose bridge leads outside, by priority. A network that is
        internal publishes nothing, nor do macvlan and ipvlan, as in Docker."""
        return self.way_out([one for one in endpoints if self._all[one.network].driver == DEFAULT])

    def _reserve(self, endpoints: list[Endpoint], wanted: Sequence[PortWish]) -> None:
        best = self._publisher(endpoints)
        if best is None:
            return
        if self.firewall is None:
            raise Unavailable(_RULELESS)
        found = self._ports.reserve(self._bound(wanted, best), best, self._direct(best))
        endpoints[endpoints.index(best)] = self.leases.publish(best, found)

    def _bound(self, wanted: Sequence[PortWish], endpoint: Endpoint) -> list[PortWish]:
        """With the network's own address for those that say none."""
        own = self._all[endpoint.network].bind
        return [one if one.address else msgspec.structs.replace(one, address=own) for one in wanted]

    def _direct(self, endpoint: Endpoint) -> list[int]:
        """The IP versions of which its own address is published."""
        network = self._all[endpoint.network]
        return [version for version in (4, 6) if network.gateway_mode(version) == "routed"]

    def open_ports(self, endpoints: Sequence[Endpoint]) -> None:
        """Have the kernel lead the published ports of a start to it. Raises KernelError."""
        with self._lock:
            if self.firewall is None:
                return
            if not self.firewall.publish(endpoints):
                self.refresh()
            forget_stale(endpoints)
            for endpoint in endpoints:
                if any(port.port for port in endpoint.ports):
                    self._open_localhost(endpoint.network)

    def move_ports(self, container_id: str, wanted: Sequence[PortWish], leaving: str = "") -> None:
        """A container that runs has come onto a network, or is about to leave one: its published
        ports are its way out's, which may be another than it was. Raises PortError, Unavailable,
        KernelError."""
        # What ends meanwhile is freed behind us, for that takes this lock too.
        with self._lock:
            with self._rows:
                every = self.leases.of(container_id)
                best = self._publisher([one for one in every if one.network != leaving])
                old = next((one for one in every if one.ports), None)
                if not wanted or best is None or best is old:
                    return
                if self.firewall is None:
                    raise Unavailable(_RULELESS)
                found = self._ports.move(self._bound(wanted, best), best, self._direct(best))
                with self._database.transaction():
                    if old is not None:
                        self.leases.publish(old, ())
                    best = self.leases.publish(best, found)
            self.open_ports([best])
            bridge.set_port(self._all[best.network], best)
            if old is not None:
                if not self.firewall.withdraw([old]):
                    self.refresh()
                forget_stale((), [old])

    def loopback_ports(
        self, container_id: str
    ) -> list[tuple[Port, socket.socket | None, tuple[str, int]]]:
        """A container's ports that are had at ``::1``; who holds them, to whom comes what is sent
        there (None where nobody does yet, for the container has no IPv6 address); and where it is
        to go."""
        found: list[tuple[Port, socket.socket | None, tuple[str, int]]] = []
        with self._rows:
            for own in self.leases.of(container_id):
                if not own.ports:
                    continue
                for port, held in self._ports.carried(container_id):
                    found.append((port, held, (own.address6, port.inside)))
                for port in own.ports:
                    if own.ipv6 or not port.port or port.address != ANY[4]:
                        continue
                    if port.protocol in CARRIED:
                        found.append((port, None, (own.address4, port.inside)))
        return found

    @property
    def keeps_links_shut(self) -> bool:
        """Whether nobody could open what is linked on the default network."""
        try:
            return self.firewall is None and not self.default().icc
        except NotFound:
            return False  # --bridge none

    def note_links(self, wanted: Collection[Opening]) -> None:
        """Have the next rules open what is linked on the default network."""
        if self.firewall is not None:
            self.firewall.note_links(wanted)

    def open_links(self, wanted: Collection[Opening]) -> None:
        """Have what is linked on the default network be open, and nothing else. Raises
        KernelError."""
        with self._lock:
            if self.firewall is None:
                return
            if not self.firewall.link(wanted):
                self.refresh()
            self._pass_on(self.default())

    def _pass_on(self, network: Network) -> None:
        """Have the machine pass on what is linked between ports that are isolated. Behind the
        rules, which drop the rest."""
        if self.firewall is None or not self.firewall.has_links or network.id not in self._up:
            return
        index, _ = self._up[network.id]
        if self._passing.get(network.id) != index:
            bridge.pass_on(network.link)
            self._passing[network.id] = index

    def _open_localhost(self, network_id: str) -> None:
        """The machine's connections to its own 127.0.0.1 may go to the bridge. Behind the rules,
        which keep everybody else away from there, and never without."""
        index, _ = self._up[network_id]
        if self.firewall is not None and self._localhost.get(network_id) != index:
            bridge.open_localhost(self._all[network_id].link)
            self._localhost[network_id] = index

    def _lease(self, container_id: str, network: Network, wish: Wish) -> Endpoint:
        there = self.leases.on(network.id) if network.mode == "passthru" else []
        if there:
            raise Conflict(
                f"network {network.name}: in mode passthru one container has the parent: "
                f"{there[0].container[:12]}"
            )
        names = {endpoint.inside for endpoint in self.leases.of(container_id)}
        asked = wish.options.get(INTERFACE, "")
        if asked in names:
            raise InvalidArgument(
                f"network {network.name}: the container has an interface {asked} already"
            )
        number = 0
        while f"{network.prefix}{number}" in names:
            number += 1
        return self.leases.add(container_id, network, wish, number)

    def leave(self, container_id: str, network_id: str = "") -> list[Endpoint]:
        """The run is over, or off one network: what is to be given to ``free``."""
        with self._rows:
            gone = self.leases.leave(container_id, network_id)
            if not network_id or any(endpoint.ports for endpoint in gone):
                self._ports.release(container_id)
            return gone

    def free(self, endpoints: Sequence[Endpoint]) -> None:
        """Delete their rules and their links, and then their rows."""
        if endpoints:
            with self._lock:
                if self.firewall is not None:
                    if not self.firewall.withdraw(endpoints, ended=True):
                        self.refresh()
                    self._forget_gone(endpoints)
            bridge.unplug([endpoint.host for endpoint in endpoints])
            with self._rows:
                self.leases.free(endpoints)

    def _forget_gone(self, endpoints: Sequence[Endpoint]) -> None:
        """Flows to who has ended, unless its next run has its address and its port already."""
        now = {(one.ipv4, one.ipv6) for one in endpoints for one in self.leases.of(one.container)}
        forget_stale((), [one for one in endpoints if (one.ipv4, one.ipv6) not in now])

    def recover(
        self, running: Mapping[str, Collection[str]]
    ) -> tuple[list[tuple[Endpoint, Port]], set[str]]:
        """After a daemon's end: what does not run, or is not to be on a network, has no endpoint
        there; what runs has a bridge and its ports. ``running``: containers, and their networks.
        The ports that a process has bound meanwhile; and who lost an endpoint though it runs, for
        its way out may be another."""
        unheld = []
        moved = set()
        left = self.leases.leaving()
        for container in self.leases.containers():
            wanted = running.get(container, ())
            for endpoint in list(self.leases.of(container)):
                if endpoint.network not in wanted:
                    self.free(self.leave(container, endpoint.network))
                    moved.add(container)
                    continue
                unheld += [(endpoint, port) for port in self._ports.adopt(endpoint)]
                if self.firewall is not None:
                    self.firewall.note([endpoint])
        for network in self.leases.used():
            self.bring_up(network)
        self.free(left)
        self._remove_unused()
        return unheld, moved & set(self.leases.containers())

    def decide(self) -> tuple[list[str], list[str]]:
        """See ``Catalogue.decide``."""
        with self._lock:
            return self._known.decide()

    def _remove_unused(self) -> None:
        """Bridges of ours that an earlier daemon left and nobody is on."""
        used = self._used_links()
        left = [
            network
            for network in self._all.values()
            if network.link not in used and network.link and index_of(network.link)
        ]
        if left:
            machine = Machine()
            for network in left:
                there = machine.links.get(network.link)
                if there is not None and bridge.is_ours(there, self._identity, network):
                    bridge.remove(network.link)
        if not self._up and self.firewall is not None and self.firewall.present():
            self.firewall.remove()


def _asked(endpoint: Endpoint) -> dict[str, object]:
    """What of its link somebody asked for."""
    wish = endpoint.wish
    found = parameters(wish.options.get(SYSCTLS, ""), endpoint.inside)
    return {
        "local": [link_local(one) for one in wish.link_local],
        "parameters": [f"{name}={value}" for name, value in found],
    }
