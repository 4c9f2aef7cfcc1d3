"""images --tree: every image with the platforms of its index below it.

A platform that is not here has no size: ``pull --platform`` would bring it. An image that came with
no manifest (it was built, imported or committed here) stands alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sampan.cli.commands.common import filters
from sampan.cli.output import aligned, short_id, size
from sampan.errors import InvalidArgument, NotSupported

if TYPE_CHECKING:
    from sampan.cli.client import Client
    from sampan.cli.flags import Values

__all__ = ["tree"]

_NOT_WITH = ("digests", "format", "no-trunc", "quiet")
_SINCE = (1, 47)
_UNTAGGED = "<untagged>"


def tree(client: Client, flags: Values) -> int:
    """Print it."""
    for name in _NOT_WITH:
        if flags.given(name):
            raise InvalidArgument(f"--{name} is not for --tree")
    if tuple(int(part) for part in client.api_version.split(".")) < _SINCE:
        raise NotSupported("--tree needs a daemon of API 1.47: this one is older")
    chosen = filters(flags.items("filter")) or {}
    if flags.arguments:
        chosen.setdefault("reference", []).append(flags.arguments[0])
    query: dict[str, object] = {
        "all": "1" if flags.flag("all") else None,
        "filters": chosen or None,
        "manifests": "1",
    }
    rows = [["IMAGE", "ID", "DISK USAGE", "CONTENT SIZE", "IN USE"]]
    for image in client.call("GET", "/images/json", query):
        rows += _rows(image)
    for line in aligned(["\t".join(row) for row in rows]):
        print(line.rstrip())
    return 0


def _rows(image: dict[str, Any]) -> list[list[str]]:
    known = [one for one in image.get("Manifests") or [] if one["Kind"] == "image"]
    content = sum(one["Size"]["Content"] for one in image.get("Manifests") or [])
    used = image.get("Containers", -1) > 0 or any(_users(one) for one in known)
    *others, last = image.get("RepoTags") or [_UNTAGGED]
    rows = [[name, "", "", "", ""] for name in others]
    total = size(image["Size"] + content)
    rows.append([last, short_id(image["Id"]), total, size(content), "U" if used else ""])
    for place, one in enumerate(known):
        branch = "└─ " if place == len(known) - 1 else "├─ "
        sizes = ["", ""]
        if one["Available"]:
            sizes = [size(one["Size"]["Total"]), size(one["Size"]["Content"])]
        mark = "U" if _users(one) else ""
        rows.append([branch + _platform(one), short_id(one["ID"]), *sizes, mark])
    return rows


def _users(one: dict[str, Any]) -> bool:
    return bool((one.get("ImageData") or {}).get("Containers"))


def _platform(one: dict[str, Any]) -> str:
    known = (one.get("ImageData") or {}).get("Platform") or {}
    words = (known.get("os"), known.get("architecture"), known.get("variant"))
    return "/".join(str(word) for word in words if word) or "unknown"
