"""Containers in memory: the record, who waits for it, and its connections.

``Live`` is the one mutable thing about a container. Its record is replaced at once and never
awaited for, so listings and inspections take no lock; the lock orders what starts and removes,
``freezing`` what freezes and thaws.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, TypeVar

import msgspec

from sampan.errors import Conflict, InvalidArgument, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sampan.engine.container import ContainerRecord
    from sampan.engine.monitors import Monitor
    from sampan.oci.runtime import Spec

__all__ = ["Attachment", "Exec", "Live", "Registry", "WaitResult"]

T = TypeVar("T")


class WaitResult(msgspec.Struct, frozen=True):
    """How a wait ended; ``error`` is empty when the container ended by itself."""

    code: int
    error: str = ""


class Attachment(msgspec.Struct):
    """A client's stream, owned: ``fd`` is a connected stream socket, given to the monitor."""

    fd: int
    stdin: bool
    stdout: bool
    stderr: bool
    multiplex: bool
    detach_keys: tuple[int, ...] = ()

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Exec(msgspec.Struct, kw_only=True):
    """A further process of a container. ``exit_code`` is None until it ended."""

    id: str
    container_id: str
    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    cwd: str = ""
    user: str = ""
    tty: bool = False
    privileged: bool = False
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    detach_keys: str = ""
    detach: bool = False
    """Whether it was made to be started with nobody attached; its start says so again."""
    console_size: tuple[int, int] | None = None
    started: bool = False
    running: bool = False
    pid: int = 0
    exit_code: int | None = None
    ended_at: int = 0
    begun: asyncio.Future[None] | None = None
    """Done when its process runs, or will not."""
    is_check: bool = False
    """Whether it is a health check of ours."""
    over: asyncio.Future[int] | None = None
    """Where somebody here waits for its exit code."""


class Live:
    """A container and what belongs to this daemon's life only."""

    __slots__ = (
        "begun",
        "checking",
        "ends",
        "execs",
        "freezing",
        "kept",
        "lock",
        "monitor",
        "next_check",
        "parked",
        "record",
        "recurring",
        "removals",
        "removing",
        "settling",
        "spec",
        "starts",
    )

    def __init__(self, record: ContainerRecord) -> None:
        self.record = record
        self.lock = asyncio.Lock()
        self.freezing = asyncio.Lock()
        self.monitor: Monitor | None = None
        self.spec: Spec | None = None
        self.begun: asyncio.Future[None] | None = None
        self.parked: list[Attachment] = []
        self.execs: dict[str, Exec] = {}
        self.ends: list[asyncio.Future[WaitResult]] = []
        self.removals: list[asyncio.Future[WaitResult]] = []
        self.starts: list[asyncio.Future[None]] = []
        # The restart policy's next start, as long as it waits for its moment.
        self.recurring: asyncio.Task[None] | None = None
        # The next health check, and what tells the one under way from its predecessors.
        self.next_check: asyncio.TimerHandle | None = None
        self.checking: object = None
        # Its end is part of a restart somebody asked for: --rm waits for another.
        self.kept = False
        self.removing = False
        # What became of it while there was no daemon is being found out.
        self.settling = False

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def status(self) -> str:
        """The state's name as it is shown."""
        state = self.record.state
        return "removing" if self.removing and not state.up else state.status

    def result(self) -> WaitResult:
        return WaitResult(self.record.state.exit_code)

    def settle_ends(self) -> None:
        """Tell who waits for the next end."""
        _settle(self.ends, self.result())

    def settle_removals(self) -> None:
        _settle(self.removals, self.result())

    def settle_starts(self) -> None:
        """Tell who waits for a planned start: it is done, or will not be."""
        _settle(self.starts, None)

    def drop_parked(self) -> None:
        """Close the streams of clients that attached and will see no start."""
        for attachment in self.parked:
            attachment.close()
        self.parked.clear()


def _settle(futures: list[asyncio.Future[T]], result: T) -> None:
    for future in futures:
        if not future.done():
            future.set_result(result)
    futures.clear()


class Registry:
    """Every container, by ID and by name."""

    def __init__(self) -> None:
        self._by_id: dict[str, Live] = {}
        self._by_name: dict[str, str] = {}

    def __iter__(self) -> Iterator[Live]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, container_id: str) -> bool:
        return container_id in self._by_id

    @property
    def names(self) -> dict[str, str]:
        """Name to ID."""
        return self._by_name

    def add(self, live: Live) -> None:
        self.check_free(live.record.name)
        self._by_id[live.id] = live
        self._by_name[live.record.name] = live.id

    def check_free(self, name: str) -> None:
        """Raises Conflict naming who has the name."""
        holder = self._by_name.get(name)
        if holder is not None:
            raise Conflict(
                f'Conflict. The container name "/{name}" is already in use by container '
                f'"{holder}". You have to remove (or rename) that container to be able to reuse '
                "that name."
            )

    def rename(self, live: Live, record: ContainerRecord) -> None:
        del self._by_name[live.record.name]
        self._by_name[record.name] = live.id
        live.record = record

    def remove(self, live: Live) -> None:
        if self._by_id.pop(live.id, None) is not None:
            del self._by_name[live.record.name]

    def find(self, reference: str) -> Live:
        """By ID, name (with or without a slash), unique beginning of an ID, or a link's name, in
        this order.

        Raises NotFound, InvalidArgument (ambiguous).
        """
        live = self._by_id.get(reference)
        if live is not None:
            return live
        by_name = self._by_name.get(reference.removeprefix("/"))
        if by_name is not None:
            return self._by_id[by_name]
        if reference:
            found = [key for key in self._by_id if key.startswith(reference)]
            if len(found) == 1:
                return self._by_id[found[0]]
            if found:
                raise InvalidArgument(
                    f"Multiple IDs found with provided prefix: {reference}; give more of the ID"
                )
        parent, _, alias = reference.removeprefix("/").partition("/")
        if alias and parent in self._by_name:
            for link in self._by_id[self._by_name[parent]].record.links:
                if link.alias == alias and link.container in self._by_id:
                    return self._by_id[link.container]
        raise NotFound(f"No such container: {reference}")
