"""``--publish``, ``--expose`` and ``--network`` as the API's port maps and endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sampan.cli.container_values import fields
from sampan.cli.flags import UsageError

if TYPE_CHECKING:
    from sampan.cli.flags import Values

__all__ = ["endpoints", "ports"]

_PROTOCOLS = ("tcp", "udp", "sctp")
Bindings = dict[str, list[dict[str, str]]]


def ports(flags: Values) -> tuple[dict[str, Any], Bindings]:
    """Exposed ports, and those published with the machine's addresses and ports."""
    exposed: dict[str, Any] = {}
    bindings: Bindings = {}
    for item in flags.items("publish"):
        for port, binding in _published(item):
            exposed[port] = {}
            bindings.setdefault(port, []).append(binding)
    for item in flags.items("expose"):
        place, protocol = _protocol(item, "--expose")
        first, last = _range(place, item, "--expose")
        exposed.update({f"{port}/{protocol}": {} for port in range(first, last + 1)})
    return exposed, bindings


def _published(item: str) -> list[tuple[str, dict[str, str]]]:
    place, protocol = _protocol(_short(item), "--publish")
    rest, _, inner = place.rpartition(":")
    address, _, outer = rest.rpartition(":")
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    first, last = _range(inner, item, "--publish")
    if not outer:
        return [
            (f"{port}/{protocol}", {"HostIp": address, "HostPort": ""})
            for port in range(first, last + 1)
        ]
    begin, end = _range(outer, item, "--publish")
    if end - begin != last - first and first != last:
        raise UsageError(f"--publish: {item}: the ranges are not of the same length")
    if first == last:
        # One port, and a range to choose the machine's from: the daemon chooses.
        span = str(begin) if begin == end else f"{begin}-{end}"
        return [(f"{first}/{protocol}", {"HostIp": address, "HostPort": span})]
    return [
        (f"{first + n}/{protocol}", {"HostIp": address, "HostPort": str(begin + n)})
        for n in range(last - first + 1)
    ]


def _short(item: str) -> str:
    """The long form, ``published=…,target=…,protocol=…``, as the short one."""
    if "=" not in item:
        return item
    keys = dict(part.partition("=")[::2] for part in fields(item, "--publish"))
    unknown = set(keys) - {"published", "target", "protocol", "mode"}
    if unknown or not keys.get("target"):
        raise UsageError(f"--publish: {item}: expected published=…,target=…[,protocol=…]")
    published = f"{keys['published']}:" if keys.get("published") else ""
    return f"{published}{keys['target']}/{keys.get('protocol', 'tcp')}"


def _protocol(item: str, shown: str) -> tuple[str, str]:
    place, slash, protocol = item.partition("/")
    if slash and protocol.lower() not in _PROTOCOLS:
        raise UsageError(f"{shown}: {item}: the protocol is one of {', '.join(_PROTOCOLS)}")
    return place, protocol.lower() or "tcp"


def _range(text: str, item: str, shown: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    if not first.isdigit() or (dash and not last.isdigit()):
        raise UsageError(f"{shown}: {item}: {text!r}: expected a port or a range of ports")
    low, high = int(first), int(last or first)
    if not low <= high < 65536:
        raise UsageError(f"{shown}: {item}: {text}: ports go from 1 to 65535, and upwards")
    return low, high


_LONG = {"ip": "IPv4Address", "ip6": "IPv6Address"}


def endpoints(flags: Values) -> tuple[str, dict[str, Any]]:
    """The network mode, and the settings of each network by its name.

    ``--ip``, ``--network-alias`` and their like belong to the first network.
    """
    wanted = [_network(item) for item in flags.items("network")]
    if not wanted:
        wanted = [("default", {})]
    for name, settings in wanted:
        if len(wanted) > 1 and not _user_defined(name):
            raise UsageError(f"--network: {name} cannot be one of several networks")
        if settings.get("Aliases") and not _user_defined(name):
            raise UsageError(f"--network: {name}: only networks of the user's own have aliases")
    first, settings = wanted[0]
    _first(first, settings, flags)
    configured = {name: settings for name, settings in wanted if settings}
    if len(configured) < len(wanted) and len(wanted) > 1:
        configured = dict(wanted)
    return first, configured


def _user_defined(name: str) -> bool:
    special = ("default", "bridge", "host", "none", "nat")
    return name not in special and not name.startswith("container:")


def _first(name: str, settings: dict[str, Any], flags: Values) -> None:
    aliases = flags.items("network-alias")
    if aliases and not _user_defined(name):
        raise UsageError("--network-alias: only networks of the user's own have aliases")
    addresses = settings.setdefault("IPAMConfig", {})
    for flag, field in _LONG.items():
        if flags.given(flag):
            addresses[field] = flags.text(flag)
    if flags.items("link-local-ip"):
        addresses["LinkLocalIPs"] = flags.items("link-local-ip")
    if not addresses:
        del settings["IPAMConfig"]
    if aliases:
        settings["Aliases"] = settings.get("Aliases", []) + aliases
    if flags.items("link") and _user_defined(name):
        settings["Links"] = flags.items("link")
    if flags.text("mac-address"):
        settings["MacAddress"] = _mac(flags.text("mac-address"), "--mac-address")


def _network(item: str) -> tuple[str, dict[str, Any]]:
    """``NAME``, or ``name=NAME,alias=…,ip=…,driver-opt=…,gw-priority=…``."""
    if "=" not in item:
        if not item:
            raise UsageError("--network: a name is missing")
        return item, {}
    name = ""
    settings: dict[str, Any] = {}
    for part in fields(item, "--network"):
        key, _, value = part.partition("=")
        if key == "name":
            name = value
        elif key == "alias":
            settings.setdefault("Aliases", []).append(value)
        elif key == "driver-opt":
            option, _, setting = value.partition("=")
            settings.setdefault("DriverOpts", {})[option] = setting
        elif key in _LONG:
            settings.setdefault("IPAMConfig", {})[_LONG[key]] = value
        elif key == "link-local-ip":
            settings.setdefault("IPAMConfig", {}).setdefault("LinkLocalIPs", []).append(value)
        elif key == "mac-address":
            settings["MacAddress"] = _mac(value, "--network mac-address")
        elif key == "gw-priority":
            if not value.removeprefix("-").isdigit():
                raise UsageError(f"--network: {part}: expected a whole number")
            settings["GwPriority"] = int(value)
        else:
            raise UsageError(f"--network: {item}: unknown option {key}")
    if not name:
        raise UsageError(f"--network: {item}: name=… is missing")
    return name, settings


def _mac(text: str, shown: str) -> str:
    octets = text.strip().split(":")
    hexadecimal = all(len(o) == 2 and set(o) <= set("0123456789abcdefABCDEF") for o in octets)
    if len(octets) != 6 or not hexadecimal:
        raise UsageError(f"{shown}: {text}: expected an address such as 92:d0:c6:0a:29:33")
    return text.strip()
