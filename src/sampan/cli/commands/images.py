"""images, history, tag, rmi."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sampan.cli import autostart
from sampan.cli.commands.common import filters, read
from sampan.cli.flags import Flag
from sampan.cli.output import age, print_rows, short_id, size
from sampan.errors import SampanError

if TYPE_CHECKING:
    from sampan.cli.client import Client

__all__ = ["history", "images", "remove", "split_reference", "tag"]

_COLUMNS = [
    ("REPOSITORY", "Repository"),
    ("TAG", "Tag"),
    ("IMAGE ID", "ID"),
    ("CREATED", "CreatedSince"),
    ("SIZE", "Size"),
]


def images(client: Client, argv: list[str]) -> int:
    """List images, a row for each tag."""
    flags = read(
        "images",
        "[OPTIONS] [REPOSITORY[:TAG]]",
        "List images",
        [
            Flag("all", "bool", "Show all images (default hides intermediate images)", short="a"),
            Flag("digests", "bool", "Show digests"),
            Flag("filter", "list", "Filter output based on conditions provided", short="f"),
            Flag("format", "str", "'table', 'table TEMPLATE', 'json' or a Go template"),
            Flag("no-trunc", "bool", "Don't truncate output"),
            Flag("quiet", "bool", "Only show image IDs", short="q"),
        ],
        argv,
        most=1,
    )
    if flags is None:
        return 0
    autostart.ensure(client.host)
    chosen = filters(flags.items("filter")) or {}
    if flags.arguments:
        chosen["reference"] = [flags.arguments[0]]
    query: dict[str, object] = {"all": flags.flag("all"), "filters": chosen or None}
    found = client.call("GET", "/images/json", query)
    full = flags.flag("no-trunc")
    rows = [row for image in found for row in _rows(image, full)]
    if flags.flag("quiet"):
        rows = list({row["ID"]: row for row in rows}.values())
        print_rows(rows, [("IMAGE ID", "ID")], "", quiet=True)
        return 0
    columns = list(_COLUMNS)
    if flags.flag("digests"):
        columns.insert(2, ("DIGEST", "Digest"))
    print_rows(rows, columns, flags.text("format"))
    return 0


def _rows(image: dict[str, Any], full: bool) -> list[dict[str, Any]]:
    created = image["Created"]
    digests = dict(d.split("@") for d in image.get("RepoDigests") or [])
    common = {
        "ID": image["Id"] if full else short_id(image["Id"]),
        "CreatedSince": age(time.time() - created) + " ago" if created > 0 else "N/A",
        "CreatedAt": time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(max(0, created))),
        "Size": size(image["Size"]),
    }
    rows = []
    for reference in image.get("RepoTags") or ["<none>:<none>"]:
        repository, name = split_reference(reference)
        digest = digests.get(repository, "<none>")
        rows.append({"Repository": repository, "Tag": name, "Digest": digest, **common})
    return rows


def split_reference(reference: str) -> tuple[str, str]:
    """Repository and tag; a registry's port is no tag."""
    head, colon, tail = reference.rpartition(":")
    return (head, tail) if colon and "/" not in tail else (reference, "latest")


def history(client: Client, argv: list[str]) -> int:
    """Show an image's layers and what made them."""
    flags = read(
        "history",
        "[OPTIONS] IMAGE",
        "Show the history of an image",
        [
            Flag("format", "str", "'table', 'table TEMPLATE', 'json' or a Go template"),
            Flag("human", "bool", "Print sizes and dates in human readable format", short="H"),
            Flag("no-trunc", "bool", "Don't truncate output"),
            Flag("quiet", "bool", "Only show image IDs", short="q"),
        ],
        argv,
        least=1,
        most=1,
    )
    if flags is None:
        return 0
    human = flags.flag("human") or not flags.given("human")
    rows = []
    for entry in client.call("GET", f"/images/{quote(flags.arguments[0])}/history"):
        by = str(entry.get("CreatedBy") or "")
        if not flags.flag("no-trunc") and len(by) > 45:
            by = by[:44] + "…"
        identity = str(entry["Id"])
        moment = entry["Created"]
        iso = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(max(0, moment)))
        rows.append(
            {
                "ID": identity if flags.flag("no-trunc") else short_id(identity),
                "CreatedSince": age(time.time() - moment) + " ago" if human else iso,
                "CreatedAt": iso,
                "CreatedBy": by,
                "Size": size(entry["Size"]) if human else entry["Size"],
                "Comment": entry.get("Comment") or "",
            }
        )
    columns = [
        ("IMAGE", "ID"),
        ("CREATED", "CreatedSince"),
        ("CREATED BY", "CreatedBy"),
        ("SIZE", "Size"),
        ("COMMENT", "Comment"),
    ]
    print_rows(rows, columns, flags.text("format"), flags.flag("quiet"))
    return 0


def tag(client: Client, argv: list[str]) -> int:
    """Give an image another name."""
    flags = read(
        "tag",
        "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
        "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
        [],
        argv,
        least=2,
        most=2,
    )
    if flags is None:
        return 0
    source, target = flags.arguments
    repository, name = split_reference(target)
    client.call("POST", f"/images/{quote(source)}/tag", {"repo": repository, "tag": name})
    return 0


def remove(client: Client, argv: list[str]) -> int:
    """Untag images, and delete those that have no name left."""
    flags = read(
        "rmi",
        "[OPTIONS] IMAGE [IMAGE...]",
        "Remove one or more images",
        [
            Flag("force", "bool", "Force removal of the image", short="f"),
            Flag("no-prune", "bool", "Do not delete untagged parents"),
        ],
        argv,
        least=1,
    )
    if flags is None:
        return 0
    query: dict[str, object] = {"force": flags.flag("force"), "noprune": flags.flag("no-prune")}
    status = 0
    for name in flags.arguments:
        try:
            answer = client.call("DELETE", f"/images/{quote(name)}", query)
        except SampanError as error:
            print(f"sampan: {error.message}", file=sys.stderr)
            status = 1
            continue
        for change in answer:
            for kind, what in change.items():
                print(f"{kind}: {what}")
    return status
