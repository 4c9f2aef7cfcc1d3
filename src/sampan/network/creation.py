"""What somebody asks of a new network, and the network that comes of it, or why none does.

The wire shapes are those of ``POST /networks/create`` in the Docker Engine API v1.51; every field
and every driver option is acted on or refused by name. What other networks and the machine have to
say to it is ``Networks.create``'s.
"""

from __future__ import annotations

import ipaddress
import os
import re
import time
from typing import TYPE_CHECKING

import msgspec

from sampan.errors import Conflict, InvalidArgument, NotFound, NotSupported, PermissionDenied
from sampan.network import parents
from sampan.network.addresses import parse
from sampan.network.bridge import link_name
from sampan.network.types import GATEWAY_MODES, PREDEFINED, Network, Subnet

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "BRIDGE",
    "ConfigFrom",
    "IpamConfig",
    "IpamRequest",
    "NetworkRequest",
    "network_of",
    "option_of",
    "subnet_of",
]

BRIDGE = "com.docker.network.bridge."
_PREFIX = "com.docker.network.container_iface_prefix"
_SOURCES = ("com.docker.network.host_ipv4", "com.docker.network.host_ipv6")
_LONGEST = 255
_LINK = re.compile(r"[^\s/:\0]{1,15}\Z")
_BEGINNING = re.compile(r"[A-Za-z0-9_-]{0,10}[A-Za-z_-]\Z")
_MTU = range(68, 65536)  # RFC 791's least
_LATER = {
    "overlay": "an overlay network is a swarm's, and this engine runs on one machine",
}


