"""What a container's state forbids: every operation in every state, with Docker's answer.

The table is the test: a state, an operation, the status, and words of the message.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.daemon_fixture import DOCKER, Daemon

pytestmark = pytest.mark.root

STATES = ("created", "running", "paused", "exited", "restarting")
NOT_RUNNING = "container {id} is not running"
RESTARTING = "is restarting, wait until the container is running"


@pytest.fixture(scope="module")
def five(daemon: Daemon) -> Iterator[dict[str, str]]:
    """A container in each state."""
    daemon.remove_all()
    found = {
        "created": daemon.create("true", name="created"),
        "running": daemon.run("sleep", "600", name="running"),
        "paused": daemon.run("sleep", "600", name="paused"),
        "exited": daemon.run("true", name="exited"),
    }
    daemon.post("/containers/paused/pause")
    daemon.wait(found["exited"])
    always = {"RestartPolicy": {"Name": "always"}}
    found["restarting"] = daemon.run("false", name="restarting", HostConfig=always)
    # Its delay is 3.2 s and more from here on.
    daemon.wait_for(
        lambda: daemon.get("/containers/restarting/json").json()["RestartCount"] >= 6, 30
    )
    daemon.wait_for(lambda: daemon.state("restarting")["Status"] == "restarting")
    yield found
    daemon.remove_all()


# method and path below the container -> body
OPERATIONS: dict[str, tuple[str, Any]] = {
    "start": ("POST", None),
    "pause": ("POST", None),
    "unpause": ("POST", None),
    "stop": ("POST", None),
    "kill?signal=WINCH": ("POST", None),
    "exec": ("POST", {"Cmd": ["true"]}),
    "attach?stream=1": ("POST", None),
    "resize?h=20&w=20": ("POST", None),
    "top": ("GET", None),
    "": ("DELETE", None),
}
TABLE: list[tuple[str, str, int, str]] = [
    ("created", "pause", 409, NOT_RUNNING),
    ("exited", "pause", 409, NOT_RUNNING),
    ("paused", "pause", 409, "container {id} is already paused"),
    ("restarting", "pause", 409, RESTARTING),
    *(
        (state, "unpause", 409, "Container {id} is not paused")
        for state in STATES
        if state != "paused"
    ),
    ("running", "start", 304, ""),
    ("restarting", "start", 304, ""),
    ("paused", "start", 409, "cannot start a paused container, try unpause instead"),
    ("created", "stop", 304, ""),
    ("exited", "stop", 304, ""),
    *(
        (state, "kill?signal=WINCH", 409, f"cannot kill container: {state}: {NOT_RUNNING}")
        for state in ("created", "exited")
    ),
    ("created", "exec", 409, NOT_RUNNING),
    ("exited", "exec", 409, NOT_RUNNING),
    ("paused", "exec", 409, "Container {id} is paused, unpause the container before exec"),
    ("restarting", "exec", 409, RESTARTING),
    ("paused", "attach?stream=1", 409, "container paused is paused, unpause the container before"),
    ("restarting", "attach?stream=1", 409, RESTARTING),
    ("created", "resize?h=20&w=20", 409, NOT_RUNNING),
    ("exited", "resize?h=20&w=20", 409, NOT_RUNNING),
    ("created", "top", 409, NOT_RUNNING),
    ("exited", "top", 409, NOT_RUNNING),
    ("restarting", "top", 409, RESTARTING),
    *(
        (
            state,
            "",
            409,
            f'cannot remove container "/{state}": container is {state}: stop the container before '
            "removing or force remove",
        )
        for state in ("running", "restarting")
    ),
    (
        "paused",
        "",
        409,
        'cannot remove container "/paused": container is paused and must be unpaused first',
    ),
]  # fmt: skip


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0]}-{row[1] or 'rm'}")
def test_what_a_state_forbids(
    daemon: Daemon, five: dict[str, str], row: tuple[str, str, int, str]
) -> None:
    state, operation, status, words = row
    method, body = OPERATIONS[operation]
    path = f"/containers/{state}" + (f"/{operation}" if operation else "")
    answer = daemon.request(method, path, body)
    assert answer.status == status, answer.body
    if words:
        assert words.format(id=five[state]) in answer.message
    assert daemon.get(f"/containers/{state}/json").status == 200
    assert daemon.state(state)["Status"] == state


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("", 400, "Neither old nor new names may be empty"),
        ("/", 400, "Neither old nor new names may be empty"),
        (" created ", 400, "Renaming a container with the same name as its current name"),
        ("/created", 400, "Renaming a container with the same name as its current name"),
        ("a b", 400, "Invalid container name (a b), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"),
        ("running", 409, 'Conflict. The container name "/running" is already in use by container'),
    ],
)
def test_names_that_cannot_be_given(
    daemon: Daemon, five: dict[str, str], name: str, status: int, words: str
) -> None:
    answer = daemon.post("/containers/created/rename", name=name)
    assert (answer.status, words in answer.message) == (status, True), answer.body
    assert daemon.get("/containers/created/json").json()["Name"] == "/created"


def test_a_name_in_use_and_a_link_that_is_none(daemon: Daemon, five: dict[str, str]) -> None:
    answer = daemon.post("/containers/create", {"Image": "host", "Cmd": ["x"]}, name="running")
    assert (answer.status, five["running"] in answer.message) == (409, True)
    answer = daemon.delete("/containers/created", link=1)
    assert (answer.status, "cannot remove the default link name" in answer.message) == (409, True)
    assert daemon.delete("/containers/nobody", link=1).status == 404


def test_a_start_with_a_body_is_of_another_age(daemon: Daemon, five: dict[str, str]) -> None:
    answer = daemon.post("/containers/created/start", {"Memory": 1 << 30})
    assert (answer.status, "removed in v1.24" in answer.message) == (400, True)
    assert daemon.state("created")["Status"] == "created"
    answer = daemon.post("/containers/created/start", checkpoint="x")
    assert (answer.status, "checkpoint" in answer.message) == (501, True)


def asked_while_it_ends(
    daemon: Daemon, ask: Callable[[str], tuple[int, str]]
) -> set[tuple[int, str]]:
    """What ``ask`` is answered before, at each moment of, and after containers' ends."""
    found: set[tuple[int, str]] = set()

    def answer() -> None:
        status, message = ask(container)
        found.add((status, message.replace(container, "ID")))

    for step in range(12):
        container = daemon.run("sleep", "600")
        kill = threading.Timer(
            step * 0.002, daemon.post, (f"/containers/{container}/kill",), {"signal": "KILL"}
        )
        answer()
        kill.start()
        for _ in range(6):
            answer()
        kill.join()
        daemon.wait(container)
        answer()
        daemon.delete(f"/containers/{container}", force=1)
    return found


