"""The command's memory: identities, atomic writes, and a status that only the kernel decides."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from sampan.errors import AlreadyExists, Corrupt, InvalidArgument, NotFound
from sampan.kernel.processes import process_state, start_time
from sampan.oci.runtime import Root, Spec
from sampan.runtime.state import State, Store

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "state"))


def state(pid: int = 0, started: int = 0) -> State:
    return State(
        id="ship",
        bundle="/b",
        rootfs="/b/rootfs",
        created="2026-01-01T00:00:00Z",
        owner="root",
        spec=Spec(oci_version="1.3.0", root=Root(path="rootfs"), annotations={"a": "b"}),
        pid=pid,
        start_time=started,
        cgroup="/ship",
    )


@pytest.mark.parametrize("name", ["a", "A-b_c+d.e", "..a", "0" * 255])
def test_identities_that_are_good(store: Store, name: str) -> None:
    assert store.directory(name).endswith(name)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "é", "a\n", "0" * 256, "a\0"])
def test_identities_that_are_refused(store: Store, name: str) -> None:
    with pytest.raises(InvalidArgument, match="container ID"):
        store.directory(name)


def test_what_is_written_is_read(store: Store) -> None:
    store.reserve("ship")
    store.write(state(5, 6))
    assert store.read("ship") == state(5, 6)
    assert store.ids() == ["ship"]
    assert sorted(os.listdir(store.directory("ship"))) == ["state.json"]


def test_an_identity_is_taken_once(store: Store) -> None:
    store.reserve("ship")
    with pytest.raises(AlreadyExists, match="ship"):
        store.reserve("ship")


def test_removal_leaves_nothing_and_may_be_repeated(store: Store) -> None:
    store.reserve("ship")
    store.write(state())
    store.remove("ship")
    store.remove("ship")
    assert store.ids() == []
    with pytest.raises(NotFound, match="ship"):
        store.read("ship")


def test_a_torn_file_is_named(store: Store) -> None:
    path = os.path.join(store.reserve("ship"), "state.json")
    with open(path, "w", encoding="ascii") as file:
        file.write('{"id": "ship"')
    with pytest.raises(Corrupt, match=r"state\.json"):
        store.read("ship")


def test_status_by_process(store: Store) -> None:
    directory = store.reserve("ship")
    assert store.status(state()) == "creating"
    ours = state(os.getpid(), start_time(os.getpid()))
    assert store.status(ours) == "running"
    assert store.status(ours, frozen=True) == "paused"
    os.mkfifo(os.path.join(directory, "exec.fifo"))
    assert store.status(ours) == "created"
    assert store.status(state(os.getpid(), 1)) == "stopped"


def test_a_zombie_has_stopped(store: Store) -> None:
    store.reserve("ship")
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    began = start_time(pid)
    while process_state(pid) != "Z":
        time.sleep(0.001)
    try:
        assert store.status(state(pid, began)) == "stopped"
    finally:
        os.waitpid(pid, 0)
    assert store.status(state(pid, began)) == "stopped"
