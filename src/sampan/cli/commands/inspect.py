"""``inspect``: all the daemon knows of containers and images."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from sampan import template
from sampan.cli.client import ApiError
from sampan.cli.commands.common import read
from sampan.cli.flags import Flag
from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    from sampan.cli.client import Client

__all__ = ["inspect"]

_PATHS = {"container": "/containers/{}/json", "image": "/images/{}/json"}


def inspect(client: Client, argv: list[str]) -> int:
    """Print a JSON list of the objects named, or each through a template."""
    flags = read(
        "inspect",
        "[OPTIONS] NAME|ID [NAME|ID...]",
        "Return low-level information on objects",
        [
            Flag("format", "str", "Format output using a Go template, or 'json'", short="f"),
            Flag("size", "bool", "Display total file sizes if the type is container", short="s"),
            Flag("type", "str", "Only inspect objects of this type (container|image)"),
        ],
        argv,
        least=1,
    )
    if flags is None:
        return 0
    kind = flags.text("type")
    if kind and kind not in _PATHS:
        raise InvalidArgument(f"--type: {kind}: expected container or image")
    kinds = [kind] if kind else list(_PATHS)
    layout = flags.text("format")
    parsed = template.parse(layout) if layout and layout != "json" else None
    found: list[dict[str, Any]] = []
    status = 0
    for name in flags.arguments:
        details = _one(client, name, kinds, flags.flag("size"))
        if details is None:
            print(f"sampan: no such {kind or 'object'}: {name}", file=sys.stderr)
            status = 1
        elif parsed is not None:
            print(template.render(parsed, details))
        elif layout == "json":
            print(json.dumps(details, separators=(",", ":")))
        else:
            found.append(details)
    if not layout:
        print(json.dumps(found, indent=4))
    return status


def _one(client: Client, name: str, kinds: list[str], size: bool) -> dict[str, Any] | None:
    for kind in kinds:
        query: dict[str, object] = {"size": True} if size and kind == "container" else {}
        try:
            answer = client.call("GET", _PATHS[kind].format(name), query)
        except ApiError as error:
            if error.status != 404:
                raise
            continue
        assert isinstance(answer, dict)
        return answer
    return None
