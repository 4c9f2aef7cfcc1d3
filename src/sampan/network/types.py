"""Networks, endpoints, and what is asked of them: values only.

``Wish`` is a container's, as long as there is the container; ``Endpoint`` is what came of it for
one run. docs/network.md has the picture.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

__all__ = [
    "GATEWAY_MODES",
    "POOLS",
    "PREDEFINED",
    "Endpoint",
    "Network",
    "Opening",
    "Options",
    "Pool",
    "Port",
    "PortWish",
    "Subnet",
    "Wish",
]

PREDEFINED = {"bridge": "bridge", "host": "host", "none": "null"}
"""The networks every engine has, and their drivers."""

GATEWAY_MODES = ("nat", "nat-unprotected", "routed", "isolated")
"""Of a bridge: the machine's addresses stand for the containers', and what is not published is
closed; or it is open to who has a route there; or addresses are the containers' own, and published
ports are open there; or the bridge has no address, and the network is internal."""


class Subnet(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``subnet`` and ``ip_range`` as address/prefix. ``auxiliary``: addresses that are others'.
    ``automatic``: we chose it, and may choose again while nobody has an address of it."""

    subnet: str
    gateway: str = ""
    ip_range: str = ""
    auxiliary: dict[str, str] = {}
    automatic: bool = False

    @property
    def prefix(self) -> int:
        return int(self.subnet.rpartition("/")[2])

    @property
    def router(self) -> str:
        """Where default routes lead: the gateway, unless somebody else is named so."""
        name = "DefaultGatewayIPv6" if ":" in self.subnet else "DefaultGatewayIPv4"
        return self.auxiliary.get(name) or self.gateway


class Network(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``created`` in nanoseconds since the epoch; ``link``: the bridge's name in the kernel;
    ``options``: the driver's, as they were given. Of macvlan and ipvlan ``link`` is the parent, and
    ``mode`` and ``flag`` are how they share it. ``bind``: where ports are published that say no
    address, empty for everywhere. ``gateway4`` and ``gateway6``, of ``GATEWAY_MODES``: what a
    bridge is to who is behind it; ``inhibit``: its IPv4 gateway is somebody else. ``source4`` and
    ``source6``: as which of the machine's addresses its containers leave, empty for the link's.
    ``prefix``: how links of containers' begin. ``config_only``: nobody can be on it, it is there
    for others to be like it; ``config_from``: the name of the one this is like."""

    id: str
    name: str
    driver: str = "bridge"
    created: int = 0
    link: str = ""
    mode: str = ""
    flag: str = ""
    ipv4: bool = True
    ipv6: bool = False
    internal: bool = False
    attachable: bool = False
    subnets: tuple[Subnet, ...] = ()
    mtu: int = 0
    icc: bool = True
    masquerade: bool = True
    bind: str = ""
    gateway4: str = "nat"
    gateway6: str = "nat"
    inhibit: bool = False
    source4: str = ""
    source6: str = ""
    prefix: str = "eth"
    config_only: bool = False
    config_from: str = ""
    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    ipam_options: dict[str, str] | None = None

    @property
    def predefined(self) -> bool:
        return self.name in PREDEFINED

    def gateway_mode(self, version: int) -> str:
        """Of ``GATEWAY_MODES``, for IPv4 or IPv6."""
        return self.gateway4 if version == 4 else self.gateway6

    @property
    def sealed(self) -> tuple[int, ...]:
        """The IP versions of which the machine is not to be reached over its bridge."""
        modes = {4: (self.ipv4, self.gateway4), 6: (self.ipv6, self.gateway6)}
        if "isolated" not in (self.gateway4, self.gateway6):
            return ()
        return tuple(one for one, (has, mode) in modes.items() if mode == "isolated" or not has)

    def source(self, version: int) -> str:
        """``source4`` or ``source6``."""
        return self.source4 if version == 4 else self.source6

    def has_gateway(self, subnet: Subnet) -> bool:
        """Whether the bridge has the subnet's gateway as an address of its own."""
        version = 6 if ":" in subnet.subnet else 4
        if not subnet.gateway or self.gateway_mode(version) == "isolated":
            return False
        return not (self.inhibit and version == 4)

    @property
    def gives_links(self) -> bool:
        """Whether who is on it has a link, and addresses, of it."""
        return self.driver in ("bridge", "macvlan", "ipvlan")

    @property
    def gives_macs(self) -> bool:
        """Whether that link has a MAC address of its own, and not its parent's."""
        return self.driver != "ipvlan" and self.mode != "passthru"


class Wish(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a container asks of one network: ``network`` is its ID, ``name`` what it was called.
    Addresses are empty where any will do; of the default gateways the highest priority's is it."""

    network: str
    name: str
    ipv4: str = ""
    ipv6: str = ""
    mac: str = ""
    aliases: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    link_local: tuple[str, ...] = ()
    options: dict[str, str] = {}
    priority: int = 0


class PortWish(msgspec.Struct, frozen=True, kw_only=True):
    """A port that is to be published: on ``address``, empty for any of the machine's, with one of
    its ports from ``first`` to ``last``, 0 for any that is free."""

    inside: int
    protocol: str = "tcp"
    address: str = ""
    first: int = 0
    last: int = 0


class Port(msgspec.Struct, frozen=True, kw_only=True):
    """A published port, for one run: the machine's ``address``, which ``0.0.0.0`` and ``::`` are
    any of, and ``port`` lead to the container's port ``inside``. With ``port`` 0 it is no port of
    the machine's (gateway mode ``routed``): others may reach ``inside`` at the container's own
    address."""

    protocol: str
    address: str
    port: int
    inside: int


class Endpoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A container on a network, for one run. Addresses are address/prefix, or empty; ``host`` and
    ``inside`` are the names of the links at both ends."""

    id: str
    network: str
    container: str
    mac: str = ""
    ipv4: str = ""
    ipv6: str = ""
    host: str = ""
    inside: str = ""
    ports: tuple[Port, ...] = ()
    wish: Wish

    @property
    def address4(self) -> str:
        return self.ipv4.partition("/")[0]

    @property
    def address6(self) -> str:
        return self.ipv6.partition("/")[0]


class Opening(NamedTuple):
    """What a link opens: ``source`` may reach a port of ``target``."""

    source: Endpoint
    target: Endpoint
    protocol: str
    port: int


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """Where networks get their subnets: ``base`` cut into parts of prefix length ``size``."""

    base: str
    size: int


POOLS = (Pool(base="172.20.0.0/14", size=22), Pool(base="10.199.0.0/16", size=22))
"""Where IPv4 subnets come from, where nobody says."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the administrator decided of the default network: ``bridge``, its bridge's name, or
    ``none`` for no such network; ``bip``, the bridge's address/prefix; ``fixed``, where containers
    have their addresses; ``router``, where their default routes lead, empty for the bridge;
    ``bind``, where their ports are published.

    And of the rest: whether to have the machine forward, and whether to drop what is others' then
    (``guard``); ``host_gateways``, what --add-host's host-gateway means, empty for the container's
    own gateway; ``more``, (driver, option, value) of networks that do not say otherwise."""

    bridge: str = ""
    bip: str = ""
    bip6: str = ""
    fixed: str = ""
    fixed6: str = ""
    router: str = ""
    router6: str = ""
    ipv6: bool = False
    bind: str = ""
    forward: bool = True
    guard: bool = True
    host_gateways: tuple[str, ...] = ()
    more: tuple[tuple[str, str, str], ...] = ()
    mtu: int = 0
    icc: bool = True
    masquerade: bool = True
    firewall: str = "nftables"
    pools: tuple[Pool, ...] = POOLS
