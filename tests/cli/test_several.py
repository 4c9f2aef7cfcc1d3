"""Several objects are named and some fail: what is printed, and where, is Docker's client's.

Against a server that answers as told, since most of these change what they are told of.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.canned import Canned
from tests.cli.test_same_output import both
from tests.daemon_fixture import DOCKER

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not DOCKER, reason="needs Docker's client"),
]

_REFUSED = (409, {"message": "conflict: it is in use"})
_DONE = (204, None)
LINES = [
    *(
        f"{verb} {names}"
        for verb in ("start", "stop", "restart", "kill", "pause", "unpause", "rm", "rm -f")
        for names in ("good", "nope nopf", "good nope", "nope good held")
    ),
    *(
        f"{verb} {names}"
        for verb in ("rmi", "rmi -f", "volume rm", "volume rm -f", "network rm", "network rm -f")
        for names in ("good", "held nope", "nope nopf good", "held good", "nope held")
    ),
    "wait good nope good nopf",
    "start -a good nope",
    "update -m 1g good nope held",
    "rename good x",
    "rename nope x",
    "rename held x",
    "rename good ''",
    "rename '' x",
    "rename ' ' ' '",
    "tag nope x:1",
    "tag held x:1",
    "port good",
    "port good 80",
    "port good 53/udp",
    "port nope 80",
    "top nope",
    "logs nope",
    "attach nope",
    "cp nope:/x -",
    "diff nope",
    "network connect nope good",
    "network disconnect held good",
]
# Docker's client sends these at once and prints an answer as it comes, beside the name whose turn
# it is, not the one that it is about.
_AT_ONCE = ("stop", "restart", "kill", "pause", "unpause", "rm")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Canned]:
    found = Canned(tmp_path_factory.mktemp("several") / "s")
    answers = found.answers
    for verb in ("start", "stop", "restart", "kill", "pause", "unpause", "rename"):
        answers[f"POST /containers/good/{verb}"] = _DONE
        answers[f"POST /containers/held/{verb}"] = _REFUSED
    answers["POST /containers/good/wait"] = (200, {"StatusCode": 3})
    answers["POST /containers/good/update"] = (200, {"Warnings": []})
    answers["POST /containers/held/update"] = _REFUSED
    for kind in ("containers", "volumes", "networks"):
        answers[f"DELETE /{kind}/good"] = _DONE
        answers[f"DELETE /{kind}/held"] = _REFUSED
    answers["DELETE /images/good"] = (200, [{"Untagged": "good:latest"}, {"Deleted": "sha256:1"}])
    answers["DELETE /images/held"] = _REFUSED
    answers["POST /images/held/tag"] = _REFUSED
    answers["POST /networks/held/disconnect"] = _REFUSED
    ports = {"53/tcp": [{"HostIp": "0.0.0.0", "HostPort": "53"}], "80/tcp": None}
    answers["GET /containers/good/json"] = (200, {"NetworkSettings": {"Ports": ports}})
    for kind in ("containers", "images", "networks", "volumes", "build"):
        answers[f"POST /{kind}/prune"] = (200, {})
    yield found
    found.close()


@pytest.mark.parametrize("line", LINES)
def test_as_dockers_client(server: Canned, tmp_path: Path, line: str) -> None:
    theirs, ours = both(server.host, tmp_path, line)
    assert ours[0] == theirs[0], ours[2]
    verb = line.split(maxsplit=1)[0]
    if verb in _AT_ONCE:
        assert len(ours[1].splitlines()) == len(theirs[1].splitlines())
        assert set(ours[1].split()) <= {"good"}
        assert sorted(ours[2].splitlines()) == sorted(theirs[2].splitlines())
        return
    assert ours[1] == theirs[1]
    # Its words where an error has none; the removal of networks forgets its own.
    said = theirs[2].removesuffix("exit status 1\n") if verb == "network" else theirs[2]
    # What no daemon said is ours to say, and begins with our name.
    assert ours[2].removeprefix("sampan: ") == said


@pytest.mark.parametrize(
    ("line", "filters"),
    [
        ("container prune -f", {"label": ["c"], "label!": ["a"]}),
        ("image prune -f --filter label=b", {"label": ["b", "c"], "label!": ["a"]}),
        ("network prune -f --filter label=a", {"label": ["a", "c"]}),
        ("volume prune -af", {"label": ["c"], "label!": ["a"], "all": ["true"]}),
        ("volume prune -f --filter label!=c", {"label!": ["a", "c"]}),
        ("builder prune -f", {"label": ["c"], "label!": ["a"]}),
        ("system prune -f", {"label": ["c"], "label!": ["a"]}),
    ],
)
def test_prunes_heed_the_filters_of_the_configuration(
    server: Canned, tmp_path: Path, line: str, filters: dict[str, list[str]]
) -> None:
    """Each adds to what is given, but for a contradiction. (Docker's client, whose setting this is,
    forgets most of them where a command has no filters of its own.)"""
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker/config.json").write_text('{"pruneFilters": ["label!=a", "label=c"]}')
    server.requests.clear()
    theirs, ours = both(server.host, tmp_path, line)
    assert ours[:2] == theirs[:2]
    asked = [one for one in server.requests if one.method == "POST"]
    asked = asked[len(asked) // 2 :]
    assert asked
    for one in asked:
        found = one.filters()
        if one.path == "/images/prune":
            assert found.pop("dangling") == ["true"]
        assert found == filters
