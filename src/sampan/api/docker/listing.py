"""``GET /containers/json``: filters and limits, over a snapshot that waits for nobody."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sampan.api.docker.render import summary
from sampan.engine.sizes import container_sizes
from sampan.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sampan.api.docker.versions import Version
    from sampan.engine.core import Engine
    from sampan.engine.live import Live

    Test = Callable[[Live], bool]
    Maker = Callable[[tuple[str, ...]], Test]

__all__ = ["FILTERS", "list_containers"]

_STATUSES = ("created", "restarting", "running", "removing", "paused", "exited", "dead")
_HEALTHS = ("starting", "healthy", "unhealthy", "none")
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp|sctp)?)?\Z")


def _labelled(live: Live, wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    labels = live.record.config.labels or {}
    return key in labels and (not equals or labels[key] == value)


def _any(match: Callable[[Live, str], bool]) -> Maker:
    def make(values: tuple[str, ...]) -> Test:
        return lambda live: any(match(live, value) for value in values)

    return make


def _all_labels(values: tuple[str, ...]) -> Test:
    return lambda live: all(_labelled(live, value) for value in values)


def _one_of(name: str, allowed: tuple[str, ...], match: Callable[[Live], str]) -> Maker:
    def make(values: tuple[str, ...]) -> Test:
        for value in values:
            if value not in allowed:
                raise InvalidArgument(
                    f"invalid filter '{name}={value}': use one of {', '.join(allowed)}"
                )
        return lambda live: match(live) in values

    return make


def _exited(values: tuple[str, ...]) -> Test:
    try:
        codes = {int(value) for value in values}
    except ValueError as error:
        raise InvalidArgument(f"invalid filter 'exited={values[0]}': not a number") from error

    def test(live: Live) -> bool:
        state = live.record.state
        return not state.up and state.started_at > 0 and state.exit_code in codes

    return test


def _name_matches(live: Live, wanted: str) -> bool:
    """Docker takes a regular expression; what people write is a part of a name or ``^/?name$``."""
    try:
        pattern = re.compile(wanted)
    except re.error as error:
        raise InvalidArgument(f"invalid filter 'name={wanted}': {error}") from error
    name = live.record.name
    return pattern.search(name) is not None or pattern.search(f"/{name}") is not None


def _has_volume(live: Live, wanted: str) -> bool:
    return any(
        wanted in (mount.name or mount.source, mount.destination) for mount in live.record.mounts
    )


def _health(live: Live) -> str:
    health = live.record.state.health
    return "none" if health is None else health.status


def _is_task(values: tuple[str, ...]) -> Test:
    """Of a swarm, which this engine is in none of."""
    if len(values) != 1 or values[0].lower() not in ("true", "false", "1", "0"):
        raise InvalidArgument(f"invalid filter 'is-task=[{' '.join(values)}]'")
    return lambda _: values[0].lower() in ("false", "0")


def _ports(name: str, engine: Engine | None = None) -> Maker:
    """By what is exposed; with an ``engine``, by which of the machine's ports are published."""

    def make(values: tuple[str, ...]) -> Test:
        wanted: set[str] = set()
        for value in values:
            if ":" in value:
                raise InvalidArgument(f"filter for '{name}' should not contain ':': {value}")
            match = _PORTS.match(value)
            first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
            if match is None or last > 65535 or first > last:
                raise InvalidArgument(
                    f"error while looking up for {name} {value}: write PORT, PORT/PROTOCOL or "
                    "FIRST-LAST/PROTOCOL"
                )
            wanted |= {f"{port}/{match[3] or 'tcp'}" for port in range(first, last + 1)}
        if engine is not None:
            networking = engine.networking
            return lambda live: any(
                f"{one.port}/{one.protocol}" in wanted for one in networking.ports(live.id)
            )
        return lambda live: bool(wanted & set(live.record.config.exposed_ports or ()))

    return make


def _network(engine: Engine) -> Callable[[Live, str], bool]:
    def match(live: Live, wanted: str) -> bool:
        return wanted != "" and any(
            wanted == wish.name or wish.network.startswith(wanted)
            for wish in engine.networking.wishes_of(live.record)
        )

    return match


_MAKERS: dict[str, Maker] = {
    "exited": _exited,
    "expose": _ports("expose"),
    "health": _one_of("health", _HEALTHS, _health),
    "id": _any(lambda live, value: live.id.startswith(value)),
    "is-task": _is_task,
    "isolation": lambda _: lambda _: True,  # containers of Windows have more than one
    "label": _all_labels,
    "name": _any(_name_matches),
    "status": _one_of("status", _STATUSES, lambda live: live.status),
    "volume": _any(_has_volume),
}
FILTERS = (*_MAKERS, "ancestor", "before", "since", "network", "publish")


async def _descends(engine: Engine, values: tuple[str, ...]) -> Test:
    """Made from one of these images, or from one that is built on it."""
    found = [await engine.images.find(value) for value in values]
    ids = {image.id for image in found if image is not None}
    tops = {image.chain[-1] for image in found if image is not None and image.chain}
    if tops:
        ids |= {image.id for image in await engine.images.select({}) if tops & set(image.chain)}
    return lambda live: live.record.image_id in ids


def _by_age(engine: Engine, name: str, values: tuple[str, ...]) -> Test:
    moments = [engine.registry.find(value).record.created for value in values]
    if name == "before":
        return lambda live: live.record.created < min(moments)
    return lambda live: live.record.created > max(moments)


async def _tests(engine: Engine, filters: Mapping[str, Sequence[str]]) -> list[Test]:
    tests: list[Test] = []
    for name, given in filters.items():
        values = tuple(given)
        if name == "ancestor":
            tests.append(await _descends(engine, values))
        elif name in ("before", "since"):
            tests.append(_by_age(engine, name, values))
        elif name == "network":
            tests.append(_any(_network(engine))(values))
        elif name == "publish":
            tests.append(_ports(name, engine)(values))
        else:
            tests.append(_MAKERS[name](values))
    return tests


async def list_containers(
    engine: Engine,
    version: Version,
    *,
    everything: bool,
    limit: int | None,
    size: bool,
    filters: Mapping[str, Sequence[str]],
) -> list[dict[str, Any]]:
    """Newest first. Raises InvalidArgument, NotFound."""
    tests = await _tests(engine, filters)
    if "status" in filters or (limit or 0) > 0:
        everything = True
    chosen = [
        live
        for live in sorted(engine.registry, key=lambda live: -live.record.created)
        if (everything or live.record.state.up) and all(test(live) for test in tests)
    ]
    if limit and limit > 0:
        chosen = chosen[:limit]
    linked: Mapping[str, Sequence[str]] = {}
    if any(live.record.links for live in engine.registry):
        from sampan.engine.links import names

        linked = names(engine)
    entries = []
    for live in chosen:
        record = live.record
        # A name that has moved to another image is no longer this container's.
        image = await engine.images.find(record.image_name)
        same = image is not None and image.id == record.image_id
        entry = summary(engine, live, version, record.image_name if same else record.image_id)
        entry["Names"] += linked.get(live.id, ())
        if size:
            try:
                entry["SizeRw"], entry["SizeRootFs"] = await container_sizes(engine, record)
            except NotFound:
                continue  # removed while the others were measured
        entries.append(entry)
    return entries
