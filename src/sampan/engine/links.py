"""Links of the default network: a container knows others by names of its own (``--link``).

The older way, of before there were networks with names: lines of /etc/hosts, and variables with
the other's addresses, ports and environment. Both are made at a start, of what the other one is
then; with another address of its the lines change, and a process's variables cannot. A link holds
the other's ID, so that renaming changes nothing. On a user's network links are the resolver's
(``resolving``). docs/network.md, "Links".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from sampan.engine import files, ports
from sampan.engine.config import HostConfig, read_link
from sampan.engine.container import Link
from sampan.engine.log import log
from sampan.errors import Conflict, InvalidArgument, NotFound, NotSupported, SampanError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sampan.engine.container import ContainerRecord
    from sampan.engine.core import Engine
    from sampan.engine.live import Live
    from sampan.network.types import Endpoint

__all__ = [
    "check",
    "children",
    "default_endpoint",
    "host_lines",
    "names",
    "refresh",
    "resolve",
    "shown",
    "tell_parents",
    "unlink",
    "with_variables",
]

_LEFT_OUT = ("HOME", "PATH")
_BULK = 3
"""So many neighbouring ports have variables of their first and last."""


def resolve(engine: Engine, host: HostConfig) -> tuple[Link, ...]:
    """A new container's links. On a network of a user's those of the endpoint are it, and clients
    send both. Raises InvalidArgument, NotSupported."""
    kind = host.network_mode.partition(":")[0]
    if kind in ("host", "container"):
        kind = "host type networking" if kind == "host" else "container type network"
        raise InvalidArgument(
            f"conflicting options: {kind} can't be used with links. This would result in "
            "undefined behavior"
        )
    if kind not in ("", "default", "bridge", "none"):
        return ()
    if kind != "none" and engine.networking.networks.keeps_links_shut:
        raise NotSupported(
            "HostConfig.Links is not supported where containers of the default network do not "
            "reach one another (--icc=false) and there are no rules of ours to open what is linked "
            "(--firewall none): make a network for those that shall"
        )
    found: dict[str, Link] = {}
    for text in host.links or ():
        name, alias = read_link(text)
        try:
            child = engine.registry.find(name)
            while child.record.host_config.network_mode.startswith("container:"):
                child = engine.registry.find(child.record.host_config.network_mode[10:])
        except NotFound as error:
            # 404 would tell a client that the image is missing.
            raise InvalidArgument(f"could not get container for {name}: {error.message}") from error
        if child.record.host_config.network_mode == "host":
            raise InvalidArgument(
                "conflicting options: host type networking can't be used with links. This would "
                "result in undefined behavior"
            )
        # The first has the name, as in Docker.
        found.setdefault(alias, Link(container=child.id, alias=alias))
    return tuple(found.values())


def children(engine: Engine, record: ContainerRecord) -> Iterator[tuple[Link, Live]]:
    """The links to what there is: who was removed is linked no more."""
    for link in record.links:
        if link.container in engine.registry:
            yield link, engine.registry.find(link.container)


def default_endpoint(engine: Engine, container_id: str) -> Endpoint | None:
    """A running container's endpoint on the default network."""
    try:
        return engine.networking.endpoint(container_id, engine.networking.networks.default().id)
    except NotFound:
        return None


def _is_ondefault_endpoint(engine: Engine, record: ContainerRecord) -> bool:
    return any(wish.name == "bridge" for wish in engine.networking.wishes_of(record))


# -- a start ---------------------------------------------------------------------------------------


def check(engine: Engine, record: ContainerRecord) -> None:
    """Before a start: whom it is linked to runs, on the default network. Raises SampanError."""
    if not _is_ondefault_endpoint(engine, record):
        return
    for link, child in children(engine, record):
        if not child.record.state.running:
            raise SampanError(
                f"Cannot link to a non running container: /{child.record.name} AS "
                f"/{record.name}/{link.alias}"
            )
        if default_endpoint(engine, child.id) is None:
            raise SampanError(
                f"Cannot link to /{child.record.name}, as it does not belong to the default network"
            )


def with_variables(engine: Engine, record: ContainerRecord) -> ContainerRecord:
    """The record as its processes are to have it: with the variables of its links."""
    if not record.links or not _is_ondefault_endpoint(engine, record):
        return record
    own = record.config.env or []
    names = {item.partition("=")[0] for item in own}
    made = [
        item
        for link, child in children(engine, record)
        if (endpoint := default_endpoint(engine, child.id)) is not None
        for item in _variables(f"/{record.name}/{link.alias}", link.alias, child.record, endpoint)
        if item.partition("=")[0] not in names
    ]
    config = msgspec.structs.replace(record.config, env=[*made, *own])
    return msgspec.structs.replace(record, config=config)


