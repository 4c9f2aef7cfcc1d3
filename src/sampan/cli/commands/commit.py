"""commit: make an image of a container's changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.cli.commands.common import read
from sampan.cli.commands.images import split_reference
from sampan.cli.flags import Flag

if TYPE_CHECKING:
    from sampan.cli.client import Client

__all__ = ["commit"]


def commit(client: Client, argv: list[str]) -> int:
    """Make an image of what a container wrote."""
    flags = read(
        "commit",
        "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
        "Make an image of a container's changes",
        [
            Flag("author", "str", "Who made it", short="a"),
            Flag("change", "list", "Apply a Dockerfile's instruction to it", short="c"),
            Flag("message", "str", "What was made", short="m"),
            Flag("pause", "bool", "Freeze the container meanwhile (on unless =false)", short="p"),
        ],
        argv,
        least=1,
        most=2,
    )
    if flags is None:
        return 0
    repository, tag = "", ""
    if len(flags.arguments) > 1:
        repository, tag = split_reference(flags.arguments[1])
    query: dict[str, object] = {
        "container": flags.arguments[0],
        "repo": repository,
        "tag": tag,
        "comment": flags.text("message"),
        "author": flags.text("author"),
        "changes": flags.items("change"),
        "pause": None if flags.flag("pause") or not flags.given("pause") else "0",
    }
    print(client.call("POST", "/commit", query)["Id"])
    return 0
