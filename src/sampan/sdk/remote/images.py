"""A daemon's images."""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING, Any

import msgspec

from sampan.errors import SampanError
from sampan.sdk.remote.stream import JsonLines
from sampan.sdk.remote.values import ImageSummary, Progress
from sampan.sdk.remote.wire import Filters, Wire, filter_query, name_in_path
from sampan.sdk.steps import Awaiting, Blocking, Steps, operation, work

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["AsyncImages", "Images"]

Archive = bytes | str | os.PathLike[str] | IO[bytes]


class _Images:
    """The daemon's images."""

    __slots__ = ("_wire",)

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    @operation
    def list(self, filters: Filters | None = None) -> Steps[tuple[ImageSummary, ...]]:
        """Every image, or those ``filters`` let through."""
        data = yield from self._wire.call("GET", "/images/json", {"filters": filter_query(filters)})
        return msgspec.json.decode(data, type=tuple[ImageSummary, ...])

    @operation
    def inspect(self, name: str) -> Steps[dict[str, Any]]:
        """All the API tells of an image. Raises NotFound."""
        return self._wire.json(f"/images/{name_in_path(name)}/json")

    @operation
    def load(self, archive: Archive) -> Steps[tuple[str, ...]]:
        """Take in an archive of ``docker save`` or an OCI layout: bytes, a file, or its path.

        What it says of each image it loaded. Raises InvalidArgument and others.
        """
        said = yield from self._upload("/images/load", {}, archive)
        return tuple(line.stream.strip() for line in said if line.stream)

    @operation
    def import_root(self, archive: Archive, name: str, changes: Iterable[str] = ()) -> Steps[str]:
        """Make an image of a root file system's tar; ``changes`` as in a Dockerfile. Its ID."""
        repository, colon, tag = name.rpartition(":")
        if not colon or "/" in tag:
            repository, tag = name, "latest"
        query: dict[str, object] = {"fromSrc": "-", "repo": repository, "tag": tag}
        query["changes"] = [*changes]
        said = yield from self._upload("/images/create", query, archive)
        return said[-1].status if said else ""

    @operation
    def pull(self, name: str) -> Steps[None]:
        """Have the daemon fetch an image from its registry. Raises what it says."""
        data = yield from self._wire.call("POST", "/images/create", {"fromImage": name})
        _said(data)

    @operation
    def save(self, names: Sequence[str]) -> Steps[bytes]:
        """Images as an archive for ``load``."""
        return self._wire.call("GET", "/images/get", {"names": [*names]})

    @operation
    def tag(self, name: str, target: str) -> Steps[None]:
        """Give an image one more name."""
        repository, colon, tag = target.rpartition(":")
        if not colon or "/" in tag:
            repository, tag = target, "latest"
        query = {"repo": repository, "tag": tag}
        yield from self._wire.call("POST", f"/images/{name_in_path(name)}/tag", query)

    @operation
    def remove(self, name: str, *, force: bool = False) -> Steps[None]:
        """Take a name away, and with the last one the image. Raises NotFound, Conflict."""
        yield from self._wire.call("DELETE", f"/images/{name_in_path(name)}", {"force": force})

    def _upload(
        self,
        path: str,
        query: dict[str, object],
        archive: Archive,
    ) -> Steps[tuple[Progress, ...]]:
        if not isinstance(archive, str | os.PathLike):
            return _said((yield from self._wire.call("POST", path, query, archive)))
        with (yield from work(lambda: open(archive, "rb"))) as file:
            return _said((yield from self._wire.call("POST", path, query, file)))


class Images(_Images, Blocking):
    __doc__ = _Images.__doc__
    __slots__ = ()


class AsyncImages(_Images, Awaiting):
    __doc__ = _Images.__doc__
    __slots__ = ()


def _said(data: bytes) -> tuple[Progress, ...]:
    """The lines of a progress report. Raises the error in it."""
    lines = tuple(JsonLines(Progress).feed(data.rstrip() + b"\n"))
    for line in lines:
        if line.error:
            raise SampanError(line.error)
    return lines
