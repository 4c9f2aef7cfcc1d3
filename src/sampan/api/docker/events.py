"""``GET /events``: what happens, as it happens, one JSON object a line."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import msgspec

from sampan.engine.logs import parse_moment
from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sampan.api.docker.context import Context
    from sampan.api.http.connection import Answer
    from sampan.engine.events import Event

__all__ = ["ROUTES", "selected"]

_encode = msgspec.json.Encoder().encode
_ACTORS = ("container", "image", "volume")
_KNOWN = ("type", "event", "label", *_ACTORS)


def selected(event: Event, filters: Mapping[str, Sequence[str]]) -> bool:
    """Values of one filter are alternatives, but for labels; different filters must all hold."""
    for name, values in filters.items():
        if name == "type":
            good = event.type in values
        elif name == "event":
            good = any(event.action.partition(":")[0] == value for value in values)
        elif name == "label":
            good = all(_labelled(event, value) for value in values)
        else:
            good = event.type == name and any(_is(event, value) for value in values)
        if not good:
            return False
    return True


def _labelled(event: Event, wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return key in event.attributes and (not equals or event.attributes[key] == value)


def _is(event: Event, reference: str) -> bool:
    return event.id.startswith(reference) or event.attributes.get("name") == reference


def _json(event: Event) -> bytes:
    shown: dict[str, Any] = {
        "Type": event.type,
        "Action": event.action,
        "Actor": {"ID": event.id, "Attributes": event.attributes},
        "scope": "local",
        "time": event.time // 1_000_000_000,
        "timeNano": event.time,
    }
    # The form before API 1.22, which clients still read.
    shown |= {"status": event.action, "id": event.id}
    if "image" in event.attributes:
        shown["from"] = event.attributes["image"]
    return _encode(shown) + b"\n"


async def events(context: Context) -> Answer:
    filters = context.filters()
    for name in filters:
        if name not in _KNOWN:
            raise InvalidArgument(f"invalid filter '{name}': known are {', '.join(_KNOWN)}")
    since, until = (parse_moment(context.text(name)) for name in ("since", "until"))
    subscription = context.engine.events.subscribe(since)
    try:
        stream = context.stream()
        while True:
            event = await _next(context, subscription.get(), until)
            if event is None:
                return stream
            if selected(event, filters):
                await stream.write(_json(event))
    finally:
        subscription.close()


async def _next(context: Context, waiting: Any, until: int) -> Event | None:
    """The next event; None when the client is gone, too slow, or ``until`` is over."""
    left = until / 1e9 - time.time() if until else None
    task = asyncio.ensure_future(waiting)
    waits: tuple[asyncio.Future[Any], ...] = (task, context.connection.lost)
    await asyncio.wait(
        waits,
        timeout=None if left is None else max(0.0, left),
        return_when=asyncio.FIRST_COMPLETED,
    )
    if not task.done():
        task.cancel()
        return None
    event: Event | None = task.result()
    return None if event is not None and 0 < until < event.time else event


ROUTES = (("GET", "/events", events),)
