"""``system df``: what the daemon keeps on the disk, and what of it nothing uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sampan.cli import autostart
from sampan.cli.commands.common import FORMAT, read
from sampan.cli.flags import Flag
from sampan.cli.output import print_rows, size

if TYPE_CHECKING:
    from sampan.cli.client import Client

__all__ = ["usage"]

_COLUMNS = [
    ("TYPE", "Type"),
    ("TOTAL", "TotalCount"),
    ("ACTIVE", "Active"),
    ("SIZE", "Size"),
    ("RECLAIMABLE", "Reclaimable"),
]
_RAW = (
    "type: {{.Type}}\\ntotal: {{.TotalCount}}\\nactive: {{.Active}}\\nsize: {{.Size}}\\n"
    "reclaimable: {{.Reclaimable}}\\n"
)
_IMAGES = [
    ("REPOSITORY", "Repository"),
    ("TAG", "Tag"),
    ("IMAGE ID", "ID"),
    ("CREATED", "CreatedSince"),
    ("SIZE", "Size"),
    ("SHARED SIZE", "SharedSize"),
    ("UNIQUE SIZE", "UniqueSize"),
    ("CONTAINERS", "Containers"),
]
_CONTAINERS = [
    ("CONTAINER ID", "ID"),
    ("IMAGE", "Image"),
    ("COMMAND", "Command"),
    ("LOCAL VOLUMES", "LocalVolumes"),
    ("SIZE", "Size"),
    ("CREATED", "RunningFor"),
    ("STATUS", "Status"),
    ("NAMES", "Names"),
]
_VOLUMES = [("VOLUME NAME", "Name"), ("LINKS", "Links"), ("SIZE", "Size")]
_CACHE = [
    ("CACHE ID", "ID"),
    ("CACHE TYPE", "CacheType"),
    ("SIZE", "Size"),
    ("CREATED", "CreatedSince"),
    ("LAST USED", "LastUsedSince"),
    ("USAGE", "UsageCount"),
    ("SHARED", "Shared"),
]
_RUNNING = ("running", "paused", "restarting")


def usage(client: Client, argv: list[str]) -> int:
    """A line for images, containers, volumes and build cache; with -v one for each of them."""
    flags = read(
        "system df",
        "[OPTIONS]",
        "Show what the daemon keeps on the disk",
        [FORMAT, Flag("verbose", "bool", "Each image, container and volume", short="v")],
        argv,
        most=0,
    )
    if flags is None:
        return 0
    autostart.ensure(client.host)
    found = client.call("GET", "/system/df")
    layout = flags.text("format")
    if flags.flag("verbose"):
        _verbose(found, layout)
    else:
        rows = [_images(found), _containers(found), _volumes(found), _cache(found)]
        print_rows(rows, _COLUMNS, layout, raw=_RAW)
    return 0


def _row(kind: str, total: int, active: int, bytes_: int, unused: int) -> dict[str, Any]:
    free = size(unused, 4)
    if bytes_ > 0 and kind != "Build Cache":
        free += f" ({unused * 100 // bytes_}%)"
    return {
        "Type": kind,
        "TotalCount": str(total),
        "Active": str(active),
        "Size": size(bytes_, 4),
        "Reclaimable": free,
    }


def _images(found: dict[str, Any]) -> dict[str, Any]:
    images = found.get("Images") or []
    used = [image for image in images if image["Containers"] > 0]
    kept = sum(
        image["Size"] - image["SharedSize"]
        for image in used
        if image["Size"] >= 0 and image["SharedSize"] >= 0
    )
    total = found.get("LayersSize") or 0
    return _row("Images", len(images), len(used), total, total - kept)


def _containers(found: dict[str, Any]) -> dict[str, Any]:
    containers = found.get("Containers") or []
    sizes = {True: 0, False: 0}
    active = 0
    for container in containers:
        runs = container["State"] in _RUNNING
        active += runs
        sizes[runs] += container.get("SizeRw") or 0
    total = sizes[True] + sizes[False]
    return _row("Containers", len(containers), active, total, sizes[False])


def _volumes(found: dict[str, Any]) -> dict[str, Any]:
    volumes = [volume["UsageData"] for volume in found.get("Volumes") or []]
    known = [usage for usage in volumes if usage["Size"] >= 0]
    total = sum(usage["Size"] for usage in known)
    unused = sum(usage["Size"] for usage in known if not usage["RefCount"])
    active = sum(1 for usage in volumes if usage["RefCount"] > 0)
    return _row("Local Volumes", len(volumes), active, total, unused)


def _cache(found: dict[str, Any]) -> dict[str, Any]:
    entries = found.get("BuildCache") or []
    unused = [entry for entry in entries if not entry["InUse"] and not entry["Shared"]]
    active = sum(1 for entry in entries if entry["InUse"])
    sizes = (sum(entry["Size"] for entry in chosen) for chosen in (entries, unused))
    return _row("Build Cache", len(entries), active, *sizes)


def _verbose(found: dict[str, Any], layout: str) -> None:
    from sampan.cli.commands.images import image_rows
    from sampan.cli.commands.listing import container_row
    from sampan.cli.commands.volumes import volume_row

    full = bool(layout)
    images = [  # an image takes its space once, whatever names it has: the first stands for it
        {**image_rows(image, full)[0], "Digest": ""} for image in found.get("Images") or []
    ]
    shown: dict[str, list[dict[str, Any]]] = {
        "Images": images,
        # What they stand on is the images' size.
        "Containers": [
            container_row({**one, "SizeRootFs": 0}, full) for one in found.get("Containers") or []
        ],
        "Volumes": [volume_row(volume) for volume in found.get("Volumes") or []],
        "BuildCache": [],
    }
    if layout:
        print(_rendered(shown, layout), end="")
        return
    for heading, columns, rows in (
        ("Images space usage:", _IMAGES, shown["Images"]),
        ("Containers space usage:", _CONTAINERS, shown["Containers"]),
        ("Local Volumes space usage:", _VOLUMES, shown["Volumes"]),
        (f"Build cache usage: {_cache(found)['Size']}", _CACHE, shown["BuildCache"]),
    ):
        print(heading, end="\n\n")
        print_rows(rows, columns, "")
        if columns is not _CACHE:
            print()


def _rendered(shown: dict[str, list[dict[str, Any]]], layout: str) -> str:
    """One template over all of it."""
    from sampan import template

    text = layout.strip()
    parsed = template.parse("{{json .}}" if text == "json" else template.unescape(text))
    rows = {kind: [template.Map(row) for row in found] for kind, found in shown.items()}
    return template.render(parsed, rows, {"json": lambda value: template.to_json(value, html=True)})
