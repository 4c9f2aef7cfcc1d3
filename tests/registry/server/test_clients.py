"""Clients nobody here wrote, and our own engine: each pushes, lists, pulls and deletes.

What each did is read from the registry's access log, and becomes docs/registry-clients.md.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.compatibility.registry import BY_HAND, Visits
from tests.daemon_fixture import Daemon, daemon
from tests.image.archives import ONE, configuration, docker_save, image_id
from tests.image.test_peers import Docker, docker
from tests.registry.registries import Registry, sha256
from tests.registry.server.accounts import htpasswd
from tests.registry.server.house import House
from tests.storage.drivers.layers import layer

pytestmark = [pytest.mark.root, pytest.mark.peer]
__all__ = ["daemon", "docker"]

SAMPAN = str(Path(sys.executable).with_name("sampan"))
ROOT = layer({"./": None, "bin/": None, "bin/sh": Path("/bin/busybox").read_bytes()}, 0o755)
LABELS = {"org.opencontainers.image.description": "a box of tools"}
CONFIG = configuration([ROOT, ONE], Labels=LABELS)


ALL = {"push", "list", "pull", "delete"}


@pytest.fixture(scope="module")
def house(quick: Path) -> Iterator[House]:
    """A registry that notes who does what."""
    place = Path(tempfile.mkdtemp(prefix="registry-", dir=quick))
    one = House(place / "root", "--access-log").start()
    yield one
    one.close()
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def visits(house: House) -> Visits:
    return Visits(house.log)


@pytest.fixture(scope="module")
def archive(quick: Path) -> Iterator[Path]:
    """An image as docker save writes it, named box:1."""
    with tempfile.NamedTemporaryFile(dir=quick, suffix=".tar") as file:
        file.write(docker_save([ROOT, ONE], ["box:1"], CONFIG))
        file.flush()
        yield Path(file.name)


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tags(house: House, repository: str) -> Any:
    return house.request("GET", f"/v2/{repository}/tags/list").json()["tags"]


def stored(house: House, repository: str, tag: str) -> str:
    """The configuration's digest of what a tag stands for."""
    answer = house.request("GET", f"/v2/{repository}/manifests/{tag}")
    assert answer.status == 200, answer
    return str(answer.json()["config"]["digest"])


def delete(house: House, repository: str, tag: str, client: str) -> None:
    """For clients that cannot."""
    path = f"/v2/{repository}/manifests/"
    digest = house.request("HEAD", path + tag).headers["Docker-Content-Digest"]
    assert house.request("DELETE", path + digest, User_Agent=client + BY_HAND).status == 202


