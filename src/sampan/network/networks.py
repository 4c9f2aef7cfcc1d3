"""The networks of one engine: who is on them, and the kernel's part; ``catalogue`` has the rows.

What is in memory is what the rows say. Methods block; those that touch the kernel beyond a look
take ``_lock``, so that they may run on any thread. docs/network.md says what is true when a daemon
dies between two of them.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from sampan.errors import NotFound
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
from sampan.network.publishing import Publishing
from sampan.network.ways import Ways

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from sampan.network.publishing import Local
    from sampan.network.types import Endpoint, Network, Opening, Options, Port, PortWish, Wish
    from sampan.storage.database import Database

__all__ = ["Networks"]


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
        self.ways = Ways(self._all)
        self._published = Publishing(
            database, self._all, self.leases, self.ways, ruled=self.firewall is not None
        )
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
                up = [one for one in self if self._has_bridge(one.id)]
                guard = self.options.guard and did_not_forward(self._exec_root)
                self.firewall.apply(up, guard=guard)
                forget_stale(one for network in up for one in self.leases.on(network.id))

    def _has_bridge(self, key: str) -> bool:
        network = self._all.get(key)  # none: it is being removed
        return key in self._up and network is not None and network.driver == DEFAULT

    def _take_down(self, network: Network) -> None:
        if network.driver in parents.KINDS:
            parents.remove(network, self._identity, list(self))
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
        return self.ways.plugs(endpoints, self._up)

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
                            made.append(self.leases.take(container_id, network, wish))
                    if ports:
                        self._published.reserve(made, ports)
            except BaseException:
                if ports:
                    self._published.release(container_id)
                for endpoint in made:
                    self.leases.free(self.leases.leave(container_id, endpoint.network))
                raise
        return made

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
                moved = self._published.move(container_id, wanted, leaving)
            if self.firewall is None or moved is None:
                return
            best, old = moved
            self.open_ports([best])
            bridge.set_port(self._all[best.network], best)
            if old is not None:
                if not self.firewall.withdraw([old]):
                    self.refresh()
                forget_stale((), [old])

    def local_ports(self, container_id: str) -> list[Local]:
        """See ``Publishing.local``."""
        with self._rows:
            return self._published.local(container_id)

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

    def leave(self, container_id: str, network_id: str = "") -> list[Endpoint]:
        """The run is over, or off one network: what is to be given to ``free``."""
        with self._rows:
            gone = self.leases.leave(container_id, network_id)
            if not network_id or any(endpoint.ports for endpoint in gone):
                self._published.release(container_id)
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
                unheld += [(endpoint, port) for port in self._published.adopt(endpoint)]
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
        bridge.remove_those_of(self._identity, [one for one in self if one.link not in used])
        if not self._up and self.firewall is not None and self.firewall.present():
            self.firewall.remove()
