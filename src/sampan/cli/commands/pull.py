"""pull: have the daemon fetch an image from its registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.cli import autostart, progress
from sampan.cli.commands.common import read
from sampan.cli.credentials import header
from sampan.cli.flags import Flag
from sampan.errors import InvalidArgument
from sampan.oci import reference as references

if TYPE_CHECKING:
    from sampan.cli.client import Client

__all__ = ["CONTENT_TRUST", "pull"]

CONTENT_TRUST = Flag("disable-content-trust", "bool", "")
"""Notary's: there is nothing to disable, and scripts say so."""


def pull(client: Client, argv: list[str]) -> int:
    """Fetch an image, or every tag of a repository."""
    flags = read(
        "pull",
        "[OPTIONS] NAME[:TAG|@DIGEST]",
        "Fetch an image from a registry",
        [
            Flag("all-tags", "bool", "Every tag of the repository", short="a"),
            CONTENT_TRUST,
            Flag("platform", "str", "Of an index, the image for os[/arch[/variant]]"),
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
    if whole and (name.tag or name.digest):
        raise InvalidArgument("pull: tag can't be used with --all-tags/-a")
    if not whole:
        if name.tag is None and name.digest is None and not quiet:
            print(f"Using default tag: {references.DEFAULT_TAG}")
        name = name.tagged()
    autostart.ensure(client.host)
    query: dict[str, object] = {
        "fromImage": name.name,
        "tag": name.digest or name.tag or "",
        "platform": flags.text("platform"),
    }
    lines = client.lines("POST", "/images/create", query, headers=header(client, name.name))
    progress.show(lines, quiet=quiet)
    print(name)
    return 0