def _variables(name: str, alias: str, child: ContainerRecord, endpoint: Endpoint) -> Iterator[str]:
    """Those of one link, by its exposed ports and its environment."""
    upper = alias.upper().replace("-", "_")
    address = endpoint.address4
    exposed = [text.split("/") for text in ports.exposed(child.config, HostConfig())]
    found = sorted((int(number), protocol) for number, protocol in exposed)
    if found:
        # Of two protocols of one number TCP is it.
        number, protocol = min(found, key=lambda one: (one[0], one[1] != "tcp"))
        yield f"{upper}_PORT={protocol}://{address}:{number}"
    for first, last, protocol in _spans(found):
        prefix = f"{upper}_PORT_{first}_{protocol.upper()}"
        yield f"{prefix}_START={protocol}://{address}:{first}"
        yield f"{prefix}_PORT_START={first}"
        yield f"{prefix}_END={protocol}://{address}:{last}"
        yield f"{prefix}_PORT_END={last}"
    for number, protocol in found:
        prefix = f"{upper}_PORT_{number}_{protocol.upper()}"
        yield f"{prefix}={protocol}://{address}:{number}"
        yield f"{prefix}_ADDR={address}"
        yield f"{prefix}_PORT={number}"
        yield f"{prefix}_PROTO={protocol}"
    yield f"{upper}_NAME={name}"
    for item in child.config.env or ():
        variable, equals, value = item.partition("=")
        if equals and variable not in _LEFT_OUT:
            yield f"{upper}_ENV_{variable}={value}"


def _spans(found: list[tuple[int, str]]) -> Iterator[tuple[int, int, str]]:
    """(first, last, protocol) of ports that follow one another."""
    for wanted in sorted({protocol for _, protocol in found}):
        numbers = {number for number, protocol in found if protocol == wanted}
        for first in sorted(number for number in numbers if number - 1 not in numbers):
            last = first
            while last + 1 in numbers:
                last += 1
            if last - first + 1 >= _BULK:
                yield first, last, wanted


# -- /etc/hosts ------------------------------------------------------------------------------------


def _lines(alias: str, child: ContainerRecord, endpoint: Endpoint) -> list[str]:
    words = [alias, child.config.hostname]
    if alias != child.name:
        words.append(child.name)
    text = " ".join(word for word in words if word)
    return [f"{one}\t{text}\n" for one in (endpoint.address4, endpoint.address6) if one]


def host_lines(engine: Engine, record: ContainerRecord) -> list[str]:
    """The lines of /etc/hosts for whom it is linked to."""
    if not record.links or not _is_ondefault_endpoint(engine, record):
        return []
    return [
        line
        for link, child in children(engine, record)
        if (endpoint := default_endpoint(engine, child.id)) is not None
        for line in _lines(link.alias, child.record, endpoint)
    ]


def refresh(engine: Engine, parent: Live) -> None:
    """Have the lines of what runs say where those are that it is linked to; one that it has taken
    out itself stays out."""
    renewed = {
        link.alias: _lines(link.alias, child.record, endpoint)
        for link, child in children(engine, parent.record)
        if (endpoint := default_endpoint(engine, child.id)) is not None
    }
    _edit(engine, parent, renewed)


def _edit(engine: Engine, parent: Live, renewed: dict[str, list[str]]) -> None:
    try:
        files.edit_hosts(f"{engine.directory(parent.id)}/hosts", renewed=renewed)
    except OSError as error:
        log.error("/etc/hosts cannot be changed", container=parent.id, error=str(error))


def tell_parents(engine: Engine, child: Live) -> None:
    """It has its addresses of this run: those that run and are linked to it are to know."""
    for parent in engine.registry:
        if (
            parent.record.links
            and parent.record.state.running
            and any(link.container == child.id for link in parent.record.links)
        ):
            refresh(engine, parent)


# -- names -----------------------------------------------------------------------------------------


def names(engine: Engine) -> dict[str, list[str]]:
    """Container -> the names that links give it, ``/PARENT/ALIAS``."""
    found: dict[str, list[str]] = {}
    for parent in engine.registry:
        for link in parent.record.links:
            found.setdefault(link.container, []).append(f"/{parent.record.name}/{link.alias}")
    return found


def shown(engine: Engine, record: ContainerRecord) -> list[str] | None:
    """As inspection shows them: ``/NAME:/PARENT/ALIAS``."""
    return [
        f"/{child.record.name}:/{record.name}/{link.alias}"
        for link, child in children(engine, record)
    ] or None


async def unlink(engine: Engine, reference: str) -> None:
    """Remove a link by its name, ``PARENT/ALIAS``. Raises NotFound, SampanError."""
    engine.registry.find(reference)
    name, slash, alias = reference.removeprefix("/").partition("/")
    if not slash:
        raise Conflict("Conflict, cannot remove the default link name of the container")
    parent = engine.registry.find(name)
    left = tuple(link for link in parent.record.links if link.alias != alias)
    parent.record = msgspec.structs.replace(parent.record, links=left)
    engine.store.put(parent.record)
    if parent.record.state.running:
        _edit(engine, parent, {alias: []})
        from sampan.engine.link_ports import renew

        await renew(engine)
