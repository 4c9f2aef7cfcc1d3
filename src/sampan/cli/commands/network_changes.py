"""``network create``, ``connect``, ``disconnect``, ``rm``.

Which networks there can be is the daemon's to say: what it does not do it refuses by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sampan.cli import autostart
from sampan.cli.client import ApiError
from sampan.cli.commands.common import each, path, read
from sampan.cli.container_values import pairs
from sampan.cli.flags import Flag, UsageError

if TYPE_CHECKING:
    from sampan.cli.client import Client
    from sampan.cli.flags import Values

__all__ = ["connect", "create", "disconnect", "remove"]

_CREATE = [
    Flag("attachable", "bool", "Containers of other machines may join it"),
    Flag("aux-address", "list", "name=address that the driver keeps for itself", hint="map"),
    Flag("config-from", "str", "Like this network", hint="network"),
    Flag("config-only", "bool", "Only keep the settings, for others to be like it"),
    Flag("driver", "str", "What makes it (bridge)", short="d"),
    Flag("gateway", "strings", "Address of a subnet's router", hint="ip"),
    Flag("ingress", "bool", "The network published ports of a swarm go through"),
    Flag("internal", "bool", "No way to the outside"),
    Flag("ip-range", "strings", "Give addresses of this part of a subnet only", hint="cidr"),
    Flag("ipam-driver", "str", "What gives addresses (default)"),
    Flag("ipam-opt", "list", "key=value for it", hint="map"),
    Flag("ipv4", "bool", "Give IPv4 addresses (true)"),
    Flag("ipv6", "bool", "Give IPv6 addresses"),
    Flag("label", "list", "key=value to remember"),
    Flag("opt", "list", "key=value for the driver", short="o", hint="map"),
    Flag("scope", "str", "local, or another that the driver knows"),
    Flag("subnet", "strings", "A range of addresses", hint="cidr"),
]


def create(client: Client, argv: list[str]) -> int:
    """Make a network and print its ID."""
    summary = "Make a network"
    flags = read("network create", "[OPTIONS] NETWORK", summary, _CREATE, argv, least=1, most=1)
    if flags is None:
        return 0
    body: dict[str, Any] = {
        "Name": flags.arguments[0],
        "Driver": flags.text("driver", "bridge"),
        "Scope": flags.text("scope"),
        "IPAM": {
            "Driver": flags.text("ipam-driver", "default"),
            "Options": pairs(flags.items("ipam-opt"), "--ipam-opt"),
            "Config": _subnets(flags),
        },
        "Internal": flags.flag("internal"),
        "Attachable": flags.flag("attachable"),
        "Ingress": flags.flag("ingress"),
        "ConfigOnly": flags.flag("config-only"),
        "Options": pairs(flags.items("opt"), "--opt"),
        "Labels": pairs(flags.items("label"), "--label"),
    }
    for field, name in (("EnableIPv4", "ipv4"), ("EnableIPv6", "ipv6")):
        if flags.given(name):
            body[field] = flags.flag(name)
    if flags.text("config-from"):
        body["ConfigFrom"] = {"Network": flags.text("config-from")}
    autostart.ensure(client.host)
    print(client.call("POST", "/networks/create", None, body)["Id"])
    return 0


def _subnets(flags: Values) -> list[dict[str, Any]]:
    """A subnet each, with the gateway, range and reserved addresses that lie in it."""
    import ipaddress

    found: list[tuple[Any, dict[str, Any]]] = []
    for text in flags.items("subnet"):
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError as error:
            raise UsageError(f"--subnet: {error}") from None
        if any(network.overlaps(other) for other, _ in found):
            raise UsageError(f"--subnet: {text} overlaps another one")
        found.append((network, {"Subnet": text}))

    def within(text: str, shown: str) -> dict[str, Any]:
        try:
            address = ipaddress.ip_network(text, strict=False)
        except ValueError as error:
            raise UsageError(f"{shown}: {error}") from None
        for network, config in found:
            if address.version == network.version and address.subnet_of(network):
                return config
        raise UsageError(f"{shown}: {text} lies in no --subnet")

    for flag, field in (("ip-range", "IPRange"), ("gateway", "Gateway")):
        for text in flags.items(flag):
            config = within(text, f"--{flag}")
            if field in config:
                raise UsageError(f"--{flag}: {text}: its subnet has one already")
            config[field] = text
    for name, text in pairs(flags.items("aux-address"), "--aux-address").items():
        within(text, "--aux-address").setdefault("AuxiliaryAddresses", {})[name] = text
    return [config for _, config in found]


def connect(client: Client, argv: list[str]) -> int:
    """Put a container on a network."""
    flags = read(
        "network connect",
        "[OPTIONS] NETWORK CONTAINER",
        "Put a container on a network",
        [
            Flag("alias", "strings", "A further name on this network"),
            Flag("driver-opt", "strings", "key=value for the driver"),
            Flag("gw-priority", "int", "The highest of its networks has the way out"),
            Flag("ip", "str", "IPv4 address"),
            Flag("ip6", "str", "IPv6 address"),
            Flag("link", "list", "Know another container by name, NAME[:ALIAS]"),
            Flag("link-local-ip", "strings", "A link-local address", hint="ip"),
        ],
        argv,
        least=2,
        most=2,
    )
    if flags is None:
        return 0
    network, container = flags.arguments
    addresses: dict[str, Any] = {
        "IPv4Address": flags.text("ip"),
        "IPv6Address": flags.text("ip6"),
        "LinkLocalIPs": flags.items("link-local-ip"),
    }
    settings: dict[str, Any] = {
        "IPAMConfig": {key: value for key, value in addresses.items() if value},
        "Links": flags.items("link"),
        "Aliases": flags.items("alias"),
        "DriverOpts": pairs(flags.items("driver-opt"), "--driver-opt"),
        "GwPriority": flags.number("gw-priority"),
    }
    body = {
        "Container": container,
        "EndpointConfig": {key: value for key, value in settings.items() if value},
    }
    client.call("POST", path("/networks/{}/connect", network), None, body)
    return 0


def disconnect(client: Client, argv: list[str]) -> int:
    """Take a container off a network."""
    flags = read(
        "network disconnect",
        "[OPTIONS] NETWORK CONTAINER",
        "Take a container off a network",
        [Flag("force", "bool", "Even if it is half gone", short="f")],
        argv,
        least=2,
        most=2,
    )
    if flags is None:
        return 0
    network, container = flags.arguments
    body = {"Container": container, "Force": flags.flag("force")}
    client.call("POST", path("/networks/{}/disconnect", network), None, body)
    return 0


def remove(client: Client, argv: list[str]) -> int:
    """Remove networks."""
    flags = read(
        "network rm",
        "NETWORK [NETWORK...]",
        "Remove networks",
        [Flag("force", "bool", "One that is not there is no error", short="f")],
        argv,
        least=1,
    )
    if flags is None:
        return 0

    def one(name: str) -> str:
        try:
            client.call("DELETE", path("/networks/{}", name))
        except ApiError as error:
            if flags.flag("force") and error.status == 404:
                return ""
            raise
        return name

    return each(flags.arguments, one)