class _Wire(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    pass


class IpamConfig(_Wire, frozen=True, kw_only=True):
    subnet: str = ""
    gateway: str = ""
    ip_range: str = msgspec.field(default="", name="IPRange")
    auxiliary_addresses: dict[str, str] = {}


class IpamRequest(_Wire, frozen=True, kw_only=True):
    driver: str = ""
    config: list[IpamConfig] = []
    options: dict[str, str] | None = None


class ConfigFrom(_Wire, frozen=True, kw_only=True):
    network: str = ""


class NetworkRequest(_Wire, frozen=True, kw_only=True):
    name: str = ""
    check_duplicate: bool = True
    driver: str = ""
    scope: str = ""
    enable_ipv4: bool = msgspec.field(default=True, name="EnableIPv4")
    enable_ipv6: bool = msgspec.field(default=False, name="EnableIPv6")
    ipam: IpamRequest = msgspec.field(default=IpamRequest(), name="IPAM")
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: ConfigFrom = ConfigFrom()
    options: dict[str, str] = {}
    labels: dict[str, str] = {}


def network_of(
    request: NetworkRequest,
    more: Sequence[tuple[str, str, str]] = (),
    known: Iterable[Network] = (),
) -> Network:
    """A network with an ID of its own, not made yet. ``more``: options (driver, name, value) that
    it has unless it says otherwise; ``known``: the networks there are, for one to be like it.

    Raises InvalidArgument, PermissionDenied, Conflict, NotFound (driver), NotSupported.
    """
    _check_name(request.name)
    _refuse(request)
    if request.config_only:
        return _template(request)
    if request.config_from.network:
        request = _like(request, known)
    key = os.urandom(32).hex()
    network = Network(
        id=key,
        name=request.name,
        created=time.time_ns(),
        link=link_name(key),
        ipv4=request.enable_ipv4,
        ipv6=request.enable_ipv6,
        internal=request.internal,
        attachable=request.attachable,
        labels=request.labels,
        options=request.options,
        ipam_options=request.ipam.options,
        config_from=request.config_from.network,
    )
    if request.driver in parents.KINDS:
        network = parents.begun(msgspec.structs.replace(network, driver=request.driver))
    usual = {name: value for driver, name, value in more if driver == network.driver}
    network = msgspec.structs.replace(network, options={**usual, **request.options})
    for name, value in network.options.items():
        network = option_of(network, name, value)
    for version in (4, 6):
        if network.gateway_mode(version) == "isolated" and not network.internal:
            raise InvalidArgument(
                f"network {network.name}: gateway mode 'isolated' can only be used for an internal "
                "network (--internal)"
            )
    subnets = tuple(_subnet(network, one) for one in request.ipam.config if one != IpamConfig())
    versions = [parse(subnet.subnet).version for subnet in subnets]
    if 6 in versions and not network.ipv6:
        raise InvalidArgument(f"network {network.name}: an IPv6 subnet needs EnableIPv6 (--ipv6)")
    if 4 in versions and not network.ipv4:
        raise InvalidArgument(f"network {network.name}: an IPv4 subnet needs EnableIPv4")
    if len(versions) > len(set(versions)) and network.driver not in parents.KINDS:
        raise PermissionDenied("bridge driver doesn't support multiple subnets")
    return msgspec.structs.replace(network, subnets=subnets)


def _template(request: NetworkRequest) -> Network:
    """One that is only there for others to be like it: as it was asked for, and nothing chosen."""
    if request.internal or request.attachable or request.config_from.network:
        raise PermissionDenied(
            f"network {request.name}: a configuration network has what is a network's own; it is "
            "neither internal nor attachable, nor like another (--config-from)"
        )
    subnets = []
    for one in request.ipam.config:
        if one != IpamConfig():
            subnets.append(msgspec.structs.replace(subnet_of(one), gateway=one.gateway))
    return Network(
        id=os.urandom(32).hex(),
        name=request.name,
        driver="null",
        created=time.time_ns(),
        ipv4=request.enable_ipv4,
        ipv6=request.enable_ipv6,
        labels=request.labels,
        options=request.options,
        ipam_options=request.ipam.options,
        subnets=tuple(subnets),
        config_only=True,
    )


def _like(request: NetworkRequest, known: Iterable[Network]) -> NetworkRequest:
    """With the configuration of the network that it is to be like."""
    name = request.config_from.network
    template = next((one for one in known if one.config_only and one.name == name), None)
    if template is None:
        raise NotFound(f'configuration network "{name}" does not exist')
    if request.ipam.config or request.options or request.labels or request.enable_ipv6:
        raise PermissionDenied(
            f"network {request.name}: user specified configurations are not supported if the "
            "network depends on a configuration network (--config-from)"
        )
    config = [
        IpamConfig(
            subnet=one.subnet,
            gateway=one.gateway,
            ip_range=one.ip_range,
            auxiliary_addresses=one.auxiliary,
        )
        for one in template.subnets
    ]
    return msgspec.structs.replace(
        request,
        enable_ipv4=template.ipv4,
        enable_ipv6=template.ipv6,
        ipam=IpamRequest(config=config, options=template.ipam_options),
        options=template.options,
        labels=template.labels,
    )


def _check_name(name: str) -> None:
    if not name.strip():
        raise InvalidArgument(f"invalid network name {name!r}: give it as Name")
    if name in (*PREDEFINED, "default"):
        raise PermissionDenied(f"operation is not permitted on predefined {name} network")
    if len(name) > _LONGEST or not name.isprintable() or name.startswith("container:"):
        raise InvalidArgument(
            f"invalid network name {name[:40]!r}: at most {_LONGEST} printable characters, "
            'and not "container:" at the beginning'
        )


def _refuse(request: NetworkRequest) -> None:
    where = f"network {request.name}"
    if not request.enable_ipv4 and not request.enable_ipv6:
        raise InvalidArgument(f"{where}: IPv4 or IPv6 must be enabled")
    driver = "bridge" if request.config_only else request.driver or "bridge"
    if driver in ("host", "null"):
        raise PermissionDenied(f'only one instance of "{driver}" network is allowed')
    if driver in _LATER:
        raise NotSupported(f"{where}: driver {driver}: {_LATER[driver]}")
    if driver not in ("bridge", *parents.KINDS):
        raise NotFound(
            f'plugin "{driver}" not found: {where} can have the driver bridge, macvlan or ipvlan'
        )
    for what, refused in (
        (f"Scope {request.scope}", request.scope not in ("", "local")),
        ("Ingress", request.ingress),
        (f"IPAM.Driver {request.ipam.driver}", request.ipam.driver not in ("", "default")),
        ("IPAM.Options", bool(request.ipam.options)),
    ):
        if refused:
            raise NotSupported(f"{where}: {what} is not supported in this version")


def _binding(name: str, value: str) -> str:
    """An IPv4 address to publish at, or empty for all."""
    try:
        return "" if value in ("", "0.0.0.0") else str(ipaddress.IPv4Address(value))
    except ValueError as error:
        raise InvalidArgument(f"option {name}: {error}") from error


def _source(name: str, value: str) -> str:
    """An address to leave as, of the option's family."""
    kind = ipaddress.IPv4Address if name.endswith("4") else ipaddress.IPv6Address
    try:
        address = kind(value)
    except ValueError as error:
        raise InvalidArgument(f"option {name}: {error}") from error
    if address.is_loopback or address.is_multicast or address.is_unspecified:
        raise InvalidArgument(f"option {name}: {address} is no address to leave this machine with")
    return str(address)


def _truth(name: str, value: str) -> bool:
    """As Go's ParseBool reads it."""
    if value in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if value in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise InvalidArgument(f"option {name}: {value!r} is neither true nor false")


def option_of(network: Network, name: str, value: str) -> Network:
    """The network with one of its driver's options. Raises InvalidArgument, NotSupported."""
    replace = msgspec.structs.replace
    if name == "com.docker.network.driver.mtu":
        if not value.isdecimal() or int(value) not in (0, *_MTU):
            raise InvalidArgument(f"option {name}: {value!r} is not an MTU: {_MTU[0]} to 65535")
        return replace(network, mtu=int(value))
    if name == _PREFIX:
        if not _BEGINNING.match(value):
            raise InvalidArgument(
                f"option {name}: {value!r} is not how an interface's name begins: 1 to 11 letters, "
                "digits, _ or -, the last no digit"
            )
        return replace(network, prefix=value)
    if network.driver in parents.KINDS:
        changed = parents.with_option(network, name, value)
        if changed is None:
            raise NotSupported(
                f"network {network.name}: option {name}={value} is not supported by the driver "
                f"{network.driver}"
            )
        return changed
    if name == f"{BRIDGE}name":
        if value in (".", "..") or not _LINK.match(value) or not value.isprintable():
            raise InvalidArgument(
                f"option {name}: {value!r} is not an interface's name: 1 to 15 characters, no "
                "space, colon or slash"
            )
        return replace(network, link=value)
    if name == f"{BRIDGE}enable_icc":
        return replace(network, icc=_truth(name, value))
    if name == f"{BRIDGE}enable_ip_masquerade":
        return replace(network, masquerade=_truth(name, value))
    if name == f"{BRIDGE}host_binding_ipv4":
        return replace(network, bind=_binding(name, value))
    if name in (f"{BRIDGE}gateway_mode_ipv4", f"{BRIDGE}gateway_mode_ipv6"):
        if value not in ("", *GATEWAY_MODES):
            raise InvalidArgument(
                f"option {name}: {value!r} is not a gateway mode: {', '.join(GATEWAY_MODES)}"
            )
        return replace(network, **{f"gateway{name[-1]}": value or "nat"})
    if name in _SOURCES:
        return replace(network, **{f"source{name[-1]}": _source(name, value)})
    if name == f"{BRIDGE}inhibit_ipv4":
        return replace(network, inhibit=_truth(name, value))
    if name == f"{BRIDGE}default_bridge" and not _truth(name, value):
        return network
    raise NotSupported(
        f"network {network.name}: option {name}={value} is not supported in this version"
    )


def _inside(what: str, text: str, subnet: str) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise InvalidArgument(f"invalid {what} {text}: {error}") from error
    net = parse(subnet)
    if address not in net:
        raise InvalidArgument(f"invalid {what} {text}: it is not in the subnet {subnet}")
    if net.num_addresses > 2 and (
        address == net.network_address or (net.version == 4 and address == net.broadcast_address)
    ):
        raise InvalidArgument(f"invalid {what} {text}: it is the subnet's own, or its broadcast")
    return str(address)


def _subnet(network: Network, config: IpamConfig) -> Subnet:
    """``subnet_of``; a network whose bridge has no address keeps none for it."""
    subnet = subnet_of(config)
    if config.gateway or network.gateway_mode(parse(subnet.subnet).version) != "isolated":
        return subnet
    return msgspec.structs.replace(subnet, gateway="")


def subnet_of(config: IpamConfig) -> Subnet:
    """Raises InvalidArgument, Conflict."""
    if not config.subnet:
        raise InvalidArgument("IPAM.Config: Gateway, IPRange and AuxiliaryAddresses need a Subnet")
    net = parse(config.subnet)
    if net.num_addresses < 2:
        raise InvalidArgument(f"invalid subnet {net}: it has room for a gateway only")
    if net.is_loopback or net.is_multicast or net.is_unspecified or net.prefixlen == 0:
        raise InvalidArgument(f"invalid subnet {net}: its addresses are nobody's to give")
    if config.ip_range:
        part = parse(config.ip_range, "ip-range")
        # subnet_of knows no two versions.
        if part.version != net.version or not (
            part.network_address in net and part.broadcast_address in net
        ):
            raise InvalidArgument(f"invalid ip-range {part}: it is not in the subnet {net}")
    extra = {
        name: _inside("auxiliary address", text, config.subnet)
        for name, text in config.auxiliary_addresses.items()
    }
    reserved = set(extra.values())
    if config.gateway:
        gateway = _inside("gateway", config.gateway, config.subnet)
    else:
        first = net.network_address + (1 if net.num_addresses > 2 else 0)
        gateway = str(first)
    if gateway in reserved:
        raise Conflict(f"Address already in use: gateway {gateway} is an auxiliary address too")
    return Subnet(subnet=str(net), gateway=gateway, ip_range=config.ip_range, auxiliary=extra)
