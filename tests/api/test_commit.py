"""Commit: what a container wrote becomes an image, as the real client asks for it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.busybox import import_image
from tests.daemon_fixture import Daemon
from tests.image.archives import docker_save
from tests.storage.drivers.layers import layer

pytestmark = pytest.mark.root

BUSYBOX = layer(
    {"./": None, "bin/": None, "bin/sh": Path("/bin/busybox").read_bytes(), "etc/": None}, 0o755
)


@pytest.fixture(scope="module", autouse=True)
def base(daemon: Daemon) -> None:
    answer = daemon.request("POST", "/images/load", docker_save([BUSYBOX], ["base:1"]))
    assert answer.status == 200, answer.body


@pytest.fixture(autouse=True)
def nothing_stays(daemon: Daemon) -> Iterator[None]:
    yield
    daemon.remove_all()
    for image in daemon.get("/images/json", all=1).json():
        if "base:1" not in image["RepoTags"] and image["Id"] != host(daemon):
            daemon.delete(f"/images/{image['Id']}", force=1)


def host(daemon: Daemon) -> str:
    return str(daemon.get("/images/host/json").json()["Id"])


def container(daemon: Daemon, script: str, **settings: Any) -> str:
    made = daemon.create("/bin/sh", "-c", script, Image="base:1", **settings)
    daemon.post(f"/containers/{made}/start")
    return made


def inspect(daemon: Daemon, name: str) -> dict[str, Any]:
    answer = daemon.get(f"/images/{name}/json")
    assert answer.status == 200, answer.body
    return dict(answer.json())


def test_the_docker_client_commits_and_runs_it(daemon: Daemon) -> None:
    done = container(daemon, "echo hello > /etc/new; rm /bin/nothing 2>/dev/null; mkdir /made")
    daemon.wait(done)
    # fmt: off
    committed = daemon.docker("commit", "-a", "Anna", "-m", "a word", "-c", "ENV A=1 B=2",
                              "-c", 'CMD ["/bin/sh", "-c", "cat /etc/new; echo $A$B"]',
                              done, "mine:2")
    # fmt: on
    assert committed.returncode == 0, committed.stderr
    shown = inspect(daemon, "mine:2")
    assert committed.stdout.strip() == shown["Id"]
    assert (shown["Author"], shown["Comment"]) == ("Anna", "a word")
    own = daemon.get(f"/containers/{done}/json").json()["Config"]["Env"] or []
    assert shown["Config"]["Env"] == [*own, "A=1", "B=2"]
    assert shown["Parent"] == inspect(daemon, "base:1")["Id"]
    assert shown["RootFS"]["Layers"][:1] == inspect(daemon, "base:1")["RootFS"]["Layers"]
    assert len(shown["RootFS"]["Layers"]) == 2
    ran = daemon.docker("run", "--rm", "--network", "none", "mine:2")
    assert (ran.stdout, ran.stderr) == ("hello\n12\n", "")
    steps = daemon.get("/images/mine:2/history").json()
    assert (steps[0]["Comment"], steps[0]["Tags"]) == ("a word", ["mine:2"])
    assert steps[0]["CreatedBy"].startswith("/bin/sh -c echo hello")


def test_steps_are_known_by_the_images_that_are_here(daemon: Daemon) -> None:
    import_image(daemon, "stepped:1")
    first = inspect(daemon, "stepped:1")["Id"]
    made = daemon.create("true", Image="stepped:1")
    second = daemon.post("/commit", container=made, repo="stepped", tag="2").json()["Id"]
    steps = daemon.get("/images/stepped:2/history").json()
    assert [(step["Id"], step["Tags"]) for step in steps] == [
        (second, ["stepped:2"]),
        (first, ["stepped:1"]),
    ]


def test_the_containers_own_configuration_is_taken_over(daemon: Daemon) -> None:
    made = daemon.create(
        "/bin/sh",
        Image="base:1",
        Env=["OWN=1", "PATH=/bin"],
        WorkingDir="/etc",
        User="7:8",
        Labels={"own": "yes"},
        ExposedPorts={"80/tcp": {}},
        StopSignal="SIGINT",
        Healthcheck={"Test": ["CMD", "true"], "Interval": 10**9},
    )
    answer = daemon.post(
        "/commit", container=made, repo="own", changes=["LABEL more=1", "EXPOSE 90", "USER 9"]
    )
    assert answer.status == 201, answer.body
    config = inspect(daemon, "own:latest")["Config"]
    assert config["Env"] == ["OWN=1", "PATH=/bin"]
    assert (config["WorkingDir"], config["User"]) == ("/etc", "9")
    assert config["Labels"] == {"own": "yes", "more": "1"}
    assert config["ExposedPorts"] == {"80/tcp": {}, "90/tcp": {}}
    assert config["StopSignal"] == "SIGINT"
    assert config["Healthcheck"] == {"Test": ["CMD", "true"], "Interval": 10**9}
    assert config["Cmd"] == ["/bin/sh"]


def test_a_configuration_in_the_body_comes_before_the_containers(daemon: Daemon) -> None:
    made = daemon.create("/bin/sh", Image="base:1", Env=["A=1"], Labels={"a": "1"})
    body = {"Env": ["A=2"], "Cmd": ["other"], "Labels": {"b": "2"}}
    daemon.post("/commit", body, container=made, repo="body", tag="1")
    config = inspect(daemon, "body:1")["Config"]
    assert (config["Env"], config["Cmd"]) == (["A=2", "PATH=/bin"], ["other"])
    assert config["Labels"] == {"a": "1", "b": "2"}
    refused = daemon.post("/commit", {"Nonsense": 1}, container=made)
    assert (refused.status, "Nonsense" in refused.message) == (400, True)


@pytest.mark.parametrize("ran", [False, True])
def test_a_container_that_wrote_nothing_gives_no_layer(daemon: Daemon, ran: bool) -> None:
    """What was made to mount /proc and /etc/hosts on is nothing it wrote."""
    made = daemon.create("/bin/sh", Image="base:1")
    if ran:
        daemon.post(f"/containers/{made}/start")
        daemon.wait(made)
    image = daemon.post("/commit", container=made, comment="nothing").json()["Id"]
    shown = inspect(daemon, image)
    assert shown["RootFS"] == inspect(daemon, "base:1")["RootFS"]
    assert (shown["RepoTags"], shown["Comment"]) == ([], "nothing")
    assert daemon.get(f"/images/{image}/history").json()[0]["Size"] == 0


@pytest.mark.parametrize("pause", [True, False])
def test_a_running_container_stands_still_meanwhile_or_not(daemon: Daemon, pause: bool) -> None:
    made = container(daemon, "echo 1 > /etc/one; while :; do sleep 1; done")
    daemon.wait_for(lambda: daemon.state(made)["Running"])
    daemon.docker("exec", made, "/bin/sh", "-c", "echo 2 > /etc/two")
    since = time.time()
    answer = daemon.post("/commit", container=made, repo="running", pause=int(pause))
    assert answer.status == 201, answer.body
    assert daemon.state(made)["Status"] == "running"
    lines = daemon.get("/events", since=since, until=time.time() + 0.1).body.splitlines()
    events = [json.loads(line) for line in lines]
    actions = [event["Action"] for event in events if event["Type"] == "container"]
    assert actions == (["pause", "unpause", "commit"] if pause else ["commit"])
    (event,) = [event for event in events if event["Action"] == "commit"]
    assert event["Actor"]["Attributes"]["imageID"] == answer.json()["Id"]
    assert event["Actor"]["Attributes"]["imageRef"] == "running:latest"
    ran = daemon.docker(
        "run", "--rm", "--network", "none", "running", "/bin/sh", "-c", "cat /etc/*o*"
    )
    assert {"1", "2"} <= set(ran.stdout.split())


def test_a_paused_container_stays_paused(daemon: Daemon) -> None:
    made = container(daemon, "while :; do sleep 1; done")
    daemon.post(f"/containers/{made}/pause")
    assert daemon.post("/commit", container=made).status == 201
    assert daemon.state(made)["Status"] == "paused"
    daemon.post(f"/containers/{made}/unpause")


def test_what_is_deleted_stays_deleted(daemon: Daemon) -> None:
    done = container(daemon, "rm -rf /etc; mkdir /etc; echo x > /etc/only")
    daemon.wait(done)
    daemon.post("/commit", container=done, repo="deleted")
    ran = daemon.docker(
        "run", "--rm", "--network", "none", "deleted", "/bin/sh", "-c", "cat /etc/only"
    )
    assert ran.stdout == "x\n"


def test_many_at_once_are_as_many_images(daemon: Daemon) -> None:
    done = container(daemon, "echo x > /etc/x")
    daemon.wait(done)
    found: list[str] = []

    def commit(number: int) -> None:
        answer = daemon.post("/commit", container=done, repo="many", tag=str(number))
        found.append(answer.json()["Id"])

    threads = [threading.Thread(target=commit, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(set(found)) == 4
    assert len({str(inspect(daemon, one)["RootFS"]["Layers"]) for one in found}) == 1


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ({}, 400, "container"),
        ({"container": "nobody"}, 404, "No such container: nobody"),
        ({"repo": "UPPER"}, 400, "must be lowercase"),
        ({"repo": "a", "tag": "b c"}, 400, "not a tag"),
        ({"repo": "host"}, 400, "reserved"),
        ({"tag": "1"}, 400, "repository"),
        ({"changes": "RUN x"}, 400, "RUN"),
        ({"changes": "ENV"}, 400, "ENV requires an argument"),
    ],
)
def test_what_cannot_be_is_refused(
    daemon: Daemon, query: dict[str, object], status: int, words: str
) -> None:
    made = daemon.create("/bin/sh", Image="base:1")
    asked = {"container": made, **query} if query else {}
    answer = daemon.post("/commit", **asked)
    assert (answer.status, words in answer.message) == (status, True), answer.message


def test_a_container_of_the_host_image_is_no_image(daemon: Daemon) -> None:
    made = daemon.create("true")
    answer = daemon.post("/commit", container=made)
    assert (answer.status, "no bytes of its own" in answer.message) == (501, True)
