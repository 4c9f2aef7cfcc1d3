"""A container as the engine knows it: a frozen record and the table of its states.

The record is replaced, never changed, so a listing reads it without waiting for anybody. The
life cycle is the table ``TRANSITIONS``: a row that is not there is not possible. The kernel's
view of the same container (created, running, stopped) is the monitor's; this one is the user's,
in Docker's words. Docker's ``removing`` is shown while a removal waits for the container's end and
stored nowhere, ``dead`` (a removal that failed half-way) cannot be: a removal is the deletion of a
row, which happens or does not. docs/lifecycle.md has the picture.
"""

from __future__ import annotations

import time

import msgspec

from sampan.engine.config import ContainerConfig, HostConfig  # noqa: TC001 - msgspec reads them
from sampan.errors import Conflict
from sampan.network.types import Wish  # noqa: TC001 - msgspec reads it

__all__ = [
    "TRANSITIONS",
    "Check",
    "ContainerRecord",
    "Health",
    "Link",
    "State",
    "UserMount",
    "advance",
    "now",
    "rfc3339",
]

TRANSITIONS: dict[tuple[str, str], str] = {
    ("created", "start"): "running",
    ("exited", "start"): "running",
    ("created", "fail"): "created",
    ("exited", "fail"): "exited",
    ("running", "pause"): "paused",
    ("paused", "resume"): "running",
    ("running", "exit"): "exited",
    ("paused", "exit"): "exited",
    ("running", "recur"): "restarting",
    ("paused", "recur"): "restarting",
    ("exited", "recur"): "restarting",
    ("restarting", "start"): "running",
    ("restarting", "fail"): "exited",
    ("restarting", "cancel"): "exited",
}
"""``recur`` is an end that the restart policy answers, or an ended container that it starts again
with the daemon; ``cancel`` a stop before the delay is over."""

_VERBS = {"start": "start", "pause": "pause", "resume": "unpause"}


def now() -> int:
    """Nanoseconds since the epoch."""
    return time.time_ns()


def rfc3339(nanoseconds: int) -> str:
    """UTC in RFC 3339 with nanoseconds, as Go prints it; 0 is Go's zero time.

    Trailing zeros of the fraction are dropped, as ``time.RFC3339Nano`` does.
    """
    if nanoseconds <= 0:
        return "0001-01-01T00:00:00Z"
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    digits = f"{fraction:09d}".rstrip("0")
    return f"{text}.{digits}Z" if digits else f"{text}Z"


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One health check; times in nanoseconds since the epoch, ``exit_code`` -1 for none."""

    start: int
    end: int
    exit_code: int
    output: str


class Health(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``starting``, ``healthy`` or ``unhealthy``; failures in a row; the last results."""

    status: str = "starting"
    streak: int = 0
    log: tuple[Check, ...] = ()


class State(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Times in nanoseconds since the epoch, 0 for never; ``pid`` 0 when nothing runs.

    ``by_hand``: somebody asked for its end, and the restart policy is silent until somebody starts
    it. ``committing``: it is frozen, or about to be, for a commit only. ``restarts`` counts what
    the policy did since then; ``delay`` (nanoseconds) is what it last waited, ``restart_at`` when
    it is to act.
    """

    status: str = "created"
    pid: int = 0
    start_time: int = 0
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    started_at: int = 0
    finished_at: int = 0
    by_hand: bool = False
    committing: bool = False
    restarts: int = 0
    delay: int = 0
    restart_at: int = 0
    health: Health | None = None

    @property
    def running(self) -> bool:
        """A process of the container exists (paused counts, as in Docker)."""
        return self.status in ("running", "paused")

    @property
    def up(self) -> bool:
        """Docker's ``Running``: a container between two runs counts as one that runs."""
        return self.status in ("running", "paused", "restarting")


class UserMount(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A mount the user or the image asked for, resolved; ``options`` are the specification's.

    ``mode`` is what stood behind the second colon of ``-v``, for inspect; ``listed`` says whether
    inspect shows it (``--tmpfs`` stands in HostConfig only); a missing bind source is made where
    ``make_source`` says so; ``layers`` are an image's, by chain ID, the lowest first.
    """

    type: str
    source: str = ""
    destination: str
    options: tuple[str, ...] = ()
    name: str = ""
    driver: str = ""
    mode: str = ""
    writable: bool = True
    propagation: str = ""
    anonymous: bool = False
    listed: bool = True
    make_source: bool = False
    layers: tuple[str, ...] = ()


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """The container with this ID has the name ``alias`` in the one whose link it is."""

    container: str
    alias: str


class ContainerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """All that is stored of a container.

    ``config`` is merged with the image's; ``args`` is entrypoint and command; ``created`` in
    nanoseconds since the epoch.
    """

    id: str
    name: str
    created: int
    image_id: str
    image_name: str
    driver: str
    config: ContainerConfig
    host_config: HostConfig
    args: tuple[str, ...]
    mounts: tuple[UserMount, ...] = ()
    networks: tuple[Wish, ...] | None = None
    links: tuple[Link, ...] = ()
    state: State = State()

    def with_state(self, **changes: object) -> ContainerRecord:
        return msgspec.structs.replace(self, state=msgspec.structs.replace(self.state, **changes))


def advance(record: ContainerRecord, event: str, **changes: object) -> ContainerRecord:
    """The record after ``event`` (a key of TRANSITIONS), with its state's other fields changed.

    Raises Conflict when the container's state does not know the event.
    """
    status = record.state.status
    new = TRANSITIONS.get((status, event))
    if new is None:
        verb = _VERBS.get(event, event)
        raise Conflict(f"cannot {verb} container {record.name}: it is {status}")
    return record.with_state(status=new, **changes)
