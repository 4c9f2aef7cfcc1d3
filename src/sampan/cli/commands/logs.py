"""``logs``: what a container has said."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.cli.commands.common import read
from sampan.cli.flags import Flag
from sampan.cli.moments import moment
from sampan.cli.streams import copy_frames

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
