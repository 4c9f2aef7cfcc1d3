"""``GET /events``: what happened and what happens, one JSON object a line."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import msgspec

from sampan.engine.logs import parse_moment
from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sampan.api.docker.context import Context
    from sampan.api.http.stream import Answer
    from sampan.engine.events import Event

__all__ = ["ROUTES", "selected"]

_encode = msgspec.json.Encoder().encode
# Filters that name an actor by its type, each matching the beginning of an ID or a name.
_ACTORS = (
    "config", "container", "daemon", "network", "node", "plugin", "secret", "service", "volume",
)  # fmt: skip
# Actions that go on with what was done, behind a colon.
_LONG = ("exec_create", "exec_start", "health_status")
_LEGACY = ("container", "image")


def _labelled(event: Event, wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return key in event.attributes and (not equals or event.attributes[key] == value)


def _acted(event: Event, wanted: str) -> bool:
    return event.action == wanted or (wanted in _LONG and event.action.startswith(f"{wanted}:"))


def _is(kind: str) -> Callable[[Event, str], bool]:
    def match(event: Event, reference: str) -> bool:
        name = event.attributes.get("name", "")
        return event.type == kind and (event.id.startswith(reference) or name.startswith(reference))

    return match


def _without_tag(name: str) -> str:
    head, slash, last = name.rpartition("/")
    return head + slash + last.partition("@")[0].partition(":")[0]


def _image(event: Event, wanted: str) -> bool:
    """Of an image, or of a container that was made from it; a tag may be left out."""
    name = event.attributes.get("name" if event.type == "image" else "image", "")
    names = {event.id, name, _without_tag(event.id), _without_tag(name)}
    return event.type in _LEGACY and wanted in names


_MATCH: dict[str, Callable[[Event, str], bool]] = {
    "type": lambda event, value: event.type == value,
    "event": _acted,
    "scope": lambda _, value: value == "local",
    "image": _image,
    "label": _labelled,
    **{kind: _is(kind) for kind in _ACTORS},
}


def selected(event: Event, filters: Mapping[str, Sequence[str]]) -> bool:
    """Values of one filter are alternatives, but for labels; different filters must all hold."""
    for name, values in filters.items():
        found = (_MATCH[name](event, value) for value in values)
        if not (all(found) if name == "label" else any(found)):
            return False
    return True


def _json(event: Event) -> bytes:
    shown: dict[str, Any] = {
        "Type": event.type,
        "Action": event.action,
        "Actor": {"ID": event.id, "Attributes": event.attributes},
        "scope": "local",
        "time": event.time // 1_000_000_000,
        "timeNano": event.time,
    }
    if event.type in _LEGACY:
        # The form before API 1.22, which clients still read.
        shown |= {"status": event.action, "id": event.id}
        if "image" in event.attributes:
            shown["from"] = event.attributes["image"]
    return _encode(shown) + b"\n"


async def events(context: Context) -> Answer:
    filters = context.filters()
    for name in filters:
        if name not in _MATCH:
            raise InvalidArgument(f"invalid filter '{name}'")
    since, until = (parse_moment(context.text(name)) for name in ("since", "until"))
    if 0 < until < since:
        raise InvalidArgument("`since` time cannot be after `until` time")
    subscription = context.engine.events.subscribe(since)
    lost = context.connection.lost
    try:
        stream = context.stream()
        batches = aiter(subscription)
        while True:
            task = asyncio.ensure_future(anext(batches))
            left = until / 1e9 - time.time() if until else None
            waits: tuple[asyncio.Future[Any], ...] = (task, lost)
            # The past is told even where it is over already: it is read without a wait.
            patience = None if left is None or not subscription.idle else max(0.0, left)
            await asyncio.wait(waits, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                task.cancel()
                await asyncio.wait((task,))
                return stream
            batch = task.result()
            told = b"".join(
                _json(event)
                for event in batch
                if not 0 < until < event.time and selected(event, filters)
            )
            if told:
                await stream.write(told)
            if not batch and 0 < until <= time.time_ns():
                return stream
    finally:
        subscription.close()


ROUTES = (("GET", "/events", events),)