def test_an_exec_that_the_end_overtakes_is_a_conflict(daemon: Daemon) -> None:
    def ask(container: str) -> tuple[int, str]:
        made = daemon.post(f"/containers/{container}/exec", {"Cmd": ["true"]})
        if made.status == 201:
            made = daemon.post(f"/exec/{made.json()['Id']}/start", {"Detach": True})
        return made.status, made.message if made.status >= 400 else ""

    answers = asked_while_it_ends(daemon, ask)
    assert {status for status, _ in answers} == {200, 409}, answers
    assert all("is not running" in message for status, message in answers if status == 409)


def test_limits_of_a_container_that_ends_meanwhile_are_its_next_starts(daemon: Daemon) -> None:
    def ask(container: str) -> tuple[int, str]:
        wanted = {"PidsLimit": random.randrange(50, 5000)}
        answer = daemon.post(f"/containers/{container}/update", wanted)
        assert answer.status == 200, answer.body
        shown = daemon.get(f"/containers/{container}/json").json()["HostConfig"]
        assert shown["PidsLimit"] == wanted["PidsLimit"]
        return answer.status, ""

    assert asked_while_it_ends(daemon, ask) == {(200, "")}
    assert "limits were not set back" not in daemon.log.read_text()


@pytest.mark.parametrize("operation", ["start", "stop", "restart", "kill", "pause", "wait", "json"])
def test_nobody_is_named(daemon: Daemon, operation: str) -> None:
    method = "GET" if operation == "json" else "POST"
    answer = daemon.request(method, f"/containers/nobody/{operation}")
    said = "cannot kill container: nobody: " if operation == "kill" else ""
    assert (answer.status, answer.message) == (404, f"{said}No such container: nobody")


