"""pull: have the daemon fetch an image from its registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.cli import autostart, progress
from sampan.cli.commands.transfer import transfer
from sampan.cli.credentials import header

if TYPE_CHECKING:
    from sampan.cli.client import Client

__all__ = ["pull"]


def pull(client: Client, argv: list[str]) -> int:
    """Fetch an image, or every tag of a repository."""
    asked = transfer(
        "pull",
        "[OPTIONS] NAME[:TAG|@DIGEST]",
        "Fetch an image from a registry",
        "Of an index, the image for os[/arch[/variant]]",
        argv,
        digest=True,
    )
    if asked is None:
        return 0
    name = asked.name
    autostart.ensure(client.host)
    query: dict[str, object] = {
        "fromImage": name.name,
        "tag": name.digest or name.tag or "",
        "platform": asked.platform,
    }
    lines = client.lines("POST", "/images/create", query, headers=header(client, name.name))
    progress.show(lines, quiet=asked.quiet)
    print(name)
    return 0
