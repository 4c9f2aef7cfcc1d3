"""``volume``: create, inspect, ls, rm."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sampan.cli import autostart
from sampan.cli.commands.common import FORMAT, TEMPLATE, each, filters, path, read
from sampan.cli.flags import Flag, UsageError
from sampan.cli.output import print_rows, size

if TYPE_CHECKING:
    from sampan.cli.client import Client

__all__ = ["create", "inspect", "listing", "remove", "volume_row"]

_NO_SWARM = "cluster volumes need a swarm, and this engine runs on one machine"
_CLUSTER = [
    Flag("availability", "str", "", refused=_NO_SWARM),
    Flag("group", "str", "", refused=_NO_SWARM),
    Flag("limit-bytes", "bytes", "", refused=_NO_SWARM),
    Flag("required-bytes", "bytes", "", refused=_NO_SWARM),
    Flag("scope", "str", "", refused=_NO_SWARM),
    Flag("secret", "list", "", refused=_NO_SWARM),
    Flag("sharing", "str", "", refused=_NO_SWARM),
    Flag("topology-preferred", "list", "", refused=_NO_SWARM),
    Flag("topology-required", "list", "", refused=_NO_SWARM),
    Flag("type", "str", "", refused=_NO_SWARM),
]
_COLUMNS = [("DRIVER", "Driver"), ("VOLUME NAME", "Name")]
_HEADINGS = {
    "Availability": "AVAILABILITY",
    "Group": "GROUP",
    "Labels": "LABELS",
    "Links": "LINKS",
    "Mountpoint": "MOUNTPOINT",
    "Scope": "SCOPE",
    "Size": "SIZE",
    "Status": "STATUS",
}
_RAW = "name: {{.Name}}\\ndriver: {{.Driver}}\\n"


def create(client: Client, argv: list[str]) -> int:
    """Make a volume and print its name."""
    flags = read(
        "volume create",
        "[OPTIONS] [VOLUME]",
        "Make a volume",
        [
            Flag("driver", "str", "The volume's driver: local is the one there is", short="d"),
            Flag("label", "list", "Say something of the volume: key=value"),
            Flag("name", "str", ""),
            Flag("opt", "list", "The driver's options: type, device, o", short="o", hint="map"),
            *_CLUSTER,
        ],
        argv,
        most=1,
    )
    if flags is None:
        return 0
    if flags.arguments and flags.given("name"):
        raise UsageError("volume create: a name is given twice, by --name and as an argument")
    options = {}
    for item in flags.items("opt"):
        name, equals, value = item.partition("=")
        if not equals:
            raise UsageError(f"--opt: {item}: expected name=value")
        options[name] = value
    labels = dict(item.partition("=")[::2] for item in flags.items("label"))
    autostart.ensure(client.host)
    body: dict[str, object] = {
        "Name": flags.arguments[0] if flags.arguments else flags.text("name"),
        "Driver": flags.text("driver", "local"),
        "DriverOpts": options,
        "Labels": labels,
    }
    print(client.call("POST", "/volumes/create", body=body)["Name"])
    return 0


def inspect(client: Client, argv: list[str]) -> int:
    """All the daemon knows of volumes."""
    from sampan.cli.commands.inspect import show

    flags = read(
        "volume inspect",
        "[OPTIONS] VOLUME [VOLUME...]",
        "Show all the daemon knows of volumes",
        [TEMPLATE],
        argv,
        least=1,
    )
    if flags is None:
        return 0
    return show(client, "/volumes/{}", flags.arguments, flags.text("format"), {})


def listing(client: Client, argv: list[str]) -> int:
    """List volumes."""
    flags = read(
        "volume ls",
        "[OPTIONS]",
        "List volumes",
        [
            Flag("cluster", "bool", "", refused=_NO_SWARM),
            Flag("filter", "list", "Only those that meet a condition (dangling=true)", short="f"),
            FORMAT,
            Flag("quiet", "bool", "Names only", short="q"),
        ],
        argv,
        most=0,
    )
    if flags is None:
        return 0
    autostart.ensure(client.host)
    query: dict[str, object] = {"filters": filters(flags.items("filter"))}
    found = client.call("GET", "/volumes", query)["Volumes"] or []
    rows = [volume_row(volume) for volume in sorted(found, key=lambda one: _natural(one["Name"]))]
    quiet = flags.flag("quiet")
    layout = flags.text("format") or client.settings.preference("volumesFormat")
    columns = [("VOLUME NAME", "Name")] if quiet else _COLUMNS
    print_rows(rows, columns, layout, quiet, headings=_HEADINGS, raw=_RAW)
    return 0


def _natural(name: str) -> list[tuple[int, int, str]]:
    """An order in which v2 comes before v10."""
    parts = re.findall(r"\d+|\D+", name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts]


def volume_row(volume: dict[str, Any]) -> dict[str, Any]:
    """A volume as templates see it; what only ``system df`` knows is N/A elsewhere."""
    labels = volume.get("Labels") or {}
    usage = volume.get("UsageData")
    return {
        "Name": volume["Name"],
        "Driver": volume["Driver"],
        "Scope": volume["Scope"],
        "Mountpoint": volume["Mountpoint"],
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        "Label": lambda name: labels.get(name, ""),
        "Links": str(usage["RefCount"]) if usage else "N/A",
        "Size": size(usage["Size"], 4) if usage else "N/A",
        "Group": "N/A",
        "Availability": "N/A",
        "Status": "N/A",
    }


def remove(client: Client, argv: list[str]) -> int:
    """Remove volumes."""
    flags = read(
        "volume rm",
        "[OPTIONS] VOLUME [VOLUME...]",
        "Remove volumes that no container uses",
        [Flag("force", "bool", "One that is not there is no error", short="f")],
        argv,
        least=1,
    )
    if flags is None:
        return 0
    query: dict[str, object] = {"force": "1" if flags.flag("force") else None}
    return each(
        flags.arguments, lambda name: client.call("DELETE", path("/volumes/{}", name), query)
    )
