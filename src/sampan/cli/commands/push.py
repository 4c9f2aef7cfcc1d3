"""push: have the daemon send an image to its registry."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from sampan.cli import autostart, progress
from sampan.cli.commands.common import read
from sampan.cli.commands.inspect import platform_json
from sampan.cli.commands.pull import CONTENT_TRUST
from sampan.cli.credentials import header
from sampan.cli.flags import Flag
from sampan.errors import InvalidArgument
from sampan.oci import reference as references

if TYPE_CHECKING:
    from sampan.cli.client import Client

__all__ = ["push"]


def push(client: Client, argv: list[str]) -> int:
    """Send an image, or every tag of a repository."""
    flags = read(
        "push",
        "[OPTIONS] NAME[:TAG]",
        "Send an image to a registry",
        [
            Flag("all-tags", "bool", "Every tag of the repository", short="a"),
            CONTENT_TRUST,
            Flag("platform", "str", "Only if the image is for os[/arch[/variant]]"),
            Flag("quiet", "bool", "Say its name only, when it is there", short="q"),
        ],
        argv,
        least=1,
        most=1,
    )
    if flags is None:
        return 0
    name = references.parse(flags.arguments[0])
    quiet, whole = flags.flag("quiet"), flags.flag("all-tags")
    if name.digest:
        raise InvalidArgument("push: an image is pushed by its tag, not by a digest")
    if whole and name.tag:
        raise InvalidArgument("push: tag can't be used with --all-tags/-a")
    if not whole:
        if name.tag is None and not quiet:
            print(f"Using default tag: {references.DEFAULT_TAG}")
        name = name.tagged()
    autostart.ensure(client.host)
    query: dict[str, object] = {
        "tag": name.tag or "",
        "platform": platform_json(flags.text("platform")),
    }
    path = f"/images/{quote(name.name)}/push"
    progress.show(client.lines("POST", path, query, headers=header(client, name.name)), quiet=quiet)
    if quiet:
        print(name)
    return 0
