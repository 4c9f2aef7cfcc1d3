"""``GET /events``: a container's life as a listener hears it."""

from __future__ import annotations

import json
import threading
import time

import pytest

from sampan.api.docker.events import selected
from sampan.engine.events import Event
from tests.daemon_fixture import Daemon


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
    listening.join(10)
    assert actions(heard[0]) == expected
    die = json.loads(heard[0].splitlines()[2])
    assert die["Actor"]["ID"] == container
    assert die["Actor"]["Attributes"] == {
        "image": "host", "name": "loud", "heard": "yes", "exitCode": "3", "execDuration": "0",
    }  # fmt: skip
    assert (die["Type"], die["status"], die["from"]) == ("container", "die", "host")
    answer = daemon.get("/events", filters='{"colour":["red"]}')
    assert (answer.status, "colour" in answer.message) == (400, True)


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
        ({"image": ["abc"]}, False),
        ({"label": ["k=v"]}, True),
        ({"label": ["k=v", "l"]}, False),
        ({"type": ["container"], "event": ["die"]}, False),
    ],
    ids=str,
)
def test_filters(filters: dict[str, list[str]], good: bool) -> None:
    attributes = {"name": "named", "k": "v"}
    event = Event(type="container", action="start", id="abcdef", attributes=attributes, time=1)
    assert selected(event, filters) is good
