"""push: have the daemon send an image to its registry."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from sampan.cli import autostart, progress
from sampan.cli.commands.inspect import platform_json
from sampan.cli.commands.transfer import transfer
from sampan.cli.credentials import header

if TYPE_CHECKING:
    from sampan.cli.client import Client

__all__ = ["push"]


def push(client: Client, argv: list[str]) -> int:
    """Send an image, or every tag of a repository."""
    asked = transfer(
        "push",
        "[OPTIONS] NAME[:TAG]",
        "Send an image to a registry",
        "Only if the image is for os[/arch[/variant]]",
        argv,
        digest=False,
    )
    if asked is None:
        return 0
    name = asked.name
    autostart.ensure(client.host)
    query: dict[str, object] = {
        "tag": name.tag or "",
        "platform": platform_json(asked.platform),
    }
    path = f"/images/{quote(name.name)}/push"
    lines = client.lines("POST", path, query, headers=header(client, name.name))
    progress.show(lines, quiet=asked.quiet)
    if asked.quiet:
        print(name)
    return 0
