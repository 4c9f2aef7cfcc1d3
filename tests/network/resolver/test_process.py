"""The process: it outlives who started it, has no privilege, and ends when nobody is served."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sampan.errors import InvalidArgument, NotFound, Unavailable
from sampan.network.resolver import client
from tests.network.resolver.place import CONTAINER, Place, addresses, endpoint, question, wait_for

pytestmark = pytest.mark.root

WEB = endpoint("web", "10.0.0.2")


def test_it_goes_on_while_nobody_is_connected_and_is_found_again(place: Place) -> None:
    place.serve(WEB)
    place.resolver.close()
    assert addresses(place.ask("web")) == ["10.0.0.2"]
    place.resolver = client.connect(str(place.directory))
    assert place.resolver.pid == 0
    other = {"id": "c2", "networks": []}
    state = {"op": "state", "endpoints": [WEB], "clients": [CONTAINER, other]}
    assert place.resolver.tell(state) == {"lacking": ["c2"], "pid": place.pid}
    assert addresses(place.ask("web")) == ["10.0.0.2"]


def test_a_state_is_all_there_is(place: Place) -> None:
    place.serve(WEB)
    place.resolver.tell({"op": "state", "endpoints": [], "clients": []})
    # By UDP who asks nobody waits: what says "nobody there" names another port.
    with pytest.raises(OSError, match="refused"):
        place.ask_tcp(question("web"))


def test_a_client_s_end_is_noticed_without_a_daemon_and_the_process_ends(place: Place) -> None:
    place.serve(WEB)
    place.resolver.close()
    place.kill_container()
    ended = os.pidfd_open(place.pid)
    try:
        wait_for(
            lambda: os.waitid(os.P_PIDFD, ended, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        )
    finally:
        os.close(ended)
    with pytest.raises(NotFound, match="no resolver runs"):
        client.connect(str(place.directory))


def test_its_death_is_told_by_name_and_another_takes_its_place(place: Place) -> None:
    place.serve(WEB)
    os.kill(place.pid, 9)
    os.waitid(os.P_PID, place.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(Unavailable, match="resolver"):
        place.resolver.tell({"op": "state"})
    place.resolver.close()
    place.resolver = client.start(str(place.directory), str(place.resolv_conf))
    place.pid = place.resolver.pid
    place.serve(WEB)
    assert addresses(place.ask("web")) == ["10.0.0.2"]


@pytest.mark.parametrize(
    "message",
    [
        {"op": "unheard-of"},
        {"op": "endpoint", "id": "x"},
        {"op": "endpoint", **WEB, "addresses": ["10.0.0.256"]},
        {"op": "client", "id": "nobody", "networks": []},
        {"op": "client", "networks": []},
    ],
)
def test_what_is_not_understood_is_refused_and_changes_nothing(
    place: Place, message: dict[str, object]
) -> None:
    place.serve(WEB)
    with pytest.raises(InvalidArgument, match="resolver: "):
        place.resolver.tell(message)
    assert addresses(place.ask("web")) == ["10.0.0.2"]


def test_it_has_no_privilege(place: Place) -> None:
    place.resolver.tell({"op": "state"})
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{place.pid}/status").read_text(encoding="utf-8").splitlines()
        if ":\t" in line
    )
    assert status["Uid"].split() == ["65534"] * 4
    assert status["Gid"].split() == ["65534"] * 4
    assert status["Groups"].strip() == ""
    assert (status["CapPrm"], status["CapEff"], status["CapAmb"]) == ("0" * 16,) * 3
    assert status["NoNewPrivs"] == "1"
    # Standard ones, the listener, epoll, us.
    assert sorted(os.listdir(f"/proc/{place.pid}/fd")) == list("012345")