def need(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


def test_skopeo_pushes_lists_copies_pulls_and_deletes(
    house: House, archive: Path, visits: Visits, tmp_path: Path
) -> None:
    need("skopeo")
    registry = f"docker://{house.address}/skopeo"
    plain = ("--src-tls-verify=false", "--dest-tls-verify=false")
    run("skopeo", "copy", "-q", plain[1], f"docker-archive:{archive}", f"{registry}/box:1")
    assert stored(house, "skopeo/box", "1") == image_id(CONFIG)
    listed = json.loads(run("skopeo", "list-tags", "--tls-verify=false", f"{registry}/box"))
    assert listed["Tags"] == ["1"]
    shown = json.loads(run("skopeo", "inspect", "--tls-verify=false", f"{registry}/box:1"))
    assert shown["Labels"] == LABELS
    for target, form in (("zstd:2", "oci"), ("schema2:2", "v2s2")):
        run("skopeo", "copy", "-q", *plain, "-f", form, f"{registry}/box:1", f"{registry}/{target}")
        back = f"dir:{tmp_path}/{form}"
        run("skopeo", "copy", "-q", plain[0], f"{registry}/{target}", back)
    run("skopeo", "delete", "--tls-verify=false", f"{registry}/box:1")
    assert tags(house, "skopeo/box") == []
    assert tags(house, "skopeo/zstd") == ["2"]
    assert visits.of("skopeo") >= ALL


def test_podman_pushes_lists_pulls_and_searches(
    house: House, archive: Path, visits: Visits
) -> None:
    need("podman")
    short = tempfile.mkdtemp(prefix="sp", dir="/tmp")  # its paths may have 50 bytes
    try:
        podman = ["podman", "--root", f"{short}/root", "--runroot", f"{short}/run"]
        podman += ["--storage-driver", "vfs"]
        name = f"{house.address}/podman/box:1"
        run(*podman, "load", "-q", "-i", str(archive))
        run(*podman, "push", "-q", "--tls-verify=false", "box:1", name)
        assert stored(house, "podman/box", "1") == image_id(CONFIG)
        search = [*podman, "search", "--tls-verify=false"]
        listed = run(*search, "--list-tags", name.removesuffix(":1"))
        assert [line.split() for line in listed.splitlines()[1:]] == [[name[:-2], "1"]]
        run(*podman, "rmi", "-f", "box:1")
        pulled = run(*podman, "pull", "-q", "--tls-verify=false", name)
        assert f"sha256:{pulled.strip()}" == image_id(CONFIG)
        found = run(*search, f"{house.address}/tools")
        assert "podman/box" in found
    finally:
        shutil.rmtree(short)
    delete(house, "podman/box", "1", "podman")
    assert tags(house, "podman/box") == []
    assert visits.of("podman") >= ALL | {"search"}


def test_buildah_pushes_lists_and_pulls(house: House, archive: Path, visits: Visits) -> None:
    need("buildah")
    short = tempfile.mkdtemp(prefix="sp", dir="/tmp")  # its paths may have 50 bytes
    try:
        buildah = ["buildah", "--root", f"{short}/root", "--runroot", f"{short}/run"]
        buildah += ["--storage-driver", "vfs"]
        name = f"{house.address}/buildah/box"
        loaded = run(*buildah, "pull", "-q", f"docker-archive:{archive}").strip()
        assert f"sha256:{loaded}" == image_id(CONFIG)
        for tag, form in (("1", "oci"), ("2", "v2s2")):
            push = ["push", "-q", "--tls-verify=false", "-f", form]
            run(*buildah, *push, loaded, f"docker://{name}:{tag}")
        assert stored(house, "buildah/box", "2") == image_id(CONFIG)
        run(*buildah, "rmi", "-f", loaded)
        pulled = run(*buildah, "pull", "-q", "--tls-verify=false", "--all-tags", name).split()
        assert pulled
        named = run(*buildah, "images", "--format", "{{.Name}}:{{.Tag}}").split()
        assert {f"{name}:1", f"{name}:2"} <= set(named)
    finally:
        shutil.rmtree(short)
    for tag in ("1", "2"):
        delete(house, "buildah/box", tag, "buildah")
    assert tags(house, "buildah/box") == []
    assert visits.of("buildah") >= ALL


def test_oras_pushes_lists_pulls_and_deletes(
    house: House, visits: Visits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ORAS's Python SDK: artifacts that are no images."""
    oras = pytest.importorskip("oras.client")
    client = oras.OrasClient(hostname=house.address, insecure=True)
    # It gives its HTTP library's name.
    client.session.headers["User-Agent"] = f"oras-py/{version('oras')}"
    name = f"{house.address}/oras/notes"
    monkeypatch.chdir(tmp_path)
    data = os.urandom(300_000)
    Path("notes.bin").write_bytes(data)
    for tag in ("v1", "v2"):
        answer = client.push(f"{name}:{tag}", files=["notes.bin:application/x-notes"])
        assert answer.status_code == 201
    assert client.get_tags(name) == ["v1", "v2"]
    found = client.get_manifest(f"{name}:v2")
    assert found["layers"][0]["digest"] == sha256(data)
    Path("notes.bin").unlink()
    (pulled,) = client.pull(f"{name}:v1", outdir=f"{tmp_path}/back")
    assert Path(pulled).read_bytes() == data
    assert client.delete_tags(name, ["v1"]) == ["v1"]
    assert tags(house, "oras/notes") == []
    assert visits.of("ORAS's Python SDK") >= ALL


def test_docker_pushes_pulls_and_searches(
    house: House, archive: Path, visits: Visits, docker: Docker
) -> None:
    """The daemon of 20.10 with its own client."""
    registry = f"localhost:{house.port}"
    docker("load", "-q", "-i", str(archive))
    for name in ("box:1", "box:2", "crate:1"):
        docker("tag", "box:1", f"{registry}/docker/{name}")
        pushed = docker("push", f"{registry}/docker/{name}")
        assert f"{name.partition(':')[2]}: digest: sha256:" in pushed
    assert "Mounted from docker/box" in pushed
    assert tags(house, "docker/box") == ["1", "2"]
    assert stored(house, "docker/crate", "1") == image_id(CONFIG)
    docker("rmi", "-f", image_id(CONFIG))
    docker("pull", "-q", "-a", f"{registry}/docker/box")
    docker("pull", "-q", f"{registry}/docker/crate:1")
    ids = docker("images", "-q", "--no-trunc", f"{registry}/docker/*").split()
    assert ids == [image_id(CONFIG)] * 3
    found = docker("search", "--format", "{{.Name}}|{{.Description}}", f"{registry}/crate")
    assert found == "docker/crate|a box of tools\n"
    for repository, tag in (("docker/box", "1"), ("docker/crate", "1")):
        delete(house, repository, tag, "docker 20.10's daemon")
        assert tags(house, repository) == []
    assert visits.of("docker 20.10's daemon") >= ALL | {"mount", "search"}


@pytest.fixture(scope="module")
def guarded(quick: Path) -> Iterator[House]:
    """A registry where anna may do everything, and anybody pull."""
    place = Path(tempfile.mkdtemp(prefix="registry-", dir=quick))
    htpasswd(place / "accounts", anna="a:secret")
    one = House(
        place / "root", "--htpasswd", f"{place}/accounts", "--anonymous-pull", "--access-log"
    )
    yield one.start()
    one.close()
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def guests(guarded: House) -> Visits:
    return Visits(guarded.log)


def test_docker_logs_in_to_push_and_pulls_without(
    guarded: House, guests: Visits, archive: Path, docker: Docker, tmp_path: Path
) -> None:
    registry = f"localhost:{guarded.port}"
    name = f"{registry}/login/box:1"
    own = ("--config", str(tmp_path))
    docker("load", "-q", "-i", str(archive))
    docker("tag", "box:1", name)
    with pytest.raises(AssertionError, match=r"denied|unauthorized"):
        docker(*own, "push", "-q", name)
    with pytest.raises(AssertionError, match=r"unauthorized|Unauthorized"):
        docker(*own, "login", "-u", "anna", "-p", "wrong", registry)
    docker(*own, "login", "-u", "anna", "-p", "a:secret", registry)
    docker(*own, "push", "-q", name)
    docker(*own, "logout", registry)
    docker("rmi", "-f", image_id(CONFIG))
    docker(*own, "pull", "-q", name)
    assert guests.of("docker 20.10's daemon") >= {"token", "push", "pull"}


def test_skopeo_brings_a_password_to_push_and_reads_without(
    guarded: House, guests: Visits, archive: Path
) -> None:
    need("skopeo")
    name = f"docker://{guarded.address}/login/skopeo:1"
    push = ("skopeo", "copy", "-q", "--dest-tls-verify=false", f"docker-archive:{archive}", name)
    with pytest.raises(AssertionError, match=r"denied|unauthorized|authentication required|needs"):
        run(*push)
    run(*push, "--dest-creds", "anna:a:secret")
    assert json.loads(run("skopeo", "inspect", "--tls-verify=false", name))["Labels"] == LABELS
    with pytest.raises(AssertionError):
        run("skopeo", "delete", "--tls-verify=false", name)
    run("skopeo", "delete", "--tls-verify=false", "--creds", "anna:a:secret", name)
    assert guests.of("skopeo") >= {"token", "push", "pull", "delete"}


def test_our_engine_pushes_and_pulls(
    house: House, archive: Path, visits: Visits, daemon: Daemon
) -> None:
    name = f"{house.address}/sampan/box:1"
    loaded = daemon.docker("load", "-q", "-i", str(archive))
    assert loaded.returncode == 0, loaded.stderr
    assert daemon.docker("tag", "box:1", name).returncode == 0
    pushed = daemon.docker("push", "-q", name)
    assert pushed.returncode == 0, pushed.stderr
    assert stored(house, "sampan/box", "1") == image_id(CONFIG)
    assert tags(house, "sampan/box") == ["1"]
    assert daemon.docker("rmi", "-f", image_id(CONFIG)).returncode == 0
    pulled = daemon.docker("pull", "-q", "-a", name[:-2])
    assert pulled.returncode == 0, pulled.stderr
    assert daemon.get(f"/images/{name}/json").json()["Id"] == image_id(CONFIG)
    found = daemon.docker("search", "--format", "{{.Name}}|{{.Description}}", f"{name[:-2]}")
    assert found.stdout == "sampan/box|a box of tools\n", found.stderr
    deleted = daemon.docker("registry", "rm", name, program=SAMPAN)
    assert (deleted.returncode, deleted.stdout) == (0, f"Deleted: {name}\n"), deleted.stderr
    assert tags(house, "sampan/box") == []
    assert visits.of("our own") >= ALL | {"search"}
    assert daemon.docker("pull", "-q", name).returncode == 1
    assert sha256(CONFIG) == image_id(CONFIG)


def test_our_search_is_docker_s(house: House, guarded: House, daemon: Daemon) -> None:
    for one, text in (("search/redis", "quick " * 20), ("search/redis-tools", "tools")):
        house.push(one, "v", b"layer", annotations={"org.opencontainers.image.description": text})
    address = house.address
    formats = [("--format", text) for text in ("json", "{{json .}}", "{{.IsOfficial}}|{{.Name}}")]
    for words in ((), ("--no-trunc",), ("--limit", "1"), ("-f", "stars=1"), *formats):
        theirs = daemon.docker("search", *words, f"{address}/redis")
        ours = daemon.docker("search", *words, f"{address}/redis", program=SAMPAN)
        assert theirs.returncode == ours.returncode == 0, theirs.stderr + ours.stderr
        assert ours.stdout == theirs.stdout
    assert daemon.get("/images/search", term=f"{address}/redis", limit=101).status == 400
    assert daemon.get("/images/search", term=f"{address}/redis", filters="x").status == 400
    assert daemon.get("/images/search", term=f"{address}/").status == 400
    # By a token for nobody: anybody may pull there.
    assert daemon.get("/images/search", term=f"{guarded.address}/redis").json() == []
    nowhere = daemon.get("/images/search", term="127.0.0.1:1/redis")
    assert nowhere.status >= 500
    assert "127.0.0.1:1" in nowhere.json()["message"]


def test_a_registry_without_search_is_told(daemon: Daemon, registry: Registry) -> None:
    answer = daemon.get("/images/search", term=f"{registry.address}/redis")
    assert answer.status == 501
    assert "this registry has no search" in answer.json()["message"]
