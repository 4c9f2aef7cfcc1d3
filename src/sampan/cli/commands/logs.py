"""``logs``: what a container has said."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from sampan.cli.commands.common import read
from sampan.cli.flags import Flag
from sampan.cli.streams import copy_frames
from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    from sampan.cli.client import Client

__all__ = ["logs"]


def logs(client: Client, argv: list[str]) -> int:
    """Print a container's log; with -f until it ends."""
    flags = read(
        "logs",
        "[OPTIONS] CONTAINER",
        "Fetch the logs of a container",
        [
            Flag("details", "bool", "Show extra details provided to logs"),
            Flag("follow", "bool", "Follow log output", short="f"),
            Flag("since", "str", "Show logs since timestamp or relative (e.g. 42m)"),
            Flag("tail", "str", "Number of lines from the end of the logs", short="n"),
            Flag("timestamps", "bool", "Show timestamps", short="t"),
            Flag("until", "str", "Show logs before a timestamp or relative (e.g. 42m)"),
        ],
        argv,
        least=1,
        most=1,
    )
    if flags is None:
        return 0
    name = flags.arguments[0]
    details = client.call("GET", f"/containers/{name}/json")
    query: dict[str, object] = {
        "stdout": True,
        "stderr": True,
        "follow": flags.flag("follow"),
        "timestamps": flags.flag("timestamps"),
        "details": flags.flag("details"),
        "tail": flags.text("tail", "all"),
        "since": moment(flags.text("since"), "--since"),
        "until": moment(flags.text("until"), "--until"),
    }
    response = client.request("GET", f"/containers/{details['Id']}/logs", query)
    copy_frames(response, raw=bool(details["Config"]["Tty"]))
    return 0


_UNITS = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}


def moment(text: str, shown: str) -> str:
    """Unix seconds of a time, a Unix time, or how long ago ("1h30m"); "" for ""."""
    if not text:
        return ""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return text
    if re.fullmatch(r"(\d+(\.\d+)?(h|ms|m|s))+", text):
        parts = re.findall(r"(\d+(?:\.\d+)?)(h|ms|m|s)", text)
        return f"{time.time() - sum(float(n) * _UNITS[u] for n, u in parts):.9f}"
    import datetime

    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise InvalidArgument(
            f"{shown}: {text}: expected a time (2026-01-02T13:23:37Z), Unix seconds, or 42m"
        ) from None
    return f"{when.timestamp():.9f}"
