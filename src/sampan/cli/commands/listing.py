"""``ps``: the containers."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from sampan.cli import autostart
from sampan.cli.commands.common import FORMAT, filters, read
from sampan.cli.flags import Flag
from sampan.cli.output import age, command_line, local_time, print_rows, short_id, shorten, size

if TYPE_CHECKING:
    from collections.abc import Callable

    from sampan.cli.client import Client

__all__ = ["container_row", "ps"]

_COLUMNS = [
    ("CONTAINER ID", "ID"),
    ("IMAGE", "Image"),
    ("COMMAND", "Command"),
    ("CREATED", "RunningFor"),
    ("STATUS", "Status"),
    ("PORTS", "Ports"),
    ("NAMES", "Names"),
]
_HEADINGS = {
    "CreatedAt": "CREATED AT",
    "Labels": "LABELS",
    "LocalVolumes": "LOCAL VOLUMES",
    "Mounts": "MOUNTS",
    "Networks": "NETWORKS",
    "Platform": "PLATFORM",
    "Size": "SIZE",
    "State": "STATE",
}
_RAW = (
    "container_id: {{.ID}}\\nimage: {{.Image}}\\ncommand: {{.Command}}\\n"
    "created_at: {{.CreatedAt}}\\nstate: {{- pad .State 1 0}}\\nstatus: {{- pad .Status 1 0}}\\n"
    "names: {{.Names}}\\nlabels: {{- pad .Labels 1 0}}\\nports: {{- pad .Ports 1 0}}\\n"
)
_FLAGS = [
    Flag("all", "bool", "Those that do not run too", short="a"),
    Flag("filter", "list", "Only those that meet a condition, such as status=exited", short="f"),
    FORMAT,
    Flag("last", "int", "The last n that were created, in whatever state", short="n"),
    Flag("latest", "bool", "The last one that was created, in whatever state", short="l"),
    Flag("no-trunc", "bool", "Whole IDs, commands and names"),
    Flag("quiet", "bool", "IDs only", short="q"),
    Flag("size", "bool", "The sizes of their files", short="s"),
]


def ps(client: Client, argv: list[str]) -> int:
    """List containers."""
    flags = read("ps", "[OPTIONS]", "List containers", _FLAGS, argv, most=0)
    if flags is None:
        return 0
    autostart.ensure(client.host)
    quiet, layout = flags.flag("quiet"), flags.text("format")
    if not layout and not quiet:
        layout = client.settings.preference("psFormat")
    last = flags.number("last", -1)
    if flags.flag("latest") and last == -1:
        last = 1
    # A size is counted file by file: only for who looks at it.
    sized = flags.flag("size")
    asked = sized or (not quiet and re.search(r"\.Size\b|\{\{-?\s*json \.\s*-?\}\}", layout))
    query: dict[str, object] = {
        "all": "1" if flags.flag("all") else None,
        "limit": last if last > 0 else None,
        "size": "1" if asked else None,
        "filters": filters(flags.items("filter")),
    }
    full = flags.flag("no-trunc")
    rows = [
        container_row(container, full)
        for container in client.call("GET", "/containers/json", query)
    ]
    columns = [*_COLUMNS, ("SIZE", "Size")] if sized else _COLUMNS
    raw = _RAW + ("size: {{.Size}}\\n" if sized else "")
    print_rows(rows, columns, layout, quiet, headings=_HEADINGS, raw=raw)
    return 0


def container_row(container: dict[str, Any], full: bool) -> dict[str, Any]:
    """A container as templates see it."""
    identity, labels = str(container["Id"]), container["Labels"] or {}
    mounts = container.get("Mounts") or []
    rw, whole = container.get("SizeRw") or 0, container.get("SizeRootFs") or 0
    places = [str(mount.get("Name") or mount.get("Source") or "") for mount in mounts]
    descriptor = container.get("ImageManifestDescriptor") or {}
    return {
        "ID": identity if full else short_id(identity),
        "Image": _image(container, full),
        "Command": command_line(container["Command"], full),
        "CreatedAt": local_time(container["Created"]),
        "RunningFor": age(time.time() - container["Created"]) + " ago",
        "State": container["State"],
        "Status": container["Status"],
        "Ports": ports(container.get("Ports") or []),
        "Names": _names(container["Names"] or [], full),
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        "Label": _label(labels),
        "Mounts": ",".join(places if full else [shorten(place, 15) for place in places]),
        "LocalVolumes": str(sum(1 for mount in mounts if mount.get("Driver") == "local")),
        "Networks": ",".join(_networks(container)),
        "Platform": descriptor.get("platform"),
        "Size": size(rw) + (f" (virtual {size(whole)})" if whole > 0 else ""),
    }


def _image(container: dict[str, Any], full: bool) -> str:
    """The image's name; its ID where that is all that is left of it, cut unless ``full``."""
    name = str(container["Image"] or "<no image>")
    if full:
        return name
    identity = str(container.get("ImageID") or "")
    if name.removeprefix("sha256:") == identity.removeprefix("sha256:"):
        return short_id(name)
    return name.partition("@sha256:")[0]


def _names(names: list[str], full: bool) -> str:
    """Its own names; with ``full`` those it has in others through links too."""
    own = [name.removeprefix("/") for name in names]
    return ",".join(own if full else [name for name in own if "/" not in name])


def _networks(container: dict[str, Any]) -> list[str]:
    return sorted((container.get("NetworkSettings") or {}).get("Networks") or {})


def _label(labels: dict[str, str]) -> Callable[[str], str]:
    return lambda name: labels.get(name, "")


def ports(found: list[dict[str, Any]]) -> str:
    """Ports as Docker's client groups them: ``53/udp, 0.0.0.0:80-81->80-81/tcp, :9->8/tcp``.

    Those reached by another number stand behind the others, each by itself.
    """
    order = sorted(
        found,
        key=lambda p: (p["PrivatePort"], p.get("IP") or "", p.get("PublicPort") or 0, p["Type"]),
    )
    runs: dict[tuple[str, str], tuple[int, int]] = {}
    ended: list[str] = []
    others: list[str] = []
    for port in order:
        address, kind = port.get("IP") or "", port["Type"]
        private, public = port["PrivatePort"], port.get("PublicPort") or 0
        if address and public != private:
            others.append(f"{_host(address)}:{public}->{private}/{kind}")
            continue
        first, last = runs.get((address, kind), (private, private))
        if private > last + 1:
            ended.append(_run(address, kind, first, last))
            first = private
        runs[address, kind] = (first, private)
    kept = [_run(*key, *run) for key, run in runs.items()]
    return ", ".join([*ended, *kept, *others])


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _run(address: str, kind: str, first: int, last: int) -> str:
    span = str(first) if first == last else f"{first}-{last}"
    return f"{_host(address)}:{span}->{span}/{kind}" if address else f"{span}/{kind}"
