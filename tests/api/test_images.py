"""Image routes: in from tar, archives and layouts, out again, names and removal."""

from __future__ import annotations

import io
import json
import os
import tarfile

import pytest

from tests.daemon_fixture import DOCKER, Daemon

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not os.path.exists("/bin/busybox"), reason="needs busybox-static"),
]


def root_tar(text: str = "made here\n") -> bytes:
    """A root file system of busybox and one file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.add("/bin/busybox", "bin/busybox")
        for name in ("sh", "cat", "echo", "sleep"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        data = text.encode()
        entry = tarfile.TarInfo("data")
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def make(daemon: Daemon, name: str, text: str = "made here\n", **query: object) -> str:
    repository, _, tag = name.partition(":")
    answer = daemon.request(
        "POST",
        "/images/create",
        root_tar(text),
        query={"fromSrc": "-", "repo": repository, "tag": tag, **query},
    )
    assert answer.status == 200, answer.body
    return str(json.loads(answer.body.splitlines()[-1])["status"])


def test_an_imported_root_runs(daemon: Daemon) -> None:
    changes = ['CMD ["cat", "/data"]', "ENV A=1", "LABEL kind=test", "STOPSIGNAL SIGUSR1"]
    image = make(daemon, "imported:1", changes=changes)
    body = {"Image": "imported:1", "HostConfig": {"NetworkMode": "none"}}
    container = daemon.post("/containers/create", body).json()["Id"]
    assert daemon.post(f"/containers/{container}/start").status == 204
    assert daemon.wait(container) == 0
    assert daemon.logs(container) == "made here\n"
    assert daemon.get("/images/imported:1/json").json()["Comment"] == "Imported from -"
    shown = daemon.get(f"/containers/{container}/json").json()
    assert shown["Image"] == image
    assert shown["Config"]["Env"] == ["A=1"]
    assert shown["Config"]["StopSignal"] == "SIGUSR1"
    answer = daemon.delete("/images/imported:1")
    assert answer.status == 409
    assert container[:12] in answer.message
    daemon.delete(f"/containers/{container}")
    answer = daemon.delete("/images/imported:1")
    assert {"Untagged": "imported:1"} in answer.json()
    assert {"Deleted": image} in answer.json()
    assert daemon.get("/images/imported:1/json").status == 404


def test_list_inspect_history_and_tag(daemon: Daemon) -> None:
    image = make(daemon, "seen:1", message="by hand")
    assert daemon.post("/images/seen:1/tag", repo="also/seen", tag="2").status == 201
    listed = {item["Id"]: item for item in daemon.get("/images/json").json()}
    assert sorted(listed[image]["RepoTags"]) == ["also/seen:2", "seen:1"]
    assert listed[image]["Size"] > 500_000
    assert "host:latest" in [tag for item in listed.values() for tag in item["RepoTags"]]
    shown = daemon.get("/images/also/seen:2/json").json()
    assert shown["Id"] == image
    assert len(shown["RootFS"]["Layers"]) == 1
    assert shown["Os"] == "linux"
    steps = daemon.get(f"/images/{image}/history").json()
    assert steps[0]["Id"] == image
    assert steps[0]["Comment"] == "by hand"
    assert steps[0]["Size"] == shown["Size"]
    filters = json.dumps({"reference": ["also/*"]})
    assert [i["Id"] for i in daemon.get("/images/json", filters=filters).json()] == [image]
    assert daemon.delete("/images/seen:1").json() == [{"Untagged": "seen:1"}]
    daemon.delete(f"/images/{image}", force=1)


def test_saved_and_loaded_it_is_the_same_image(daemon: Daemon) -> None:
    image = make(daemon, "travels:1")
    archive = daemon.get("/images/travels:1/get")
    assert archive.status == 200
    assert archive.headers["Content-Type"] == "application/x-tar"
    assert daemon.get("/images/get", names=["travels:1"]).status == 200
    daemon.delete("/images/travels:1")
    answer = daemon.post("/images/load", archive.body)
    assert answer.status == 200
    assert "Loaded image: travels:1" in answer.body.decode()
    assert daemon.get("/images/travels:1/json").json()["Id"] == image
    daemon.delete("/images/travels:1")
    missing = daemon.get("/images/travels:1/get")
    assert (missing.status, missing.message) == (404, "No such image: travels:1")


@pytest.mark.parametrize("data", [b"", b"no archive at all", root_tar()[:70_000]])
def test_a_bad_archive_is_refused_and_leaves_nothing(daemon: Daemon, data: bytes) -> None:
    before = daemon.get("/images/json").json()
    answer = daemon.post("/images/load", data)
    assert answer.status in (400, 500)
    assert answer.message
    assert daemon.get("/images/json").json() == before


def test_pulling_what_is_there_is_no_error_and_what_is_not_is_refused(daemon: Daemon) -> None:
    answer = daemon.post("/images/create", fromImage="docker.io/library/host", tag="latest")
    assert answer.status == 200
    assert b"up to date for host:latest" in answer.body
    answer = daemon.post("/images/create", fromImage="127.0.0.1:1/absent", tag="1")
    assert answer.status == 503
    assert answer.message.startswith("http://127.0.0.1:1")


@pytest.mark.peer
@pytest.mark.skipif(not DOCKER, reason="needs the docker client")
def test_the_real_client_imports_saves_loads_tags_and_removes(daemon: Daemon) -> None:
    done = daemon.docker("import", "--change", "CMD cat /data", "-", "client:1", stdin=root_tar())
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("sha256:")
    run = ("run", "--rm", "--network", "none")
    assert daemon.docker(*run, "client:1").stdout == "made here\n"
    assert daemon.docker("tag", "client:1", "client:2").returncode == 0
    path = str(daemon.root / "saved.tar")
    assert daemon.docker("save", "-o", path, "client:1", "client:2").returncode == 0
    done = daemon.docker("rmi", "client:1", "client:2")
    assert "Untagged: client:1" in done.stdout
    assert "Deleted: sha256:" in done.stdout
    done = daemon.docker("load", "-i", path)
    assert done.stdout == "Loaded image: client:1\nLoaded image: client:2\n"
    done = daemon.docker("images", "client")
    assert done.stdout.count("client") == 2
    assert daemon.docker("history", "client:1").returncode == 0
    assert daemon.docker("rmi", "-f", "client:1", "client:2").returncode == 0


def test_an_image_changed_under_a_name_is_seen_at_once(daemon: Daemon) -> None:
    first = make(daemon, "moves:1", "first\n")
    container = daemon.post("/containers/create", {"Image": "moves:1", "Cmd": ["cat"]}).json()["Id"]
    second = make(daemon, "moves:1", "second\n")
    assert first != second
    listed = daemon.get("/containers/json", all=1).json()
    assert [item["Image"] for item in listed if item["Id"] == container] == [first]
    other = daemon.post("/containers/create", {"Image": "moves:1", "Cmd": ["cat"]}).json()["Id"]
    assert daemon.get(f"/containers/{other}/json").json()["Image"] == second
    daemon.remove_all()
    for image in (first, second):
        assert daemon.delete(f"/images/{image}", force=1).status == 200
