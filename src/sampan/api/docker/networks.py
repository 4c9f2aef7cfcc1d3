"""The API's tag *Network*: the engine's networks, and who is on them.

``none`` and ``host`` are what they say; ``bridge`` is what a container gets that asks for nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from sampan.api.docker.context import Context, empty, ordered, reply
from sampan.engine.container import rfc3339
from sampan.engine.pruning import is_labelled
from sampan.errors import InvalidArgument, NotFound
from sampan.network.types import PREDEFINED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sampan.api.http.stream import Answer
    from sampan.engine.core import Engine
    from sampan.network.types import Network

__all__ = ["ROUTES"]

_FILTERS = ("dangling", "driver", "id", "label", "name", "scope", "type")


def _network(engine: Engine, network: Network, detailed: bool) -> dict[str, Any]:
    # IPv4's first, as Docker has them.
    subnets = sorted(network.subnets, key=lambda subnet: ":" in subnet.subnet)
    config = [
        {
            "Subnet": subnet.subnet,
            **({"IPRange": subnet.ip_range} if subnet.ip_range else {}),
            **({"Gateway": subnet.gateway} if subnet.gateway else {}),
            **({"AuxiliaryAddresses": ordered(subnet.auxiliary)} if subnet.auxiliary else {}),
        }
        for subnet in subnets
    ]
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": rfc3339(network.created),
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv4": network.ipv4,
        "EnableIPv6": network.ipv6,
        "IPAM": {"Driver": "default", "Options": ordered(network.ipam_options), "Config": config},
        "Internal": network.internal,
        "Attachable": network.attachable,
        "Ingress": False,
        "ConfigFrom": {"Network": network.config_from},
        "ConfigOnly": network.config_only,
        "Containers": ordered(_containers(engine, network)) if detailed else {},
        "Options": ordered(network.options),
        "Labels": ordered(network.labels),
    }


def _containers(engine: Engine, network: Network) -> dict[str, Any]:
    found = {}
    for live in engine.registry:
        wishes = engine.networking.wishes_of(live.record) if live.record.state.running else ()
        if not any(wish.network == network.id for wish in wishes):
            continue
        endpoint = engine.networking.endpoint(live.id, network.id)
        found[live.id] = {
            "Name": live.record.name,
            "EndpointID": endpoint.id if endpoint else "",
            "MacAddress": endpoint.mac if endpoint else "",
            "IPv4Address": endpoint.ipv4 if endpoint else "",
            "IPv6Address": endpoint.ipv6 if endpoint else "",
        }
    return found


def _matches(pattern: str, name: str) -> bool:
    """A regular expression, or a part of the name."""
    try:
        return re.search(pattern, name) is not None
    except re.error:
        return pattern in name


def _selected(network: Mapping[str, Any], filters: Mapping[str, Sequence[str]]) -> bool:
    for name, values in filters.items():
        if name in ("driver", "scope"):
            good = network[name.capitalize()] in values
        elif name == "id":
            good = any(network["Id"].startswith(value) for value in values)
        elif name == "name":
            good = any(_matches(value, network["Name"]) for value in values)
        elif name == "type":
            if not set(values) <= {"builtin", "custom"}:
                raise InvalidArgument(f"invalid filter: 'type'='{' '.join(values)}'")
            good = ("builtin" if network["Name"] in PREDEFINED else "custom") in values
        elif name == "dangling":
            if not set(values) <= {"true", "1", "false", "0"}:
                raise InvalidArgument(f"invalid filter 'dangling=[{' '.join(values)}]'")
            dangling = network["Name"] not in PREDEFINED and not network["Containers"]
            good = dangling == bool(set(values) & {"true", "1"})
        else:
            good = is_labelled({"label": values}, network["Labels"])
        if not good:
            return False
    return True


async def list_(context: Context) -> Answer:
    filters = context.filters(_FILTERS)
    detailed = "dangling" in filters
    every = [
        _network(context.engine, network, detailed=detailed)
        for network in sorted(context.engine.networking.networks, key=lambda one: one.name)
    ]
    found = [network for network in every if _selected(network, filters)]
    return reply([{**network, "Containers": {}} for network in found])


async def inspect(context: Context) -> Answer:
    context.flag("verbose")
    if context.text("scope") not in ("", "local"):
        raise NotFound(
            f"network {context.parameters[0]} not found in scope {context.text('scope')}"
        )
    network = context.engine.networking.networks.find(context.parameters[0])
    return reply(_network(context.engine, network, detailed=True))


async def create(context: Context) -> Answer:
    from sampan.engine.reading import read_body
    from sampan.network.creation import NetworkRequest, network_of

    request = read_body(NetworkRequest, await context.body())
    networking = context.engine.networking
    networks = networking.networks
    network = await networking.create(network_of(request, networks.options.more, networks))
    return reply({"Id": network.id, "Warning": ""}, 201)


class _Connect(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    container: str = ""
    endpoint_config: dict[str, Any] = {}


class _Disconnect(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """``force`` is for endpoints whose containers are gone, which there are none of here."""

    container: str = ""
    force: bool = False


async def connect(context: Context) -> Answer:
    from sampan.engine.connecting import connect as put_on
    from sampan.engine.reading import read_body, read_endpoint

    request = read_body(_Connect, await context.body())
    if not request.container:
        raise InvalidArgument("network: give the container's name as Container")
    context.engine.registry.find(request.container)
    name = context.engine.networking.networks.find(context.parameters[0]).name
    settings = read_endpoint(name, request.endpoint_config)
    await put_on(context.engine, context.parameters[0], request.container, settings)
    return empty(200)


async def disconnect(context: Context) -> Answer:
    from sampan.engine.connecting import disconnect as take_off
    from sampan.engine.reading import read_body

    request = read_body(_Disconnect, await context.body())
    if not request.container:
        raise InvalidArgument("network: give the container's name as Container")
    try:
        context.engine.registry.find(request.container)
    except NotFound:
        if request.force:
            raise NotFound(f"endpoint {request.container} not found") from None
        raise
    await take_off(context.engine, context.parameters[0], request.container)
    return empty(200)


async def delete(context: Context) -> Answer:
    await context.engine.networking.remove(context.parameters[0])
    return empty()


async def prune(context: Context) -> Answer:
    filters = context.filters(("label", "label!", "until"))
    removed = await context.engine.networking.prune(filters)
    return reply({"NetworksDeleted": removed or None})


ROUTES = (
    ("GET", "/networks", list_),
    ("GET", "/networks/", list_),
    ("POST", "/networks/create", create),
    ("POST", "/networks/prune", prune),
    ("GET", "/networks/{id}", inspect),
    ("DELETE", "/networks/{id}", delete),
    ("POST", "/networks/{id}/connect", connect),
    ("POST", "/networks/{id}/disconnect", disconnect),
)
