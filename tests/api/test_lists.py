"""``GET /containers/json``: every filter, in both encodings; and the prune."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.daemon_fixture import DOCKER, Daemon

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def three(daemon: Daemon) -> Iterator[dict[str, str]]:
    """One that was made only, one that has ended, one that runs."""
    daemon.remove_all()
    made = daemon.create(
        "true", name="made", Labels={"kind": "a", "both": ""}, HostConfig={"NetworkMode": "host"}
    )
    ended = daemon.run(
        "sh", "-c", "exit 3", name="ended", Labels={"kind": "b"},
        ExposedPorts={"80/tcp": {}, "53/udp": {}},
        HostConfig={"Binds": ["named-volume:/data", "/tmp:/host/tmp"]},
    )  # fmt: skip
    daemon.wait(ended)
    runs = daemon.run(
        "sleep", "600", name="runs", Labels={"both": "x"},
        Healthcheck={"Test": ["CMD", "true"], "Interval": 10**15},
    )  # fmt: skip
    yield {"made": made, "ended": ended, "runs": runs}
    daemon.remove_all()
    daemon.delete("/volumes/named-volume")


def names(daemon: Daemon, filters: Any = None, **query: object) -> list[str]:
    if filters is not None:
        query["filters"] = json.dumps(filters)
    answer = daemon.get("/containers/json", **query)
    assert answer.status == 200, answer.body
    return [item["Names"][0][1:] for item in answer.json()]


EVERY = ["runs", "ended", "made"]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"ancestor": ["host"]}, EVERY),
        ({"ancestor": ["nothing"]}, []),
        ({"before": ["ended"]}, ["made"]),
        ({"since": ["made"]}, ["runs", "ended"]),
        ({"since": ["made"], "before": ["runs"]}, ["ended"]),
        ({"exited": ["3"]}, ["ended"]),
        ({"exited": ["0"]}, []),
        ({"expose": ["80"]}, ["ended"]),
        ({"expose": ["53/udp"]}, ["ended"]),
        ({"expose": ["53"]}, []),
        ({"expose": ["70-90/tcp"]}, ["ended"]),
        ({"publish": ["80"]}, []),
        ({"health": ["starting"]}, ["runs"]),
        ({"health": ["none"]}, ["ended", "made"]),
        ({"health": ["healthy", "unhealthy"]}, []),
        ({"isolation": ["default"]}, EVERY),
        ({"is-task": ["true"]}, []),
        ({"is-task": ["false"]}, EVERY),
        ({"label": ["kind"]}, ["ended", "made"]),
        ({"label": ["kind=b"]}, ["ended"]),
        ({"label": ["kind", "both"]}, ["made"]),
        ({"name": ["un"]}, ["runs"]),
        ({"name": ["^/?e"]}, ["ended"]),
        ({"name": ["ended", "made"]}, ["ended", "made"]),
        ({"network": ["host"]}, ["made"]),
        ({"network": ["none"]}, ["runs", "ended"]),
        ({"network": ["other"]}, []),
        ({"status": ["created", "exited"]}, ["ended", "made"]),
        ({"status": ["running"]}, ["runs"]),
        ({"status": ["dead", "removing", "restarting", "paused"]}, []),
        ({"volume": ["named-volume"]}, ["ended"]),
        ({"volume": ["/data"]}, ["ended"]),
        ({"volume": ["/tmp"]}, ["ended"]),
        ({"volume": ["/host/tmp"]}, ["ended"]),
        ({"volume": ["other"]}, []),
        ({"label": ["both"], "status": ["running"]}, ["runs"]),
    ],
    ids=str,
)
def test_filters_in_both_encodings(
    daemon: Daemon, three: dict[str, str], filters: dict[str, list[str]], found: list[str]
) -> None:
    assert names(daemon, filters, all=1) == found
    old = {name: dict.fromkeys(values, True) for name, values in filters.items()}
    assert names(daemon, old, all=1) == found


def test_ids_and_networks_by_their_beginning(daemon: Daemon, three: dict[str, str]) -> None:
    assert names(daemon, {"id": [three["made"][:9]]}, all=1) == ["made"]
    network = daemon.get("/networks/host").json()["Id"]
    # The engine's part of the three IDs is the same.
    assert names(daemon, {"network": [network]}, all=1) == ["made"]


def test_what_runs_and_how_many(daemon: Daemon, three: dict[str, str]) -> None:
    assert names(daemon) == ["runs"]
    assert names(daemon, limit=2) == ["runs", "ended"]
    assert names(daemon, limit=0, all=1) == EVERY
    assert names(daemon, limit=-1) == ["runs"]
    assert names(daemon, {"label": ["kind"]}, limit=1) == ["ended"]
    # Only a status asks for those that do not run by itself.
    assert names(daemon, {"exited": ["3"]}) == []
    assert names(daemon, {"status": ["exited"]}) == ["ended"]
    sized = daemon.get("/containers/json", size=1).json()[0]
    assert sized["SizeRootFs"] >= sized["SizeRw"] >= 0
    assert "SizeRw" not in daemon.get("/containers/json").json()[0]


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        ({"mystery": ["x"]}, "invalid filter 'mystery'"),
        ({"label!": ["x"]}, "invalid filter 'label!'"),
        ({"status": ["gone"]}, "invalid filter 'status=gone'"),
        ({"health": ["ill"]}, "invalid filter 'health=ill'"),
        ({"exited": ["many"]}, "invalid filter 'exited=many'"),
        ({"is-task": ["perhaps"]}, "invalid filter 'is-task=[perhaps]'"),
        ({"expose": ["x"]}, "error while looking up for expose x"),
        ({"expose": ["90-80"]}, "error while looking up for expose 90-80"),
        ({"publish": ["80:80"]}, "filter for 'publish' should not contain ':': 80:80"),
        ({"name": ["("]}, "invalid filter 'name=('"),
        ("x", "invalid filter"),
    ],
    ids=str,
)
def test_what_is_no_filter_is_named(daemon: Daemon, filters: Any, words: str) -> None:
    answer = daemon.get("/containers/json", all=1, filters=json.dumps(filters))
    assert (answer.status, words in answer.message) == (400, True), answer.body


def test_before_whom_nobody_knows(daemon: Daemon) -> None:
    answer = daemon.get("/containers/json", filters='{"before":["nobody"]}')
    assert (answer.status, answer.message) == (404, "No such container: nobody")
    assert daemon.get("/containers/json", limit="x").status == 400


@pytest.mark.peer
@pytest.mark.skipif(not DOCKER, reason="no docker client")
def test_docker_ps_shows_them(daemon: Daemon, three: dict[str, str]) -> None:
    def ps(*words: str) -> list[str]:
        done = daemon.docker("ps", "--format", "{{.Names}}", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    assert ps() == ["runs"]
    assert ps("-a") == EVERY
    assert ps("-n", "2") == ["runs", "ended"]
    assert ps("-l") == ["runs"]
    assert ps("-a", "--filter", "exited=3", "--filter", "label=kind=b") == ["ended"]
    assert ps("--filter", "health=starting", "-s") == ["runs"]
    assert daemon.docker("ps", "-q", "--no-trunc").stdout.split() == [three["runs"]]


def test_a_prune_takes_what_does_not_run_and_was_asked_for(daemon: Daemon) -> None:
    daemon.remove_all()
    begin = time.time()
    old = daemon.run("sh", "-c", "head -c 5000 /dev/zero > /file", name="old", Labels={"a": "1"})
    daemon.wait(old)
    time.sleep(0.01)
    young = daemon.create("true", name="young", Labels={"a": "2"})
    kept = daemon.create("true", name="kept", Labels={"keep": ""})
    runs = daemon.run("sleep", "600", name="running")
    paused = daemon.run("sleep", "600", name="frozen")
    daemon.post(f"/containers/{paused}/pause")
    created = daemon.get(f"/containers/{young}/json").json()["Created"]

    def prune(**filters: list[str]) -> list[str]:
        query = {name.replace("_not", "!"): values for name, values in filters.items()}
        answer = daemon.post("/containers/prune", None, filters=json.dumps(query))
        assert answer.status == 200, answer.body
        report = answer.json()
        reclaimed.append(report["SpaceReclaimed"])
        return sorted(report["ContainersDeleted"])

    reclaimed: list[int] = []
    assert prune(label=["a=3"]) == []
    assert prune(until=["1h"]) == []
    assert prune(until=[created], label=["a=1"]) == [old]
    assert reclaimed[-1] >= 5000
    assert prune(label_not=["keep"]) == [young]
    assert prune() == [kept]
    assert prune() == []
    assert {item["Id"] for item in daemon.get("/containers/json", all=1).json()} == {runs, paused}
    filters = json.dumps({"type": ["container"], "event": ["prune"]})
    past = daemon.get("/events", since=begin, until=time.time(), filters=filters).body
    attributes = [json.loads(line)["Actor"]["Attributes"] for line in past.splitlines()]
    assert [int(one["reclaimed"]) for one in attributes] == reclaimed
    daemon.remove_all()


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        ({"until": ["soon"]}, "soon"),
        ({"until": ["1h", "2h"]}, "more than one until filter specified"),
        ({"name": ["x"]}, "invalid filter 'name'"),
    ],
    ids=str,
)
def test_what_no_prune_understands_is_refused(daemon: Daemon, filters: Any, words: str) -> None:
    answer = daemon.post("/containers/prune", None, filters=json.dumps(filters))
    assert (answer.status, words in answer.message) == (400, True), answer.body
