"""``GET /containers/json``: filters and limits, over a snapshot that waits for nobody."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sampan.api.docker.render import summary
from sampan.engine.sizes import container_sizes
from sampan.errors import InvalidArgument, NotFound, NotSupported

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sampan.engine.container import ContainerRecord
    from sampan.engine.core import Engine

    Test = Callable[[ContainerRecord], bool]
    Maker = Callable[[tuple[str, ...]], Test]

__all__ = ["list_containers"]

_STATUSES = {"created", "restarting", "running", "removing", "paused", "exited", "dead"}
_LATER = {"network", "publish", "expose", "health", "is-task", "isolation"}


def _labelled(record: ContainerRecord, wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    labels = record.config.labels or {}
    return key in labels and (not equals or labels[key] == value)


def _any(match: Callable[[ContainerRecord, str], bool]) -> Maker:
    def make(values: tuple[str, ...]) -> Test:
        return lambda record: any(match(record, value) for value in values)

    return make


def _all_labels(values: tuple[str, ...]) -> Test:
    return lambda record: all(_labelled(record, value) for value in values)


def _status(values: tuple[str, ...]) -> Test:
    for value in values:
        if value not in _STATUSES:
            raise InvalidArgument(f"invalid filter 'status={value}'")
    return lambda record: record.state.status in values


def _exited(values: tuple[str, ...]) -> Test:
    try:
        codes = {int(value) for value in values}
    except ValueError as error:
        raise InvalidArgument(f"invalid filter 'exited={values}': not a number") from error
    return lambda record: record.state.status == "exited" and record.state.exit_code in codes


def _name_matches(record: ContainerRecord, wanted: str) -> bool:
    """Docker takes a regular expression; what people write is a part of a name or ``^/?name$``."""
    try:
        pattern = re.compile(wanted)
    except re.error as error:
        raise InvalidArgument(f"invalid filter 'name={wanted}': {error}") from error
    return pattern.search(record.name) is not None or pattern.search(f"/{record.name}") is not None


def _has_volume(record: ContainerRecord, wanted: str) -> bool:
    return any(wanted in (mount.name, mount.destination) for mount in record.mounts)


_MAKERS: dict[str, Maker] = {
    "id": _any(lambda record, value: record.id.startswith(value)),
    "name": _any(_name_matches),
    "label": _all_labels,
    "status": _status,
    "exited": _exited,
    "volume": _any(_has_volume),
}


async def _descends(engine: Engine, values: tuple[str, ...]) -> Test:
    """Made from one of these images, or from one that is built on it."""
    found = [await engine.images.find(value) for value in values]
    ids = {image.id for image in found if image is not None}
    tops = {image.chain[-1] for image in found if image is not None and image.chain}
    if tops:
        ids |= {image.id for image in await engine.images.select({}) if tops & set(image.chain)}
    return lambda record: record.image_id in ids


def _by_age(engine: Engine, name: str, values: tuple[str, ...]) -> Test:
    moments = [engine.registry.find(value).record.created for value in values]
    if name == "before":
        return lambda record: record.created < min(moments)
    return lambda record: record.created > max(moments)


async def _tests(engine: Engine, filters: Mapping[str, Sequence[str]]) -> list[Test]:
    tests: list[Test] = []
    for name, given in filters.items():
        values = tuple(given)
        if name in _MAKERS:
            tests.append(_MAKERS[name](values))
        elif name == "ancestor":
            tests.append(await _descends(engine, values))
        elif name in ("before", "since"):
            tests.append(_by_age(engine, name, values))
        elif name in _LATER:
            raise NotSupported(f"the filter {name} is not supported by this version")
        else:
            raise InvalidArgument(f"invalid filter '{name}'")
    return tests


async def list_containers(
    engine: Engine,
    *,
    everything: bool,
    limit: int | None,
    size: bool,
    filters: Mapping[str, Sequence[str]],
) -> list[dict[str, Any]]:
    """Newest first. Raises InvalidArgument, NotFound, NotSupported."""
    tests = await _tests(engine, filters)
    if "status" in filters or "exited" in filters or (limit or 0) > 0:
        everything = True
    records = sorted((live.record for live in engine.registry), key=lambda record: -record.created)
    chosen = [
        record
        for record in records
        if (everything or record.state.up) and all(test(record) for test in tests)
    ]
    if limit and limit > 0:
        chosen = chosen[:limit]
    entries = []
    for record in chosen:
        # A name that has moved to another image is no longer this container's.
        image = await engine.images.find(record.image_name)
        same = image is not None and image.id == record.image_id
        entry = summary(record, record.image_name if same else record.image_id)
        if size:
            try:
                entry["SizeRw"], entry["SizeRootFs"] = await container_sizes(engine, record)
            except NotFound:
                continue  # removed while the others were measured
        entries.append(entry)
    return entries
