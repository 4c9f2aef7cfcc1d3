"""image copy: an image from one registry to another, whole and as it is.

No daemon has a part in it: registries are asked from here, with this user's credentials, and
nothing is unpacked. What does that (``image_registry``) is imported when it is needed only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.cli.commands.common import read
from sampan.cli.flags import Flag
from sampan.errors import InvalidArgument
from sampan.oci import reference as references

if TYPE_CHECKING:
    from sampan.cli.client import Client

__all__ = ["copy"]


def copy(client: Client, argv: list[str]) -> int:
    """Copy an image, or every tag of a repository."""
    flags = read(
        "image copy",
        "[OPTIONS] SOURCE[:TAG|@DIGEST] TARGET[:TAG]",
        "Copy an image from one registry to another: every platform, byte for byte",
        [
            Flag("all-tags", "bool", "Every tag of the repository", short="a"),
            Flag("insecure", "bool", "Take any certificate, and plain HTTP, from the registries"),
            Flag("platform", "str", "This platform's image only, os/arch[/variant], of an index"),
            Flag("quiet", "bool", "Say its name only, when it is there", short="q"),
            Flag("referrers", "bool", "What refers to it too: signatures, SBOMs"),
        ],
        argv,
        least=2,
        most=2,
    )
    if flags is None:
        return 0
    source, target = (references.parse(text) for text in flags.arguments)
    whole = flags.flag("all-tags")
    if whole and any(one.tag or one.digest for one in (source, target)):
        raise InvalidArgument("tag can't be used with --all-tags/-a")
    if not whole:
        source = source.tagged()
        if target.tag is None and target.digest is None:
            # Called there as it is here; by its digest if that is all it is called by.
            target = target.replace(tag=source.tag, digest=None if source.tag else source.digest)
        if target.digest and (flags.text("platform") or target.digest != source.digest):
            raise InvalidArgument(f"{target}: a copy is named by a tag, or by its own digest")
    from sampan.cli.commands import image_registry

    image_registry.copy(
        client.settings,
        source,
        target,
        whole=whole,
        platform=flags.text("platform"),
        with_referrers=flags.flag("referrers"),
        insecure=flags.flag("insecure"),
        quiet=flags.flag("quiet"),
    )
    return 0
