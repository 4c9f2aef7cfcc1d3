"""``events``: what happens, as it happens."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from sampan.cli.commands.common import TEMPLATE, filters, read
from sampan.cli.flags import Flag, UsageError
from sampan.cli.moments import moment
from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable

    from sampan.cli.client import Client

__all__ = ["events"]

_NAMES = {"From": "from", "ID": "id", "Scope": "scope", "Status": "status"}
_BLANK = {"Type": "", "Action": "", "Actor": {"ID": ""}, "scope": "", "time": 0, "timeNano": 0}
_NAMES |= {"Time": "time", "TimeNano": "timeNano"}


def events(client: Client, argv: list[str]) -> int:
    """Print events until --until, or until interrupted."""
    flags = read(
        "events",
        "[OPTIONS]",
        "Print what happens as it happens",
        [
            Flag(
                "filter", "list", "Only those that meet a condition, such as event=die", short="f"
            ),
            Flag("format", "str", TEMPLATE.help),
            Flag("since", "str", "Those after this time too, or so long ago (42m)", hint="time"),
            Flag("until", "str", "End at this time, or so long ago or ahead", hint="time"),
        ],
        argv,
        most=0,
    )
    if flags is None:
        return 0
    query: dict[str, object] = {
        "filters": filters(flags.items("filter")),
        "since": moment(flags.text("since"), "--since"),
        "until": moment(flags.text("until"), "--until"),
    }
    show = _shower(flags.text("format"))
    for event in client.lines("GET", "/events", query):
        sys.stdout.write(show(event) + "\n")
        sys.stdout.flush()
    return 0


def _shower(layout: str) -> Callable[[dict[str, Any]], str]:
    if not layout:
        return _line
    from sampan import template

    try:
        parsed = template.parse("{{json .}}" if layout == "json" else template.unescape(layout))
        template.render(parsed, _named(dict(_BLANK)))  # told now, not with the first event
    except InvalidArgument as error:
        wrong = UsageError(f"--format: {error}")
        wrong.exit_code = 64  # EX_USAGE, as Docker's client
        raise wrong from error
    return lambda event: template.render(parsed, _named(event))


def _named(event: dict[str, Any]) -> dict[str, Any]:
    """In the order of Docker's type, and with its fields' names beside those of its JSON."""
    from sampan import template

    actor = event.get("Actor") or {}
    actor["Attributes"] = template.Map(actor.get("Attributes") or {})
    first = {key: event[key] for key in ("status", "id", "from") if event.get(key)}
    value = template.Struct({**first, **event, "Actor": actor})
    value.optional = {name: event.get(key, "") for name, key in _NAMES.items()}
    return value


def _line(event: dict[str, Any]) -> str:
    """``2026-01-02T15:04:05.000000000+01:00 container start <id> (image=…, name=…)``."""
    nanoseconds = event.get("timeNano") or 0
    local = time.localtime(nanoseconds // 10**9 if nanoseconds else event.get("time") or 0)
    zone = time.strftime("%z", local)
    zone = "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}"
    when = f"{time.strftime('%Y-%m-%dT%H:%M:%S', local)}.{nanoseconds % 10**9:09d}{zone}"
    actor = event.get("Actor") or {}
    attributes = ", ".join(f"{k}={v}" for k, v in sorted((actor.get("Attributes") or {}).items()))
    text = f"{when} {event.get('Type')} {event.get('Action')} {actor.get('ID')}"
    return f"{text} ({attributes})" if attributes else text
