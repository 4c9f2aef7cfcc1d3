"""``GET /events``: a container's life as a listener hears it."""

from __future__ import annotations

import json
import threading
import time

import pytest

from sampan.api.docker.events import selected
from sampan.engine.events import Event
from tests.api.busybox import import_image
from tests.daemon_fixture import DOCKER, Daemon


def actions(lines: bytes) -> list[str]:
    return [json.loads(line)["Action"] for line in lines.splitlines()]


@pytest.mark.root
def test_a_life_is_heard_as_it_happens_and_afterwards(daemon: Daemon) -> None:
    begin = time.time()
    heard: list[bytes] = []
    filters = json.dumps({"label": ["heard"]})

    def listen() -> None:
        heard.append(daemon.get("/events", until=begin + 3, filters=filters).body)

    listening = threading.Thread(target=listen)
    listening.start()
    time.sleep(0.3)
    container = daemon.run("sh", "-c", "exit 3", name="loud", Labels={"heard": "yes"})
    daemon.wait(container)
    daemon.delete("/containers/loud")
    expected = ["create", "start", "die", "destroy"]
    past = daemon.get("/events", since=begin, until=time.time(), filters=filters)
    assert actions(past.body) == expected
    listening.join(60)
    assert actions(heard[0]) == expected
    die = json.loads(heard[0].splitlines()[2])
    assert die["Actor"]["ID"] == container
    assert die["Actor"]["Attributes"] == {
        "image": "host", "name": "loud", "heard": "yes", "exitCode": "3", "execDuration": "0",
    }  # fmt: skip
    assert (die["Type"], die["status"], die["from"]) == ("container", "die", "host")
    answer = daemon.get("/events", filters='{"colour":["red"]}')
    assert (answer.status, "colour" in answer.message) == (400, True)


@pytest.mark.root
def test_the_past_survives_the_daemon(daemon: Daemon) -> None:
    begin = time.time()
    container = daemon.run("sh", "-c", "sleep 0.3; exit 4")
    daemon.kill()
    time.sleep(0.6)
    daemon.start()
    filters = json.dumps({"container": [container]})
    past = daemon.get("/events", since=begin, until=time.time(), filters=filters)
    lines = [json.loads(line) for line in past.body.splitlines()]
    assert [line["Action"] for line in lines] == ["create", "start", "die"]
    assert lines[2]["Actor"]["Attributes"]["exitCode"] == "4"
    assert [line["timeNano"] for line in lines] == sorted(line["timeNano"] for line in lines)
    daemon.delete(f"/containers/{container}")


@pytest.mark.root
def test_what_is_done_in_and_to_a_container_is_told_in_dockers_words(daemon: Daemon) -> None:
    begin = time.time()
    container = daemon.run("sleep", "60", name="told", Tty=True)
    instance = daemon.post("/containers/told/exec", {"Cmd": ["sh", "-c", "exit 3"]}).json()["Id"]
    daemon.post(f"/exec/{instance}/start", {"Detach": True})
    daemon.wait_for(lambda: daemon.get(f"/exec/{instance}/json").json()["ExitCode"] == 3)
    daemon.post("/containers/told/resize", h=20, w=50)
    daemon.get("/containers/told/top")
    daemon.post("/containers/told/pause")
    daemon.post("/containers/told/unpause")
    daemon.post("/containers/told/rename", name="renamed")
    daemon.post("/containers/renamed/stop", t=0)
    daemon.delete("/containers/renamed")
    filters = json.dumps({"container": [container]})
    past = daemon.get("/events", since=begin, until=time.time(), filters=filters)
    lines = [json.loads(line) for line in past.body.splitlines()]
    assert [line["Action"] for line in lines] == [
        "create", "start", "exec_create: sh -c exit 3", "exec_start: sh -c exit 3", "exec_die",
        "resize", "top", "pause", "unpause", "rename", "kill", "kill", "die", "stop", "destroy",
    ]  # fmt: skip
    found = {line["Action"]: line["Actor"]["Attributes"] for line in lines}
    assert found["exec_die"]["exitCode"] == "3"
    assert found["exec_die"]["execID"] == instance
    assert (found["resize"]["height"], found["resize"]["width"]) == ("20", "50")
    assert (found["rename"]["oldName"], found["rename"]["name"]) == ("/told", "renamed")
    assert found["kill"]["signal"] == "9"
    only = json.dumps({"container": ["renamed"], "event": ["exec_create", "pause", "die"]})
    past = daemon.get("/events", since=begin, until=time.time(), filters=only)
    assert actions(past.body) == ["die"]


