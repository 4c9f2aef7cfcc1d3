"""Removing what nobody uses: the filters that prunes share, and the prune of containers.

``until`` is a moment or an age, as in Docker: seconds since the epoch, RFC 3339 down to a bare
date, or a Go duration before now. A label that is refused (``label!``) keeps whoever has it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from sampan.engine.container import now
from sampan.engine.log import log
from sampan.engine.logs import parse_moment
from sampan.engine.sizes import container_sizes
from sampan.errors import Conflict, InvalidArgument, NotFound

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sampan.engine.core import Engine

__all__ = ["FILTERS", "Pruned", "is_labelled", "prune_containers", "read_until"]

FILTERS = ("label", "label!", "until")
_UNITS = {
    "ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 1_000_000_000,
    "m": 60_000_000_000, "h": 3_600_000_000_000,
}  # fmt: skip
_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]*)?(?:ns|us|µs|ms|s|m|h))+\Z")
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?)(ns|us|µs|ms|s|m|h)")
_DATES = {10: "T00:00:00", 13: ":00:00", 16: ":00", 19: ""}


class Pruned(NamedTuple):
    """IDs, and the bytes that they had written."""

    ids: list[str]
    reclaimed: int


def read_until(filters: Mapping[str, Sequence[str]]) -> int:
    """The moment of the filter ``until`` in nanoseconds since the epoch; 0 where there is none.

    Raises InvalidArgument.
    """
    values = filters.get("until", ())
    if not values:
        return 0
    if len(values) > 1:
        raise InvalidArgument("more than one until filter specified")
    text = values[0]
    if _DURATION.match(text):
        age = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
        return now() - int(age)
    if re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        body = text.removesuffix("Z")
        text = body + _DATES.get(len(body), "") + ("Z" if len(body) in _DATES else "")
    return parse_moment(text)


def _has(labels: Mapping[str, str], wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


def is_labelled(filters: Mapping[str, Sequence[str]], labels: Mapping[str, str]) -> bool:
    """Whether it has every label of ``label``, and none of ``label!``."""
    return all(_has(labels, wanted) for wanted in filters.get("label", ())) and not any(
        _has(labels, wanted) for wanted in filters.get("label!", ())
    )


async def prune_containers(engine: Engine, filters: Mapping[str, Sequence[str]]) -> Pruned:
    """Remove every container that does not run. Raises InvalidArgument, Conflict."""
    until = read_until(filters)
    if engine.pruning:
        raise Conflict("a prune operation is already running")
    engine.pruning = True
    removed: list[str] = []
    reclaimed = 0
    try:
        for live in engine.registry:
            record = live.record
            if record.state.up or live.begun is not None or 0 < until < record.created:
                continue
            if not is_labelled(filters, record.config.labels or {}):
                continue
            try:
                size = (await container_sizes(engine, record)).rw
                await engine.remove(record.id)
            except (Conflict, NotFound) as error:
                log.debug("a container is not pruned", container=record.id, error=error.message)
                continue
            removed.append(record.id)
            reclaimed += size
    finally:
        engine.pruning = False
    engine.events.publish("container", "prune", "", {"reclaimed": str(reclaimed)})
    return Pruned(removed, reclaimed)
