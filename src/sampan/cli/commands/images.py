"""images, history, tag, rmi."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from sampan.cli import autostart
from sampan.cli.commands.common import FORMAT, each, filters, path, read
from sampan.cli.commands.inspect import platform_json
from sampan.cli.flags import Flag
from sampan.cli.output import age, local_time, print_rows, short_id, shorten, size

if TYPE_CHECKING:
    from sampan.cli.client import Client

__all__ = ["history", "image_rows", "images", "remove", "split_reference", "tag"]

_NONE = "<none>"
_YEAR_2000 = 946684800
_COLUMNS = [
    ("REPOSITORY", "Repository"),
    ("TAG", "Tag"),
    ("IMAGE ID", "ID"),
    ("CREATED", "CreatedSince"),
    ("SIZE", "Size"),
]
_HEADINGS = {
    "Containers": "CONTAINERS",
    "CreatedAt": "CREATED AT",
    "Digest": "DIGEST",
    "SharedSize": "SHARED SIZE",
    "UniqueSize": "UNIQUE SIZE",
    "VirtualSize": "SIZE",
}
_RAW = (
    "repository: {{.Repository}}\\ntag: {{.Tag}}\\nimage_id: {{.ID}}\\n"
    "created_at: {{.CreatedAt}}\\nvirtual_size: {{.Size}}\\n"
)
_RAW_DIGEST = _RAW.replace("image_id:", "digest: {{.Digest}}\\nimage_id:")


def images(client: Client, argv: list[str]) -> int:
    """List images, a row for each tag."""
    flags = read(
        "images",
        "[OPTIONS] [REPOSITORY[:TAG]]",
        "List images",
        [
            Flag("all", "bool", "Those between two others too", short="a"),
            Flag("digests", "bool", "The digests they were pulled or pushed by too"),
            Flag("filter", "list", "Only those that meet a condition (dangling=true)", short="f"),
            FORMAT,
            Flag("no-trunc", "bool", "Whole IDs"),
            Flag("quiet", "bool", "IDs only", short="q"),
            Flag("tree", "bool", "Below each image the platforms of its index"),
        ],
        argv,
        most=1,
    )
    if flags is None:
        return 0
    autostart.ensure(client.host)
    if flags.flag("tree"):
        from sampan.cli.commands.image_tree import tree

        return tree(client, flags)
    quiet, layout, digests = flags.flag("quiet"), flags.text("format"), flags.flag("digests")
    if not layout and not quiet:
        layout = client.settings.preference("imagesFormat")
    chosen = filters(flags.items("filter")) or {}
    if flags.arguments:
        chosen.setdefault("reference", []).append(flags.arguments[0])
    query: dict[str, object] = {
        "all": "1" if flags.flag("all") else None,
        "filters": chosen or None,
    }
    found = client.call("GET", "/images/json", query)
    wanted = digests or re.search(r"\{\{-?\s*\.Digest\s*-?\}\}", layout) is not None
    rows = [
        row for image in found for row in image_rows(image, flags.flag("no-trunc"), wanted, digests)
    ]
    columns = list(_COLUMNS)
    if digests:
        columns.insert(2, ("DIGEST", "Digest"))
    if quiet:
        columns = [("IMAGE ID", "ID")]
    raw = _RAW_DIGEST if digests else _RAW
    print_rows(rows, columns, layout, quiet, headings=_HEADINGS, raw=raw)
    return 0


def image_rows(
    image: dict[str, Any], full: bool, wanted: bool = False, digests: bool = False
) -> list[dict[str, Any]]:
    """An image as templates see it, once for each of its names."""
    created, total = image["Created"], image["Size"]
    shared, users = image.get("SharedSize", -1), image.get("Containers", -1)
    common = {
        "ID": image["Id"] if full else short_id(image["Id"]),
        "CreatedSince": age(time.time() - created) + " ago",
        "CreatedAt": local_time(created),
        "Size": size(total),
        "VirtualSize": size(total, 4),
        "SharedSize": "N/A" if shared == -1 else size(shared),
        "UniqueSize": "N/A" if shared == -1 else size(total - shared, 4),
        "Containers": "N/A" if users == -1 else str(users),
    }
    return [
        {"Repository": repository or _NONE, "Tag": name or _NONE, "Digest": digest} | common
        for repository, name, digest in _names(image, wanted, digests)
    ]


def _names(image: dict[str, Any], wanted: bool, digests_too: bool) -> list[tuple[str, str, str]]:
    """Repository, tag and digest of each row; digests without a tag with ``digests_too``."""
    tags: dict[str, list[str]] = {}
    for reference in image.get("RepoTags") or []:
        repository, name = split_reference(reference)
        if repository != _NONE:
            tags.setdefault(repository, []).append(name)
    digests: dict[str, list[str]] = {}
    for reference in image.get("RepoDigests") or []:
        repository, _, digest = reference.partition("@")
        if repository != _NONE:
            digests.setdefault(repository, []).append(digest)
    rows = [
        (repository, name, digest)
        for repository, names in tags.items()
        for name in names
        for digest in (digests.get(repository) if wanted else None) or [_NONE]
    ]
    for repository in digests.keys() - tags.keys():
        shown = digests[repository] if digests_too else [""]
        rows += [(repository, "", digest) for digest in shown]
    return rows or [("", "", _NONE)]


def split_reference(reference: str) -> tuple[str, str]:
    """Repository and tag; a registry's port is no tag."""
    head, colon, tail = reference.rpartition(":")
    return (head, tail) if colon and "/" not in tail else (reference, "latest")


