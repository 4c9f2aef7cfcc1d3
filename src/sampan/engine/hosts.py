"""A container's /etc/hosts by its networks: its own lines, and what ``host-gateway`` means.

``files`` knows the file, ``links`` the lines of whom it is linked to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.engine import files
from sampan.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sampan.engine.container import ContainerRecord
    from sampan.engine.core import Engine
    from sampan.network.types import Endpoint

__all__ = ["gateways", "lines", "write"]


def write(engine: Engine, record: ContainerRecord, endpoints: Sequence[Endpoint]) -> None:
    """For a start, with the addresses that it has."""
    mode = record.host_config.network_mode
    if not endpoints and (mode in ("none", "host") or mode.startswith("container:")):
        return  # as it was made, or another's
    linked: list[str] = []
    if record.links:
        from sampan.engine.links import host_lines

        linked = host_lines(engine, record)
    extra = files.hosts(record.host_config, gateways(engine, record, endpoints))
    text = "".join([extra, *linked, *lines(record, endpoints)])
    files.write_file(f"{engine.directory(record.id)}/hosts", text)


def gateways(
    engine: Engine, record: ContainerRecord, endpoints: Sequence[Endpoint] = ()
) -> Sequence[str]:
    """What --add-host's ``host-gateway`` means: this machine, as the container reaches it."""
    networks = engine.networking.networks
    if networks.options.host_gateways:
        return networks.options.host_gateways
    if record.host_config.network_mode == "host":
        return ("127.0.0.1",)
    there = [networks.find(one.network) for one in endpoints]
    bridged = [network for network in there if network.driver == "bridge"]
    try:
        network = bridged[0] if bridged else networks.default()
    except NotFound:
        return ()
    return [subnet.gateway for subnet in network.subnets if network.has_gateway(subnet)]


def lines(record: ContainerRecord, endpoints: Sequence[Endpoint]) -> list[str]:
    """A container's own."""
    config = record.config
    names = config.hostname or record.id[:12]
    if config.domainname:
        names = f"{config.hostname}.{config.domainname}"
    if "." in names.strip("."):
        names += f" {names.partition('.')[0]}"
    return [
        f"{address}\t{names}\n"
        for endpoint in endpoints
        for address in (endpoint.address4, endpoint.address6)
        if address
    ]