def test_a_removal_that_waits_is_seen_and_not_repeated(daemon: Daemon) -> None:
    """A process that is being traced by nobody dies at once; one in an uninterruptible sleep does
    not. Freezing the group behind the daemon's back is the nearest thing to that."""
    from pathlib import Path

    from sampan.kernel import cgroups

    container = daemon.run("sleep", "600", name="stuck")
    tree = cgroups.detect().controllers.get("freezer")
    if tree is None or tree.version != 1:
        pytest.skip("a frozen process of cgroup v2 can be killed")
    state = Path(f"{tree.mount_point}{daemon.cgroup}/{container}/freezer.state")
    state.write_text("FROZEN")
    removing = threading.Thread(target=lambda: daemon.delete("/containers/stuck", force=1))
    removing.start()
    killed = json.dumps({"container": [container], "event": ["kill"]})
    daemon.wait_for(lambda: daemon.get("/events", since=1, until=time.time(), filters=killed).body)
    answer = daemon.delete("/containers/stuck", force=1)
    assert answer.message == "removal of container stuck is already in progress"
    answer = daemon.post("/containers/stuck/update", {"PidsLimit": 5})
    assert (answer.status, "marked for removal" in answer.message) == (409, True)
    state.write_text("THAWED")
    removing.join(60)
    assert daemon.get("/containers/stuck/json").status == 404


def test_waits_of_every_condition(daemon: Daemon) -> None:
    container = daemon.create("sh", "-c", "sleep 0.3; exit 6")
    # Not running: at once, whatever the last end was.
    assert daemon.post(f"/containers/{container}/wait").json() == {"StatusCode": 0}
    codes: dict[str, int] = {}

    def wait(condition: str) -> None:
        answer = daemon.post(f"/containers/{container}/wait", condition=condition)
        codes[condition] = answer.json()["StatusCode"]

    waiting = [threading.Thread(target=wait, args=(one,)) for one in ("next-exit", "removed")]
    for thread in waiting:
        thread.start()
    time.sleep(0.2)
    daemon.post(f"/containers/{container}/start")
    wait("not-running")
    waiting[0].join(60)
    assert codes == {"not-running": 6, "next-exit": 6}
    daemon.delete(f"/containers/{container}")
    waiting[1].join(60)
    assert codes["removed"] == 6


def test_a_wait_of_an_old_client_knows_no_conditions(daemon: Daemon) -> None:
    container = daemon.run("sh", "-c", "exit 6")
    daemon.wait(container)
    answer = daemon.post(f"/v1.29/containers/{container}/wait", condition="next-exit")
    assert answer.json() == {"StatusCode": 6}
    assert answer.headers["Content-Length"]
    daemon.delete(f"/containers/{container}")


@pytest.mark.peer
@pytest.mark.skipif(not DOCKER, reason="no docker client")
def test_docker_tells_them(daemon: Daemon, five: dict[str, str]) -> None:
    for words, said in (
        (("rm", "running"), "stop the container before removing or force remove"),
        (("rm", "paused"), "is paused and must be unpaused first"),
        (("pause", "exited"), "is not running"),
        (("exec", "paused", "true"), "is paused, unpause the container before exec"),
        (("kill", "exited"), "is not running"),
        (("start", "paused"), "try unpause instead"),
        (("rename", "running", "paused"), "is already in use by container"),
    ):
        done = daemon.docker(*words)
        assert (done.returncode, said in done.stderr) == (1, True), (words, done.stderr)
    assert daemon.docker("stop", "exited").stdout == "exited\n"
    assert daemon.docker("start", "running").stdout == "running\n"
