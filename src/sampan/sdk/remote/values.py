"""What a daemon answers, and of that what programs ask for: frozen values in the API's words."""

from __future__ import annotations

import msgspec

__all__ = [
    "Actor", "ContainerSummary", "Ended", "Event", "ExecResult", "ExecState", "ImageSummary",
    "Made", "Progress", "Version",
]  # fmt: skip


class Value(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """What the API answers, and of that what is named here."""


class Version(Value, frozen=True, kw_only=True):
    version: str
    api_version: str
    os: str = ""
    arch: str = ""
    kernel_version: str = ""


class ContainerSummary(Value, frozen=True, kw_only=True):
    """A row of the list. ``created`` in seconds since 1970."""

    id: str
    names: tuple[str, ...] = ()
    image: str = ""
    image_id: str = msgspec.field(default="", name="ImageID")
    command: str = ""
    created: int = 0
    state: str = ""
    status: str = ""
    labels: dict[str, str] = {}

    @property
    def name(self) -> str:
        return self.names[0].lstrip("/") if self.names else ""


class ImageSummary(Value, frozen=True, kw_only=True):
    """A row of the list. ``created`` in seconds since 1970, ``size`` in bytes."""

    id: str
    repo_tags: tuple[str, ...] | None = ()
    created: int = 0
    size: int = 0
    labels: dict[str, str] | None = None

    @property
    def tags(self) -> tuple[str, ...]:
        return self.repo_tags or ()


class Actor(Value, frozen=True, kw_only=True):
    id: str = msgspec.field(default="", name="ID")
    attributes: dict[str, str] = {}


class Event(Value, frozen=True, kw_only=True):
    """Something that happened. ``time`` in nanoseconds since 1970."""

    type: str
    action: str
    actor: Actor = Actor()
    time: int = msgspec.field(default=0, name="timeNano")

    @property
    def id(self) -> str:
        """The container's or image's ID."""
        return self.actor.id

    @property
    def attributes(self) -> dict[str, str]:
        return self.actor.attributes


class ExecResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a further process in a container ended, and what it said."""

    exit_code: int
    stdout: bytes = b""
    stderr: bytes = b""

    @property
    def ok(self) -> bool:
        return self.exit_code == 0

    @property
    def text(self) -> str:
        return self.stdout.decode("utf-8", "replace")


class Made(Value, frozen=True, kw_only=True):
    id: str
    warnings: tuple[str, ...] | None = None


class Ended(Value, frozen=True, kw_only=True):
    status_code: int
    error: dict[str, str] | None = None


class ExecState(Value, frozen=True, kw_only=True):
    exit_code: int | None = None


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    stream: str = ""
    status: str = ""
    error: str = ""
