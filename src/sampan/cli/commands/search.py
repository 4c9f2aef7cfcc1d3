"""search: what a registry has by a word."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sampan.cli import autostart
from sampan.cli.commands.common import FORMAT, filters, read
from sampan.cli.credentials import HUB, registry_header
from sampan.cli.flags import Flag
from sampan.cli.output import print_rows, shorten

if TYPE_CHECKING:
    from sampan.cli.client import Client

__all__ = ["search"]

_COLUMNS = [
    ("NAME", "Name"),
    ("DESCRIPTION", "Description"),
    ("STARS", "StarCount"),
    ("OFFICIAL", "IsOfficial"),
]
_WIDTH = 45


def search(client: Client, argv: list[str]) -> int:
    """Repositories of Docker Hub, or of the registry that the term begins with."""
    flags = read(
        "search",
        "[OPTIONS] [REGISTRY/]TERM",
        "Search a registry: Docker Hub, if none is named",
        [
            Flag("filter", "list", "Only those that meet a condition, such as stars=3", short="f"),
            FORMAT,
            Flag("limit", "int", "At most so many (25)"),
            Flag("no-trunc", "bool", "Whole descriptions"),
        ],
        argv,
        least=1,
        most=1,
    )
    if flags is None:
        return 0
    (term,) = flags.arguments
    autostart.ensure(client.host)
    query: dict[str, object] = {"term": term, "filters": filters(flags.items("filter"))}
    if flags.number("limit") > 0:
        query["limit"] = flags.number("limit")
    first, slash, _ = term.partition("/")
    named = slash and ("." in first or ":" in first or first == "localhost")
    headers = registry_header(client, first if named else HUB)
    layout = flags.text("format")
    yes, no = ("true", "false") if layout in ("json", "{{json .}}") else ("[OK]", "")
    rows = []
    for one in json.loads(client.request("GET", "/images/search", query, headers=headers).read()):
        text = str(one.get("description") or "").replace("\n", " ").replace("\r", " ")
        rows.append(
            {
                "Name": one["name"],
                "Description": text if flags.flag("no-trunc") else shorten(text, _WIDTH),
                "StarCount": str(one["star_count"]),
                "IsOfficial": yes if one["is_official"] else no,
            }
        )
    print_rows(rows, _COLUMNS, layout)
    return 0
