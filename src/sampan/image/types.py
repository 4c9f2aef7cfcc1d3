"""What the image store hands out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from sampan.errors import NotFound
from sampan.oci import image as oci  # noqa: TC001 - msgspec reads a struct's annotations
from sampan.oci.selection import runnable

if TYPE_CHECKING:
    from sampan.oci.platform import Platform

__all__ = ["Image", "Loaded", "Removal", "check_platform", "is_for", "timestamp", "to_seconds"]


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """One image, with all the Docker API's image inspection and list ask for.

    ``chain`` holds chain IDs, the lowest first: what a container's root is made on. Times are
    seconds since 1970; ``size`` is bytes of files in the layers. ``system`` names directories of
    this machine laid over the chain copy-on-write (the ``host`` image only).
    """

    id: str
    document: oci.Image
    chain: tuple[str, ...]
    references: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    parent: str = ""
    size: int = 0
    created: float = 0.0
    last_tag: float = 0.0
    driver: str = ""
    graph: dict[str, str] = {}
    system: tuple[str, ...] = ()

    @property
    def config(self) -> oci.ImageConfig:
        """What a container inherits: Env, Cmd, Entrypoint, User and so on."""
        return self.document.config

    @property
    def diff_ids(self) -> tuple[str, ...]:
        return self.document.rootfs.diff_ids


def is_for(document: oci.Image, wanted: Platform) -> bool:
    """Whether an image runs where ``wanted`` is asked for, as far as its configuration says."""
    for platform in runnable(wanted):
        if (platform.os, platform.architecture) != (document.os, document.architecture):
            continue
        # Many images leave the variant out of their configuration.
        if not document.variant or platform.variant in (None, document.variant):
            return True
    return False


def check_platform(document: oci.Image, wanted: Platform, name: str) -> None:
    """Refuse what was not asked for: an image here has one platform. Raises NotFound."""
    if is_for(document, wanted):
        return
    variant = f"/{document.variant}" if document.variant else ""
    raise NotFound(
        f"image with reference {name} was found but does not provide the specified platform: "
        f"wanted {wanted}, found {document.os}/{document.architecture}{variant}"
    )


class Loaded(msgspec.Struct, frozen=True):
    """An image that came in, and the familiar names it was given."""

    id: str
    references: tuple[str, ...]


class Removal(msgspec.Struct, frozen=True):
    """One line of what a removal did: a name taken away, or an image or layer deleted.

    ``image`` is the ID of the image it is about, empty for a layer.
    """

    untagged: str | None = None
    deleted: str | None = None
    image: str = ""


def to_seconds(text: str | None) -> float:
    """RFC 3339 to seconds since 1970; 0.0 for none, for year 1, and for what is not a time."""
    if not text:
        return 0.0
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(moment.timestamp(), 0.0)


def timestamp(seconds: float) -> str:
    """Seconds since 1970 as RFC 3339 in UTC, with microseconds."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
