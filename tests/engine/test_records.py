"""States, names, times, keys: the engine's parts that need no kernel."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from sampan.api.docker.render import duration
from sampan.engine.config import ContainerConfig, HostConfig
from sampan.engine.container import TRANSITIONS, ContainerRecord, State, advance, rfc3339
from sampan.engine.keys import DEFAULT_DETACH, read_keys
from sampan.engine.logs import parse_moment
from sampan.engine.names import check_name, random_name
from sampan.engine.settings import parse_size
from sampan.engine.store import ContainerStore
from sampan.errors import AlreadyExists, Conflict, Corrupt, InvalidArgument
from sampan.storage.database import Database

if TYPE_CHECKING:
    from pathlib import Path

STATES = {"created", "running", "paused", "restarting", "exited"}
EVENTS = {"start", "fail", "pause", "resume", "exit", "recur", "cancel"}


def record(status: str = "created", name: str = "n", container_id: str = "1") -> ContainerRecord:
    return ContainerRecord(
        id=container_id,
        name=name,
        created=1_700_000_000_000_000_000,
        image_id="sha256:0",
        image_name="i",
        driver="vfs",
        config=ContainerConfig(image="i"),
        host_config=HostConfig(),
        args=("true",),
        state=State(status=status),
    )


@pytest.mark.parametrize(("status", "event"), sorted(itertools.product(STATES, EVENTS)))
def test_the_table_of_states_is_all_there_is(status: str, event: str) -> None:
    if (status, event) in TRANSITIONS:
        assert advance(record(status), event).state.status == TRANSITIONS[status, event]
    else:
        with pytest.raises(Conflict, match=status):
            advance(record(status), event)


def test_every_state_can_be_reached() -> None:
    reached = {"created"}
    for _ in STATES:
        reached |= {new for (old, _), new in TRANSITIONS.items() if old in reached}
    assert reached == STATES


@pytest.mark.parametrize("name", ["a1", "A.b-c_d", "/slash"])
def test_good_names(name: str) -> None:
    assert check_name(name) == name.lstrip("/")


@pytest.mark.parametrize("name", ["a", "", "-a", "a b", "a/b", "ü1", "a\n"])
def test_bad_names(name: str) -> None:
    with pytest.raises(InvalidArgument, match="Invalid container name"):
        check_name(name)


def test_random_names_are_names_and_do_not_collide() -> None:
    taken: set[str] = set()
    for _ in range(2000):
        name = random_name(taken)
        assert check_name(name) == name
        taken.add(name)


def test_times_look_as_go_prints_them() -> None:
    assert rfc3339(0) == "0001-01-01T00:00:00Z"
    assert rfc3339(1_700_000_000_000_000_000) == "2023-11-14T22:13:20Z"
    assert rfc3339(1_700_000_000_120_000_000) == "2023-11-14T22:13:20.12Z"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", 0),
        ("1700000000", 1_700_000_000_000_000_000),
        ("1700000000.5", 1_700_000_000_500_000_000),
        ("2023-11-14T22:13:20Z", 1_700_000_000_000_000_000),
        ("2023-11-14T22:13:20.000000001Z", 1_700_000_000_000_000_001),
        ("2023-11-15T00:13:20+02:00", 1_700_000_000_000_000_000),
    ],
)
def test_moments_are_read(text: str, value: int) -> None:
    assert parse_moment(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "yesterday",
        "--5",
        "1e9",
        "9" * 38,
        "-" + "9" * 19,
        "2023-11-14T22:13:20+",
        "9999-01-01T00:00:00Z",
    ],
)
def test_a_bad_moment_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid time"):
        parse_moment(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (150, "2 minutes"),
        (3600, "About an hour"),
        (7200, "2 hours"),
        (86400 * 3, "3 days"),
        (86400 * 20, "2 weeks"),
        (86400 * 100, "3 months"),
        (86400 * 800, "2 years"),
    ],
)
def test_durations_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_detach_keys() -> None:
    assert read_keys("") == DEFAULT_DETACH
    assert read_keys("ctrl-a,d,ctrl-[") == (1, 100, 27)
    for bad in ("ctrl-", "ctrl-1", "ab", "a,,b"):
        with pytest.raises(InvalidArgument, match="Invalid detach keys"):
            read_keys(bad)


def test_sizes() -> None:
    assert [parse_size(text) for text in ("10", "1k", "2m", "1.5g", "1kb", "1KiB")] == [
        10, 1024, 2 << 20, 3 << 29, 1024, 1024,
    ]  # fmt: skip
    for bad in ("", "x", "-1k", "k"):
        with pytest.raises(InvalidArgument):
            parse_size(bad)


def test_rows_survive_and_names_are_unique(tmp_path: Path) -> None:
    database = Database(f"{tmp_path}/db")
    store = ContainerStore(database)
    store.add(record(name="one", container_id="1"))
    store.put_state(record("exited", "one", "1"))
    with pytest.raises(AlreadyExists):
        store.add(record(name="one", container_id="2"))
    store.add(record(name="two", container_id="2"))
    with pytest.raises(AlreadyExists):
        store.put(record(name="one", container_id="2"))
    store.remove("2")
    database.close()
    again = Database(f"{tmp_path}/db")
    assert list(ContainerStore(again).load()) == [record("exited", "one", "1")]
    again.execute("UPDATE containers SET config = '{}'")
    with pytest.raises(Corrupt, match="container 1"):
        list(ContainerStore(again).load())
    again.close()
