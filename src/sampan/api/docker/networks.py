"""The API's tag *Network*, as far as there are networks: the three that every engine has.

``none`` and ``host`` are what they say. ``bridge`` is what a container gets that asks for nothing;
this version isolates it as ``none`` does, so the network has no addresses and is *internal*.
Whatever makes or changes a network is refused by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sampan.api.docker.context import Context, reply
from sampan.engine.container import rfc3339
from sampan.engine.networks import DRIVERS, network_id, network_of
from sampan.errors import InvalidArgument, NotFound, NotSupported, PermissionDenied

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sampan.api.http.connection import Answer
    from sampan.engine.core import Engine

__all__ = ["ROUTES"]

_FILTERS = ("dangling", "driver", "id", "label", "name", "scope", "type")


def _network(engine: Engine, name: str, detailed: bool) -> dict[str, Any]:
    inside: dict[str, Any] = {}
    if detailed:
        inside = {
            live.id: {
                "Name": live.record.name,
                "EndpointID": "",
                "MacAddress": "",
                "IPv4Address": "",
                "IPv6Address": "",
            }
            for live in engine.registry
            if live.record.state.running and network_of(live.record) == name
        }
    return {
        "Name": name,
        "Id": network_id(engine, name),
        "Created": rfc3339(engine.founded),
        "Scope": "local",
        "Driver": DRIVERS[name],
        "EnableIPv4": name == "bridge",
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": None, "Config": []},
        "Internal": name == "bridge",
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": inside,
        "Options": {},
        "Labels": {},
    }


def _find(engine: Engine, reference: str) -> str:
    """A network's name, by its name, ID, or the beginning of that. Raises NotFound."""
    if reference in DRIVERS:
        return reference
    found = [
        name for name in DRIVERS if reference and network_id(engine, name).startswith(reference)
    ]
    if len(found) > 1:
        raise InvalidArgument(f"network {reference} is ambiguous: {len(found)} IDs begin so")
    if not found:
        raise NotFound(f"network {reference} not found")
    return found[0]


def _selected(network: Mapping[str, Any], filters: Mapping[str, Sequence[str]]) -> bool:
    for name, values in filters.items():
        if name in ("driver", "scope"):
            good = network[name.capitalize()] in values
        elif name == "id":
            good = any(network["Id"].startswith(value) for value in values)
        elif name == "name":
            good = any(value in network["Name"] for value in values)
        elif name == "type":
            if not set(values) <= {"builtin", "custom"}:
                raise InvalidArgument(f"invalid filter: 'type'={values}")
            good = "builtin" in values
        elif name == "dangling":
            if not set(values) <= {"true", "1", "false", "0"}:
                raise InvalidArgument(f"invalid filter 'dangling={values}'")
            good = not set(values) & {"true", "1"}  # the predefined are never dangling
        else:
            good = False  # labels: they have none
        if not good:
            return False
    return True


async def list_(context: Context) -> Answer:
    filters = context.filters(_FILTERS)
    every = [_network(context.engine, name, detailed=False) for name in DRIVERS]
    return reply([network for network in every if _selected(network, filters)])


async def inspect(context: Context) -> Answer:
    context.flag("verbose")
    if context.text("scope") not in ("", "local"):
        raise NotFound(
            f"network {context.parameters[0]} not found in scope {context.text('scope')}"
        )
    name = _find(context.engine, context.parameters[0])
    return reply(_network(context.engine, name, detailed=True))


async def create(context: Context) -> Answer:
    body = await context.body()
    if not isinstance(body, dict) or not isinstance(body.get("Name"), str) or not body["Name"]:
        raise InvalidArgument("network: give its name as Name")
    if body["Name"] in (*DRIVERS, "default"):
        raise PermissionDenied(f"operation is not permitted on predefined {body['Name']} network")
    raise NotSupported(
        f"network {body['Name']}: this version has no networks but none and host: containers are "
        "isolated, or use the machine's network with --network host"
    )


async def change(context: Context) -> Answer:
    """Connect and disconnect."""
    body = await context.body()
    if not isinstance(body, dict) or not isinstance(body.get("Container"), str):
        raise InvalidArgument("network: give the container's name as Container")
    name = _find(context.engine, context.parameters[0])
    context.engine.registry.find(body["Container"])
    if name == "host":
        raise InvalidArgument("container cannot be connected to or disconnected from host network")
    raise NotSupported(
        f"network {name}: this version connects and disconnects nothing: choose a container's "
        "network when it is made"
    )


async def delete(context: Context) -> Answer:
    name = _find(context.engine, context.parameters[0])
    raise PermissionDenied(f"{name} is a pre-defined network and cannot be removed")


async def prune(context: Context) -> Answer:
    context.filters(("label", "label!", "until"))
    return reply({"NetworksDeleted": None})


ROUTES = (
    ("GET", "/networks", list_),
    ("GET", "/networks/", list_),
    ("POST", "/networks/create", create),
    ("POST", "/networks/prune", prune),
    ("GET", "/networks/{id}", inspect),
    ("DELETE", "/networks/{id}", delete),
    ("POST", "/networks/{id}/connect", change),
    ("POST", "/networks/{id}/disconnect", change),
)
