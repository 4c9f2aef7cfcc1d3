"""``ps``: the containers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from sampan.cli import autostart
from sampan.cli.commands.common import filters, read
from sampan.cli.flags import Flag
from sampan.cli.output import age, command_line, print_rows, short_id, size

if TYPE_CHECKING:
    from sampan.cli.client import Client

__all__ = ["ps"]

_COLUMNS = [
    ("CONTAINER ID", "ID"),
    ("IMAGE", "Image"),
    ("COMMAND", "Command"),
    ("CREATED", "RunningFor"),
    ("STATUS", "Status"),
    ("PORTS", "Ports"),
    ("NAMES", "Names"),
]


def ps(client: Client, argv: list[str]) -> int:
    """List containers."""
    flags = read(
        "ps",
        "[OPTIONS]",
        "List containers",
        [
            Flag("all", "bool", "Show all containers (default shows just running)", short="a"),
            Flag("filter", "list", "Filter output based on conditions provided", short="f"),
            Flag("format", "str", "'table', 'table TEMPLATE', 'json' or a Go template"),
            Flag("last", "int", "Show n last created containers (includes all states)", short="n"),
            Flag("latest", "bool", "Show the latest created container", short="l"),
            Flag("no-trunc", "bool", "Don't truncate output"),
            Flag("quiet", "bool", "Only display container IDs", short="q"),
            Flag("size", "bool", "Display total file sizes", short="s"),
        ],
        argv,
        most=0,
    )
    if flags is None:
        return 0
    autostart.ensure(client.host)
    last = 1 if flags.flag("latest") else flags.number("last")
    query: dict[str, object] = {
        "all": flags.flag("all") or last > 0,
        "limit": last if last > 0 else None,
        "size": flags.flag("size"),
        "filters": filters(flags.items("filter")),
    }
    containers = client.call("GET", "/containers/json", query)
    full = flags.flag("no-trunc")
    rows = [_row(container, full) for container in containers]
    columns = [*_COLUMNS, ("SIZE", "Size")] if flags.flag("size") else _COLUMNS
    print_rows(rows, columns, flags.text("format"), flags.flag("quiet"))
    return 0


def _row(container: dict[str, Any], full: bool) -> dict[str, Any]:
    identity = str(container["Id"])
    ports = (
        f"{p.get('IP', '')}:{p['PublicPort']}->{p['PrivatePort']}/{p['Type']}"
        if p.get("PublicPort")
        else f"{p['PrivatePort']}/{p['Type']}"
        for p in container.get("Ports") or []
    )
    rw, whole = container.get("SizeRw") or 0, container.get("SizeRootFs") or 0
    return {
        "ID": identity if full else short_id(identity),
        "Image": container["Image"],
        "Command": command_line(container["Command"], full),
        "CreatedAt": time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(container["Created"])),
        "RunningFor": age(time.time() - container["Created"]) + " ago",
        "State": container["State"],
        "Status": container["Status"],
        "Ports": ", ".join(ports),
        "Names": ",".join(name.removeprefix("/") for name in container["Names"]),
        "Labels": ",".join(f"{k}={v}" for k, v in sorted((container["Labels"] or {}).items())),
        "Mounts": ",".join(m.get("Name") or m.get("Source", "") for m in container["Mounts"]),
        "Networks": ",".join((container.get("NetworkSettings") or {}).get("Networks") or {}),
        "Size": f"{size(rw)} (virtual {size(whole)})",
    }