def history(client: Client, argv: list[str]) -> int:
    """Show an image's layers and what made them."""
    flags = read(
        "history",
        "[OPTIONS] IMAGE",
        "Show an image's layers and what made them",
        [
            FORMAT,
            Flag("human", "bool", "Sizes and dates to be read (true)", short="H"),
            Flag("no-trunc", "bool", "Whole IDs and commands"),
            Flag("platform", "str", "This platform's, os[/arch[/variant]], of an index"),
            Flag("quiet", "bool", "IDs only", short="q"),
        ],
        argv,
        least=1,
        most=1,
    )
    if flags is None:
        return 0
    human, full = flags.flag("human") or not flags.given("human"), flags.flag("no-trunc")
    query: dict[str, object] = {"platform": platform_json(flags.text("platform"))}
    entries = client.call("GET", path("/images/{}/history", flags.arguments[0]), query)
    rows = [_layer(entry, human, full) for entry in entries]
    columns = [
        ("IMAGE", "ID"),
        ("CREATED" if human else "CREATED AT", "CreatedSince"),
        ("CREATED BY", "CreatedBy"),
        ("SIZE", "Size"),
        ("COMMENT", "Comment"),
    ]
    layout = flags.text("format")
    print_rows(rows, columns, layout, flags.flag("quiet"), headings={"CreatedAt": "CREATED AT"})
    return 0


def _since(moment: int) -> str:
    """How long ago; reproducible builds say 1970, which is no date."""
    return age(time.time() - moment) + " ago" if moment > _YEAR_2000 else "N/A"


def _layer(entry: dict[str, Any], human: bool, full: bool) -> dict[str, Any]:
    by = str(entry.get("CreatedBy") or "").replace("\t", " ")
    identity, moment = str(entry["Id"]), entry["Created"]
    local = time.localtime(moment)
    zone = time.strftime("%z", local)
    zone = "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}"
    iso = time.strftime("%Y-%m-%dT%H:%M:%S", local) + zone
    return {
        "ID": identity if full else short_id(identity),
        "CreatedSince": _since(moment) if human else iso,
        "CreatedAt": iso,
        "CreatedBy": by if full else shorten(by, 45),
        "Size": size(entry["Size"]) if human else str(entry["Size"]),
        "Comment": entry.get("Comment") or "",
    }


def tag(client: Client, argv: list[str]) -> int:
    """Give an image another name."""
    flags = read(
        "tag",
        "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
        "Give an image another name",
        [],
        argv,
        least=2,
        most=2,
    )
    if flags is None:
        return 0
    source, target = flags.arguments
    repository, name = split_reference(target)
    client.call("POST", path("/images/{}/tag", source), {"repo": repository, "tag": name})
    return 0


def remove(client: Client, argv: list[str]) -> int:
    """Untag images, and delete those that have no name left."""
    flags = read(
        "rmi",
        "[OPTIONS] IMAGE [IMAGE...]",
        "Remove images",
        [
            Flag("force", "bool", "Even if a stopped container or another name uses it", short="f"),
            Flag("no-prune", "bool", "Keep parents that have no name"),
            Flag("platform", "strings", "Only these platforms' images of an index"),
        ],
        argv,
        least=1,
    )
    if flags is None:
        return 0
    query: dict[str, object] = {
        "force": "1" if flags.flag("force") else None,
        "noprune": "1" if flags.flag("no-prune") else None,
        "platforms": [platform_json(text) for text in flags.items("platform")] or None,
    }

    def one(name: str) -> str:
        changes = client.call("DELETE", path("/images/{}", name), query)
        return "\n".join(f"{kind}: {what}" for change in changes for kind, what in change.items())

    return each(flags.arguments, one, absent=flags.flag("force"))
