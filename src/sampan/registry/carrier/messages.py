"""What a daemon and its carrier say to each other: MessagePack in frames, over a Unix socket.

A request has a number of the daemon's; what the carrier says about it bears the same, until one
``Failed`` or an answer ends it. ``Cancel`` has no answer of its own.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import msgspec

from sampan.errors import Corrupt
from sampan.oci.platform import Platform
from sampan.registry.policy import Policy  # noqa: TC001 - msgspec reads a struct's annotations
from sampan.registry.types import (  # noqa: TC001
    Credentials,
    Document,
    Hit,
)

if TYPE_CHECKING:
    import asyncio

__all__ = [
    "Began",
    "Cancel",
    "Check",
    "Checked",
    "Choice",
    "Event",
    "Failed",
    "Fetch",
    "Fetched",
    "Grown",
    "ListTags",
    "Packed",
    "Packing",
    "PutManifest",
    "Request",
    "Resolve",
    "Resolved",
    "Search",
    "Searched",
    "Send",
    "Sent",
    "Stored",
    "Tags",
    "Waiting",
    "Where",
    "decode_event",
    "decode_request",
    "encode",
    "read_frame",
]

_LIMIT = 64 << 20
_length = struct.Struct("!I")


class Where(msgspec.Struct, frozen=True):
    """A repository of a registry, for somebody, by an administrator's rules."""

    domain: str
    path: str
    credentials: Credentials
    policy: Policy


class _Request(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    number: int


class Resolve(_Request, frozen=True):
    """From a tag or digest to the manifest for a platform, and its configuration.

    ``whole`` False: only what the name itself stands for.
    """

    where: Where
    reference: str
    architecture: str = ""
    os: str = "linux"
    variant: str | None = None
    whole: bool = True

    @property
    def platform(self) -> Platform:
        return Platform(architecture=self.architecture, os=self.os, variant=self.variant)


class ListTags(_Request, frozen=True):
    where: Where


class Fetch(_Request, frozen=True):
    """A blob into the blob store."""

    where: Where
    digest: str
    size: int
    urls: tuple[str, ...] = ()


class Choice(msgspec.Struct, frozen=True):
    """A blob that would do: as the registry may have it already, in one of these repositories."""

    digest: str
    size: int
    origins: tuple[str, ...] = ()


class Send(_Request, frozen=True):
    """A layer into a repository: one of the choices if it is there, else the blob from the store,
    packed first with ``pack``."""

    where: Where
    choices: tuple[Choice, ...]
    blob: str
    pack: bool = False


class PutManifest(_Request, frozen=True):
    where: Where
    reference: str
    document: Document


class Check(_Request, frozen=True):
    """Are these credentials good?"""

    where: Where


class Search(_Request, frozen=True):
    """Repositories of a registry by a word; ``where`` has no path."""

    where: Where
    text: str
    limit: int


class Cancel(_Request, frozen=True):
    pass


Request = Resolve | ListTags | Fetch | Send | PutManifest | Check | Search | Cancel


class _Event(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    number: int


class Began(_Event, frozen=True):
    """Bytes of the blob come into this file from now on; ``offset`` of them are there."""

    path: str
    offset: int


class Grown(_Event, frozen=True):
    """So many bytes are there, or sent."""

    offset: int


class Packing(_Event, frozen=True):
    """So many bytes of ``total`` are compressed."""

    offset: int
    total: int


class Packed(_Event, frozen=True):
    """And that is what came out."""

    size: int


class Waiting(_Event, frozen=True):
    """An attempt failed; the next begins in so many seconds."""

    seconds: float
    reason: str


class Failed(_Event, frozen=True):
    """The end of a request that went wrong: an error's class and message."""

    kind: str
    message: str


class Resolved(_Event, frozen=True):
    """What the name stands for, the manifest chosen from it, and that one's configuration."""

    top: Document
    manifest: Document
    config: bytes


class Tags(_Event, frozen=True):
    tags: tuple[str, ...]


class Fetched(_Event, frozen=True):
    """The blob is in the store, verified."""


class Sent(_Event, frozen=True):
    """The repository has the layer as this blob; ``state``: exists, mounted (from), pushed."""

    state: str
    digest: str
    size: int
    origin: str = ""


class Stored(_Event, frozen=True):
    """The manifest is there."""


class Checked(_Event, frozen=True):
    """They are; and a token in their place, where the registry gives any."""

    identity_token: str


class Searched(_Event, frozen=True):
    """What the registry has found, the best first."""

    hits: tuple[Hit, ...]


Event = (
    Began
    | Grown
    | Packing
    | Packed
    | Waiting
    | Failed
    | Resolved
    | Tags
    | Fetched
    | Sent
    | Stored
    | Checked
    | Searched
)

_encode = msgspec.msgpack.Encoder().encode
_request = msgspec.msgpack.Decoder(Request)
_event = msgspec.msgpack.Decoder(Event)


def encode(message: Request | Event) -> bytes:
    """A message in its frame."""
    data = _encode(message)
    return _length.pack(len(data)) + data


async def read_frame(reader: asyncio.StreamReader) -> bytes | None:
    """The next message; None when the other end is gone, in the middle of one or not."""
    import asyncio

    try:
        (length,) = _length.unpack(await reader.readexactly(_length.size))
        if length > _LIMIT:
            raise Corrupt(f"carrier: a message of {length} bytes")
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def decode_request(data: bytes) -> Request:
    request: Request = _request.decode(data)
    return request


def decode_event(data: bytes) -> Event:
    event: Event = _event.decode(data)
    return event
