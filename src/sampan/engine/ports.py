"""A container's ports: what its configuration publishes, and why that cannot be.

In Docker's words, where tools look for them. Which port of the machine it becomes is decided at
each start (``sampan.network.ports``).
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument, SampanError
from sampan.network.listeners import listener
from sampan.network.ports import PortTakenError
from sampan.network.types import PortWish

if TYPE_CHECKING:
    from collections.abc import Callable

    from sampan.engine.config import ContainerConfig, HostConfig, PortBinding
    from sampan.engine.container import ContainerRecord
    from sampan.network.ports import PortError

__all__ = ["check_ports", "exposed", "failure", "published", "warnings"]

_PORT = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp|sctp))?\Z")
_DISCARDED = "Published ports are discarded when using {} network mode"


def _read(text: str) -> tuple[int, int, str] | None:
    """First, last and protocol of ``80``, ``80/udp`` or ``80-81/tcp``; None for what is none."""
    match = _PORT.match(text)
    if match is None:
        return None
    first, last = int(match[1]), int(match[2] or match[1])
    return (first, last, match[3] or "tcp") if 0 < first <= last < 65536 else None


def check_ports(config: ContainerConfig, host: HostConfig) -> None:
    """Raises InvalidArgument."""
    for text in config.exposed_ports or ():
        if _read(text) is None:
            raise InvalidArgument(f'invalid port specification: "{text}" in ExposedPorts')
    for text, bindings in host.port_bindings.items():
        inside = _read(text)
        if inside is None or inside[0] != inside[1]:
            raise InvalidArgument(f'invalid port specification: "{text}" in PortBindings')
        for binding in bindings or ():
            _wish(text, binding)
    if host.network_mode.startswith("container:") and (
        host.publish_all_ports or any(host.port_bindings.values())
    ):
        raise InvalidArgument(
            "conflicting options: port publishing and the container type network mode"
        )


def warnings(host: HostConfig) -> list[str]:
    wanted = host.publish_all_ports or any(host.port_bindings.values())
    if wanted and host.network_mode in ("host", "none"):
        return [_DISCARDED.format(host.network_mode)]
    return []


def exposed(config: ContainerConfig, host: HostConfig) -> list[str]:
    """Every port that the configuration names, ``80/tcp``, lowest first."""
    found = set()
    for text in (*(config.exposed_ports or ()), *host.port_bindings):
        if (span := _read(text)) is not None:
            found |= {(number, span[2]) for number in range(span[0], span[1] + 1)}
    return [f"{number}/{protocol}" for number, protocol in sorted(found)]


def published(record: ContainerRecord) -> tuple[PortWish, ...]:
    """What a start is to publish. Those that name the machine's port come first, so that nobody's
    free choice takes it."""
    host = record.host_config
    wishes = []
    for text in exposed(record.config, host):
        bindings = host.port_bindings.get(text)
        if bindings is None and text.endswith("/tcp"):
            bindings = host.port_bindings.get(text.removesuffix("/tcp"))
        wishes += [_wish(text, binding) for binding in bindings or ()]
        if host.publish_all_ports and not bindings:
            wishes.append(_wish(text, None))
    return tuple(sorted(wishes, key=lambda one: (not one.first, one.last > one.first)))


def _wish(text: str, binding: PortBinding | None) -> PortWish:
    span = _read(text)
    if span is None:
        raise InvalidArgument(f'invalid port specification: "{text}"')
    if binding is None:
        return PortWish(inside=span[0], protocol=span[2])
    address = ""
    if binding.host_ip:
        try:
            given = ipaddress.ip_address(binding.host_ip)
        except ValueError:
            raise InvalidArgument(
                f"invalid IP address in HostIp of {text}: '{binding.host_ip}'"
            ) from None
        address = str(given)
    first = last = 0
    if binding.host_port not in ("", "0"):
        outside = _read(binding.host_port) if "/" not in binding.host_port else None
        if outside is None:
            raise InvalidArgument(f'invalid port specification: "{binding.host_port}"')
        first, last = outside[:2]
    return PortWish(inside=span[0], protocol=span[2], address=address, first=first, last=last)


def failure(error: PortError, name: str, named: Callable[[str], str]) -> SampanError:
    """Docker's words for a port that cannot be published, and who has it. Looks through /proc, and
    so is for a thread. ``named`` gives a container's name by its ID."""
    text = error.message
    if isinstance(error, PortTakenError):
        if error.container:
            text += f": it is container {named(error.container)}'s"
        elif who := listener(error.port.protocol, error.port.port):
            text += f": {who} listens there"
    return SampanError(
        f"driver failed programming external connectivity on endpoint {name} ({error.endpoint}): "
        f"{text}"
    )