@pytest.mark.root
def test_an_image_is_told_of_by_its_names_with_its_labels(daemon: Daemon) -> None:
    begin = time.time()
    import_image(daemon, "told:1", {}, "LABEL a=b")
    image = daemon.get("/images/told:1/json").json()["Id"]
    daemon.post("/images/told:1/tag", repo="docker.io/library/told", tag="2")
    archive = daemon.get("/images/told:2/get").body
    container = daemon.create("true", Image="told:1")
    committed = daemon.post("/commit", container=container, repo="told", tag="3").json()["Id"]
    daemon.delete(f"/containers/{container}")
    daemon.delete("/images/told:3")
    daemon.delete("/images/told:2")
    daemon.delete("/images/told:1")
    daemon.request("POST", "/images/load", archive)
    daemon.delete("/images/told:2")
    filters = json.dumps({"type": ["image"]})
    past = daemon.get("/events", since=begin, until=time.time(), filters=filters)
    lines = [json.loads(line) for line in past.body.splitlines()]
    actors = [line["Actor"] for line in lines]
    assert [(line["Action"], line["Actor"]["Attributes"]["name"]) for line in lines] == [
        ("tag", "told:1"), ("import", image), ("tag", "told:2"), ("save", image),
        ("tag", "told:3"), ("untag", committed), ("delete", committed),
        ("untag", image), ("untag", image), ("delete", image),
        ("load", image), ("untag", image), ("delete", image),
    ]  # fmt: skip
    assert {actor["ID"] for actor in actors} == {image, committed}
    with_label = [line["Action"] for line in lines if line["Actor"]["Attributes"].get("a") == "b"]
    assert with_label == [line["Action"] for line in lines if line["Action"] != "delete"]


@pytest.mark.root
def test_an_attachment_is_told_before_and_after_the_start(daemon: Daemon) -> None:
    begin = time.time()
    done = daemon.docker("run", "--network", "none", "--name", "attached", "host", "true")
    assert done.returncode == 0, done.stderr
    filters = json.dumps({"container": ["attached"]})
    past = daemon.get("/events", since=begin, until=time.time(), filters=filters)
    assert actions(past.body) == ["create", "attach", "start", "die"]
    daemon.delete("/containers/attached")


@pytest.mark.root
def test_a_listener_that_reads_nothing_holds_nobody_up_and_misses_nothing(daemon: Daemon) -> None:
    import socket

    begin = time.time()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(daemon.socket)
        filters = '{"type":["container"]}'
        sock.sendall(f"GET /events?since={begin}&filters={filters} HTTP/1.0\r\n\r\n".encode())
        container = daemon.create("true", name="renamed0", Labels={"long": "x" * 1000})
        for number in range(1, 2000):
            daemon.post(f"/containers/{container}/rename", name=f"renamed{number}")
        data = b""
        sock.settimeout(60)
        while data.count(b'"oldName"') < 1999:
            data += sock.recv(1 << 20)
    lines = [json.loads(line) for line in data.splitlines() if line.startswith(b"{")]
    names = [line["Actor"]["Attributes"]["name"] for line in lines if line["Action"] == "rename"]
    assert names == [f"renamed{number}" for number in range(1, 2000)]
    daemon.delete(f"/containers/{container}")


@pytest.mark.root
@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"since": "yesterday"}, "yesterday"),
        ({"since": 20, "until": 10}, "cannot be after"),
        ({"filters": "{"}, "invalid filter"),
    ],
    ids=str,
)
def test_what_is_no_question_is_refused(
    daemon: Daemon, query: dict[str, object], words: str
) -> None:
    answer = daemon.get("/events", **query)
    assert (answer.status, words in answer.message) == (400, True), answer.body


@pytest.mark.root
@pytest.mark.peer
@pytest.mark.skipif(not DOCKER, reason="no docker client")
def test_docker_events_reads_them(daemon: Daemon) -> None:
    begin = time.time()
    container = daemon.run("true", name="seen", Labels={"a": "b"})
    daemon.wait(container)
    done = daemon.docker(
        "events", "--since", str(begin), "--until", str(time.time()), "--filter", "label=a=b",
        "--format", "{{.Type}} {{.Action}} {{.Actor.Attributes.name}}",
    )  # fmt: skip
    assert done.stdout.splitlines() == [f"container {x} seen" for x in ("create", "start", "die")]
    daemon.delete("/containers/seen")


@pytest.mark.parametrize(
    ("filters", "good"),
    [
        ({}, True),
        ({"type": ["image", "container"]}, True),
        ({"type": ["image"]}, False),
        ({"event": ["start"]}, True),
        ({"event": ["die"]}, False),
        ({"container": ["abc"]}, True),
        ({"container": ["named"]}, True),
        ({"container": ["abcdefg"]}, False),
        ({"volume": ["abc"]}, False),
        ({"image": ["abc"]}, False),
        ({"image": ["some/where"]}, True),
        ({"image": ["some/where:tag"]}, True),
        ({"image": ["some"]}, False),
        ({"scope": ["local"]}, True),
        ({"scope": ["swarm"]}, False),
        ({"label": ["k=v"]}, True),
        ({"label": ["k=v", "l"]}, False),
        ({"type": ["container"], "event": ["die"]}, False),
    ],
    ids=str,
)
def test_filters(filters: dict[str, list[str]], good: bool) -> None:
    attributes = {"name": "named", "k": "v", "image": "some/where:tag"}
    event = Event(
        number=1, type="container", action="start", id="abcdef", attributes=attributes, time=1
    )
    assert selected(event, filters) is good


@pytest.mark.parametrize(
    ("wanted", "good"),
    [
        ("health_status", True),
        ("health_status: healthy", True),
        ("health_status: unhealthy", False),
        ("health", False),
    ],
)
def test_an_action_is_found_with_and_without_what_was_done(wanted: str, good: bool) -> None:
    event = Event(
        number=1, type="container", action="health_status: healthy", id="a", attributes={}, time=1
    )
    assert selected(event, {"event": [wanted]}) is good
