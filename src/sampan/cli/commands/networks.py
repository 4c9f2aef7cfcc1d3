"""``network ls`` and ``network inspect``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.cli import autostart
from sampan.cli.commands.common import FORMAT, TEMPLATE, filters, read
from sampan.cli.flags import Flag
from sampan.cli.output import moment, print_rows, short_id

if TYPE_CHECKING:
    from sampan.cli.client import Client

__all__ = ["inspect", "listing"]

_COLUMNS = [
    ("NETWORK ID", "ID"),
    ("NAME", "Name"),
    ("DRIVER", "Driver"),
    ("SCOPE", "Scope"),
]
_HEADINGS = {
    "CreatedAt": "CREATED AT",
    "IPv4": "IPV4",
    "IPv6": "IPV6",
    "Internal": "INTERNAL",
    "Labels": "LABELS",
}
_RAW = "network_id: {{.ID}}\\nname: {{.Name}}\\ndriver: {{.Driver}}\\nscope: {{.Scope}}\\n"


def listing(client: Client, argv: list[str]) -> int:
    """List networks."""
    flags = read(
        "network ls",
        "[OPTIONS]",
        "List networks",
        [
            Flag(
                "filter", "list", "Only those that meet a condition, such as driver=host", short="f"
            ),
            FORMAT,
            Flag("no-trunc", "bool", "Whole IDs"),
            Flag("quiet", "bool", "IDs only", short="q"),
        ],
        argv,
        most=0,
    )
    if flags is None:
        return 0
    autostart.ensure(client.host)
    query: dict[str, object] = {"filters": filters(flags.items("filter"))}
    rows = []
    for network in sorted(client.call("GET", "/networks", query), key=lambda n: str(n["Name"])):
        labels = network.get("Labels") or {}
        identity = str(network["Id"])
        rows.append(
            {
                "ID": identity if flags.flag("no-trunc") else short_id(identity),
                "Name": network["Name"],
                "Driver": network.get("Driver") or "",
                "Scope": network.get("Scope") or "",
                "IPv4": str(bool(network.get("EnableIPv4"))).lower(),
                "IPv6": str(bool(network.get("EnableIPv6"))).lower(),
                "Internal": str(bool(network.get("Internal"))).lower(),
                "Labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
                "Label": lambda name, labels=labels: labels.get(name, ""),
                "CreatedAt": moment(network.get("Created") or ""),
            }
        )
    layout = flags.text("format") or client.settings.preference("networksFormat")
    print_rows(rows, _COLUMNS, layout, flags.flag("quiet"), headings=_HEADINGS, raw=_RAW)
    return 0


def inspect(client: Client, argv: list[str]) -> int:
    """All the daemon knows of networks."""
    from sampan.cli.commands.inspect import show

    flags = read(
        "network inspect",
        "[OPTIONS] NETWORK [NETWORK...]",
        "Show all the daemon knows of networks",
        [TEMPLATE, Flag("verbose", "bool", "More, for diagnosis", short="v")],
        argv,
        least=1,
    )
    if flags is None:
        return 0
    query: dict[str, object] = {"verbose": "true" if flags.flag("verbose") else None}
    return show(client, "/networks/{}", flags.arguments, flags.text("format"), query)
