"""The registry's clients: what counts as a step, whose it was, and the page that says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compatibility.record import recorder
from tests.compatibility.registry import PAGE, Visits, client_of, render, step_of

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("method", "path", "status", "step"),
    [
        ("PUT", "/v2/a/b/manifests/v", 201, "push"),
        ("PUT", "/v2/a/b/manifests/v", 400, ""),
        ("HEAD", "/v2/a/manifests/v", 200, ""),
        ("POST", "/v2/a/blobs/uploads/", 201, "mount"),
        ("POST", "/v2/a/blobs/uploads/", 202, ""),
        ("GET", "/v2/a/tags/list", 200, "list"),
        ("GET", "/v2/a/blobs/sha256:0", 206, "pull"),
        ("DELETE", "/v2/a/manifests/v", 202, "delete"),
        ("DELETE", "/v2/a/blobs/uploads/x", 204, ""),
        ("POST", "/token", 200, "token"),
    ],
)
def test_a_request_is_a_step_if_it_was_answered_so(
    method: str, path: str, status: int, step: str
) -> None:
    assert step_of(method, path, status) == step


def test_clients_are_known_by_the_name_they_give() -> None:
    assert client_of("skopeo/1.9.3") == ("skopeo", "skopeo 1.9.3")
    assert client_of("docker/20.10.24+dfsg1 go/go1.19.8") == (
        "docker 20.10's daemon",
        "docker 20.10.24",
    )
    assert client_of("skopeo by hand") == ("skopeo", "by hand")
    assert client_of("curl/7") == client_of("") == ("", "")


def test_the_access_log_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    added = []
    monkeypatch.setattr(recorder, "add", lambda *record: added.append(record))
    log = tmp_path / "log"
    rest = 'path=/v2/a/manifests/1 status=201 ms=0.1 agent="Buildah/1.28.2 (x)"\n'
    log.write_text(f"time=x level=info msg=request client=127.0.0.1 user= method=PUT {rest}")
    visits = Visits(log)
    assert visits.of("buildah") == set()
    log.write_text(log.read_text() + log.read_text().replace("user= ", 'user="" '))
    assert visits.of("buildah") == {"push"}
    assert added == [("registry", "push", "buildah", "Buildah 1.28.2")]


def test_a_step_that_only_a_test_did_is_said_to_be_so() -> None:
    records = {
        "tests/registry/a.py::test_it": [
            ["registry", "push", "podman", ["containers 5.23.1"]],
            ["registry", "delete", "podman", ["by hand"]],
        ]
    }
    row = render(records).splitlines()[-1]
    assert row == (
        "| podman | containers 5.23.1 | yes |  |  |  | by hand |  |  | `registry/a.py` it |"
    )


@pytest.mark.skipif(not PAGE.exists(), reason="make compatibility writes it")
def test_the_page_has_every_client_through_every_step() -> None:
    rows = [text.split(" | ") for text in PAGE.read_text().splitlines() if text.startswith("| ")]
    clients = {row[0].removeprefix("| "): row for row in rows[2:]}
    assert len(clients) == 6
    for row in clients.values():
        push, _, listed, pull, delete = row[2:7]
        assert (push, listed, pull) == ("yes", "yes", "yes")
        assert delete in ("yes", "by hand")
