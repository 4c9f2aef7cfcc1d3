"""What pull and push take alike: one image by its name, or every tag of a repository."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sampan.cli.commands.common import read
from sampan.cli.flags import Flag
from sampan.errors import InvalidArgument
from sampan.oci import reference as references

if TYPE_CHECKING:
    from sampan.oci.reference import Reference

__all__ = ["Transfer", "transfer"]

_CONTENT_TRUST = Flag("disable-content-trust", "bool", "")
"""Notary's: there is nothing to disable, and scripts say so."""


class Transfer(NamedTuple):
    """``name`` without a tag: all of them."""

    name: Reference
    platform: str
    quiet: bool


def transfer(
    command: str, usage: str, summary: str, platform: str, argv: list[str], *, digest: bool
) -> Transfer | None:
    """Read the command line; None after help. ``platform`` says what the option of that name does,
    ``digest`` whether the name may be one."""
    flags = read(
        command,
        usage,
        summary,
        [
            Flag("all-tags", "bool", "Every tag of the repository", short="a"),
            _CONTENT_TRUST,
            Flag("platform", "str", platform),
            Flag("quiet", "bool", "Say its name only, when it is there", short="q"),
        ],
        argv,
        least=1,
        most=1,
    )
    if flags is None:
        return None
    name = references.parse(flags.arguments[0])
    quiet, whole = flags.flag("quiet"), flags.flag("all-tags")
    if name.digest and not digest:
        raise InvalidArgument(f"{command}: an image is named by its tag here, not by a digest")
    if whole and (name.tag or name.digest):
        raise InvalidArgument(f"{command}: tag can't be used with --all-tags/-a")
    if not whole:
        if name.tag is None and name.digest is None and not quiet:
            print(f"Using default tag: {references.DEFAULT_TAG}")
        name = name.tagged()
    return Transfer(name, flags.text("platform"), quiet)
