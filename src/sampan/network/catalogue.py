"""Which networks there are: their rows, names, subnets and bridges' names.

What is chosen for a network (a subnet, a bridge's name) is chosen under a lock that all engines of
the machine share (``host.locked``), against what the machine and other networks have by then. What
the kernel is told of it is ``networks``' matter.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from sampan.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from sampan.network import default as defaults
from sampan.network import parents
from sampan.network.addresses import choose_subnet, local_prefix, overlap, parse
from sampan.network.host import Machine, locked
from sampan.network.leases import Leases
from sampan.network.store import NetworkStore
from sampan.network.types import POOLS, PREDEFINED, Network, Pool, Subnet

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sampan.network.addresses import Net
    from sampan.network.types import Options
    from sampan.storage.database import Database

__all__ = ["DEFAULT", "Catalogue"]

DEFAULT = "bridge"


def predefined_id(identity: str, name: str) -> str:
    """64 digits: the name's, so that they differ where they are shown short, then the engine's."""
    return (name.encode().hex() + identity.replace("-", "")).ljust(64, "0")


def _former_id(identity: str, name: str) -> str:
    """What it was in data roots of before: those containers and rows go on with it."""
    return identity.replace("-", "") + name.encode().hex().ljust(32, "0")


class Catalogue:
    """``all`` networks by ID, as the rows say, and the ``leases`` on them. Threads add and remove
    while others look: who goes through ``all`` goes through a copy."""

    def __init__(self, database: Database, identity: str, options: Options, created: int) -> None:
        self._options = options
        self._identity = identity
        self._store = NetworkStore(database)
        self.leases = Leases(self._store)
        self.all: dict[str, Network] = {}
        self._former: dict[str, Network] = {}
        for name in ("host", "none"):
            network = Network(
                id=predefined_id(identity, name),
                name=name,
                driver=PREDEFINED[name],
                created=created,
                ipv4=False,
            )
            self.all[network.id] = network
            self._former[_former_id(identity, name)] = network
        for network in self._store.networks():
            self._take_up(network)
        self.leases.load()
        default = predefined_id(identity, DEFAULT)
        if (former := _former_id(identity, DEFAULT)) in self.all:
            default = former
        self._wanted = defaults.wanted(options, default, created)
        if options.bridge != "none" and default not in self.all:
            self._add_default(self._wanted)

    def __iter__(self) -> Iterator[Network]:
        return iter(list(self.all.values()))

    def find(self, reference: str) -> Network:
        """By ID, name, or the unique beginning of an ID. Raises NotFound, InvalidArgument."""
        found = self.all.get(reference) or self._former.get(reference)
        if found is not None:
            return found
        for network in self:
            if network.name == reference:
                return network
        begun = [one for one in self if reference and one.id.startswith(reference)]
        if len(begun) > 1:
            raise InvalidArgument(f"network {reference} is ambiguous: {len(begun)} IDs begin so")
        if not begun:
            raise NotFound(f"network {reference} not found")
        return begun[0]

    def default(self) -> Network:
        """What a container gets that asks for nothing. Raises NotFound (``--bridge none``)."""
        return self.find(DEFAULT)

    def decide(self) -> tuple[list[str], list[str]]:
        """Have the default network be as the administrator decided, unless containers are on it as
        it was: which decisions wait, and for which containers. Once what has ended is freed.

        Raises Unavailable.
        """
        there = self.all.get(self._wanted.id)
        if there is None:
            return [], []
        if self._options.bridge == "none":
            otherwise = ["bridge"]
        else:
            otherwise = defaults.differences(there, self._wanted)
        used = [endpoint.container for endpoint in self.leases.on(there.id)] if otherwise else []
        if not otherwise or used:
            return otherwise, used
        self.drop(there)
        if self._options.bridge != "none":
            self._add_default(self._wanted)
        return [], []

    def _take_up(self, network: Network) -> None:
        self.all[network.id] = network
        self.leases.open(network)

    def _add_default(self, network: Network) -> None:
        """Make the row of the default network."""
        if network.ipv6 and not os.path.exists("/proc/sys/net/ipv6"):
            raise Unavailable("ipv6: this machine's kernel has no IPv6")
        with locked():
            network = self._numbered(network, Machine())
            self._store.add_network(network)
        self._take_up(network)

    def _numbered(self, network: Network, machine: Machine) -> Network:
        """With a subnet where it has none, and a name for its bridge that nobody else has."""
        changes: dict[str, object] = {}
        there = {":" in subnet.subnet for subnet in network.subnets}
        added = []
        if network.ipv4 and False not in there:
            pools = [pool for pool in self._options.pools if ":" not in pool.base]
            added.append(self._chosen(network, pools or POOLS, machine))
        if network.ipv6 and True not in there:
            pools = [pool for pool in self._options.pools if ":" in pool.base]
            own = Pool(base=local_prefix(self._identity), size=64)
            added.append(self._chosen(network, pools or (own,), machine))
        if added:
            subnets = [*network.subnets, *added]
            changes["subnets"] = tuple(sorted(subnets, key=lambda one: ":" in one.subnet))
        if not network.link:
            number = 0
            while f"sampan{number}" in machine.links or any(
                one.link == f"sampan{number}" for one in self
            ):
                number += 1
            changes["link"] = f"sampan{number}"
        if changes and network.predefined:
            options = {**network.options, "com.docker.network.driver.mtu": str(machine.mtu)}
            link = str(changes.get("link", network.link))
            options["com.docker.network.bridge.name"] = link
            changes["options"] = options
        return msgspec.structs.replace(network, **changes) if changes else network

    def _check_free(self, network: Network, machine: Machine) -> None:
        shares = network.driver in parents.KINDS
        if shares:
            parents.check(network, list(self))
        for other in self:
            if other.link == network.link and not shares:
                raise PermissionDenied(
                    f"cannot create network {network.name}: network {other.name} has the bridge "
                    f"{network.link}"
                )
        if network.link in machine.links and not shares:
            raise PermissionDenied(
                f"cannot create network {network.name}: the interface {network.link} exists and "
                f"is not ours; remove it, or choose another com.docker.network.bridge.name"
            )
        for subnet in network.subnets:
            net = parse(subnet.subnet)
            for other in self:
                if other.config_only:
                    continue
                if overlap(net, [parse(one.subnet) for one in other.subnets]) is not None:
                    raise PermissionDenied(
                        "invalid pool request: Pool overlaps with other one on this address "
                        f"space: {net} and network {other.name}'s {other.subnets[0].subnet}"
                    )
            # A parent's own subnet is what its network is to be on.
            hit = None if shares else overlap(net, machine.taken())
            if hit is not None:
                raise PermissionDenied(
                    "invalid pool request: Pool overlaps with other one on this address space: "
                    f"{net} and this machine's {machine.holder(hit)}"
                )

    def add(self, network: Network) -> Network:
        """Its row, with what was chosen for it. The caller has ``host.locked``.

        Raises AlreadyExists (name), PermissionDenied (what it asks for is another's), Unavailable.
        """
        if any(one.name == network.name for one in self):
            raise AlreadyExists(f"network with name {network.name} already exists")
        machine = Machine()
        if network.ipv6 and not os.path.exists("/proc/sys/net/ipv6"):
            raise Unavailable(f"network {network.name}: this machine's kernel has no IPv6")
        if not network.config_only:
            self._check_free(network, machine)
            network = self._numbered(network, machine)
        self._store.add_network(network)
        self._take_up(network)
        return network

    def drop(self, network: Network) -> None:
        """Its row, and that anybody finds it."""
        self.all.pop(network.id, None)
        self._store.remove_network(network.id)
        self.leases.close(network.id)

    def withdraw(self, network: Network) -> None:
        """Nobody is to find a network that is about to go. Raises PermissionDenied while
        containers are on it. Then ``remove``, or ``restore``."""
        used = [endpoint.container[:12] for endpoint in self.leases.on(network.id)]
        if used:
            raise PermissionDenied(
                f"error while removing network: network {network.name} has active endpoints "
                f"(containers {', '.join(used)})"
            )
        like = [one.name for one in self if one.config_from == network.name]
        if network.config_only and like:
            raise PermissionDenied(
                f'error while removing network: configuration network "{network.name}" is in use '
                f"by {', '.join(like)}"
            )
        self.all.pop(network.id, None)

    def restore(self, network: Network) -> None:
        self.all[network.id] = network

    def renumbered(self, network: Network, machine: Machine, used: bool) -> Network:
        """What was chosen for it may be somebody else's by now: a daemon's that was started since,
        or a VPN's. Chosen again while nobody has an address of it."""
        taken = machine.taken()
        hits = [
            (subnet, hit)
            for subnet in network.subnets
            if (hit := overlap(parse(subnet.subnet), taken)) is not None
        ]
        renamed = network.link in machine.links
        chosen = network.name == DEFAULT and not self._options.bridge
        if not hits and not (renamed and chosen):
            return network
        if used or any(not subnet.automatic for subnet, _ in hits) or (renamed and not chosen):
            if hits:
                subnet, hit = hits[0]
                raise Unavailable(
                    f"network {network.name}: its subnet {subnet.subnet} overlaps with "
                    f"{machine.holder(hit)} of this machine; remove that route, or the network"
                )
            return network  # whose name is taken: bridge.make says so
        fresh = msgspec.structs.replace(
            network,
            subnets=tuple(one for one in network.subnets if one not in [hit[0] for hit in hits]),
            link="" if renamed and chosen else network.link,
        )
        self.all[network.id] = fresh
        fresh = self._numbered(fresh, machine)
        self._store.put_network(fresh)
        self._take_up(fresh)
        return fresh

    def _chosen(self, network: Network, pools: Sequence[Pool], machine: Machine) -> Subnet:
        net = choose_subnet(pools, [*machine.taken(), *self._nets()])
        isolated = network.gateway_mode(net.version) == "isolated"
        gateway = "" if isolated else str(net.network_address + 1)
        return Subnet(subnet=str(net), gateway=gateway, automatic=True)

    def _nets(self) -> list[Net]:
        used = [network for network in self if not network.config_only]
        return [parse(subnet.subnet) for network in used for subnet in network.subnets]
