"""Manifest lists made by hand: Docker's client and ours, side by side and in turns.

The registry is Debian's, without authentication, with tokens, or with a certificate nobody knows;
one that lies says what else can come.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.cli.manifests import ManifestStore, indented, named
from tests.daemon_fixture import DOCKER, Daemon
from tests.image.archives import configuration
from tests.registry.registries import (
    OCI_INDEX,
    OCI_MANIFEST,
    PASSWORD,
    USER,
    Authority,
    Liar,
    Registry,
    TokenServer,
    authority,
    image_of,
    liar,
    registry,
    sha256,
)
from tests.registry.test_carrier import address
from tests.storage.drivers.layers import layer

__all__ = ["address", "authority", "liar", "registry"]

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
peer = pytest.mark.skipif(not DOCKER, reason="needs Docker's client")

Client = Callable[..., "subprocess.CompletedProcess[str]"]


def client_in(home: Path, program: list[str]) -> Client:
    def call(*argv: str, check: bool = False) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*program, "manifest", *argv],
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
            env={"PATH": os.environ["PATH"], "HOME": str(home), "DOCKER_HOST": "unix:///nope"},
        )
        assert done.returncode == 0 or not check, done.stderr
        return done

    return call


@pytest.fixture
def ours(tmp_path: Path) -> Client:
    return client_in(tmp_path, [sys.executable, "-m", "sampan.cli"])


@pytest.fixture
def theirs(tmp_path: Path) -> Client:
    return client_in(tmp_path, [DOCKER])


def manifest_for(
    architecture: str, *, docker: bool = False, **config: Any
) -> tuple[bytes, dict[str, bytes]]:
    """An image's manifest, indented and with what JSON can be written in two ways."""
    known = {"architecture": architecture, "os": "linux", "rootfs": {"type": "layers"}, **config}
    made, blobs = image_of([architecture.encode()], config=json.dumps(known).encode())
    document = json.loads(made) | {"annotations": {"k": "<é&> \u2028"}}
    if docker:
        del document["annotations"]
        document["mediaType"] = DOCKER_MANIFEST
    return json.dumps(document, indent=2).encode(), blobs


def put(registry: Registry, repository: str, tag: str, *args: Any, **config: Any) -> str:
    data, blobs = manifest_for(*args, **config)
    for blob in blobs.values():
        registry.put_blob(repository, blob)
    kind = json.loads(data)["mediaType"]
    registry.put_manifest(repository, tag, data, kind)
    return sha256(data)


@pytest.fixture(scope="module")
def stocked(registry: Registry) -> tuple[str, str]:
    """Two repositories with images for two platforms each; their names."""
    place = f"{registry.address}/lists"
    put(registry, "lists/a", "amd", "amd64", docker=True)
    put(registry, "lists/a", "arm", "arm64", docker=True, variant="v8")
    put(registry, "lists/b", "amd", "amd64")
    more = {"os.version": "1.2", "os.features": ["x"]}
    put(registry, "lists/b", "arm", "arm", variant="v7", **more)
    put(registry, "lists/b", "bare", "", os="")
    return f"{place}/a", f"{place}/b"


def both(
    tmp_path: Path, script: list[str]
) -> Iterator[tuple[str, subprocess.CompletedProcess[str], subprocess.CompletedProcess[str]]]:
    """Each command by Docker's client and by ours, each in a home of its own."""
    clients = [
        client_in(tmp_path / name, program)
        for name, program in (("theirs", [DOCKER]), ("ours", [sys.executable, "-m", "sampan.cli"]))
    ]
    for command in script:
        theirs, ours = (client(*command.split()) for client in clients)
        yield command, theirs, ours


@peer
@pytest.mark.peer
def test_docker_s_client_and_ours_do_and_say_the_same(
    tmp_path: Path, stocked: tuple[str, str], registry: Registry
) -> None:
    a, b = stocked
    script = [
        f"create --insecure {a}:all {a}:amd {b}:arm",
        f"create --insecure {a}:all {a}:arm",
        f"create --insecure --amend {a}:all {a}:arm",
        f"inspect {a}:all",
        f"inspect -v {a}:all",
        f"inspect {a}:all {b}:arm",
        f"inspect -v {a}:all {b}:arm",
        f"inspect {a}:all {b}:amd",
        f"inspect --insecure {b}:arm",
        f"inspect --insecure -v {b}:arm",
        f"inspect --insecure {b}:none",
        f"annotate {a}:all {a}:none",
        f"annotate {a}:all {a}:arm --os plan9 --arch mips",
        f"annotate {a}:all {a}:arm --os-features b,a --os-features b --variant v9",
        f"annotate {a}:all {a}:arm --os-features c --os-version 9",
        f"inspect -v {a}:all {a}:arm",
        f"push --insecure {a}:all",
        f"push --insecure --purge {a}:all",
        f"push --insecure {a}:all",
        f"inspect --insecure {a}:all",
        f"inspect --insecure -v {a}:all",
        f"create --insecure {b}:listed {a}:all",
        f"create --insecure {b}:all {b}:amd",
        f"push --insecure {b}:all",
        f"inspect -v {b}:all",
        f"create --insecure {b}:none {b}:bare",
        f"push --insecure {b}:none",
        f"create --insecure {b}:one {b}@{registry.manifest('lists/b', 'arm')[0]}",
        f"push --insecure {b}:one",
        f"create --insecure UPPER {b}:one",
        f"rm {b}:all {b}:one {b}:never UPPER",
        f"rm {b}:all",
        f"inspect --insecure {b}:all",
        "create",
        "inspect a b c",
        "push a b",
        "annotate a",
        "rm",
    ]
    for command, theirs, ours in both(tmp_path, script):
        assert ours.returncode == theirs.returncode, f"{command}: {ours.stderr}"
        assert ours.stdout == theirs.stdout, command
        assert bool(ours.stderr) == bool(theirs.stderr), command
        known = [line for line in theirs.stderr.splitlines() if "no such manifest" in line.lower()]
        assert all(line in ours.stderr for line in known), command


@peer
@pytest.mark.peer
def test_either_client_goes_on_with_what_the_other_began(
    tmp_path: Path, ours: Client, theirs: Client, stocked: tuple[str, str]
) -> None:
    a, b = stocked
    theirs("create", "--insecure", f"{a}:turns", f"{a}:amd", check=True)
    ours("create", "--amend", f"{a}:turns", f"{b}:arm", check=True)
    theirs("annotate", f"{a}:turns", f"{b}:arm", "--os-version", "7", check=True)
    ours("annotate", f"{a}:turns", f"{a}:amd", "--variant", "v3", check=True)
    seen = ours("inspect", "-v", f"{a}:turns", check=True).stdout
    assert seen == theirs("inspect", "-v", f"{a}:turns", check=True).stdout
    pushed = theirs("push", "--insecure", f"{a}:turns", check=True).stdout
    assert ours("push", f"{a}:turns", check=True).stdout == pushed
    platforms = [
        m["platform"] for m in json.loads(ours("inspect", f"{a}:turns").stdout)["manifests"]
    ]
    assert platforms[0] == {"architecture": "amd64", "os": "linux", "variant": "v3"}
    assert platforms[1]["os.version"] == "7"
    theirs("rm", f"{a}:turns", check=True)
    assert list((tmp_path / ".docker/manifests").iterdir()) == []


def test_what_is_created_with_an_image_that_is_not_there_is_not_created(
    tmp_path: Path, ours: Client, stocked: tuple[str, str]
) -> None:
    a, _ = stocked
    done = ours("create", f"{a}:half", f"{a}:amd", f"{a}:none")
    assert done.returncode == 1 and done.stderr == f"sampan: no such manifest: {a}:none\n"
    assert not (tmp_path / ".docker").exists()


def test_images_of_another_registry_are_refused(ours: Client, stocked: tuple[str, str]) -> None:
    a, _ = stocked
    elsewhere = a.replace("127.0.0.1", "localhost")
    ours("create", f"{elsewhere}:mixed", f"{a}:amd", check=True)
    done = ours("push", f"{elsewhere}:mixed")
    assert done.returncode == 1
    assert "cannot use source images from a different registry" in done.stderr


@pytest.mark.root
def test_a_list_that_was_pushed_is_an_image_for_each_platform(
    daemon: Daemon, ours: Client, registry: Registry
) -> None:
    root = Path("/bin/busybox").read_bytes()
    name = f"{registry.address}/lists/real"
    layers = [layer({"./": None, "bin/": None, "bin/sh": root}, 0o755)]
    for architecture in ("amd64", "arm64"):
        config = json.loads(configuration(layers)) | {"architecture": architecture}
        manifest, blobs = image_of(layers, config=json.dumps(config).encode())
        for blob in blobs.values():
            registry.put_blob("lists/real", blob)
        registry.put_manifest("lists/real", architecture, manifest, OCI_MANIFEST)
    ours("create", name, f"{name}:amd64", f"{name}:arm64", check=True)
    digest = ours("push", "-p", name, check=True).stdout.strip()
    for architecture in ("arm64", "amd64"):
        pulled = daemon.docker("pull", "-q", "--platform", f"linux/{architecture}", name)
        assert pulled.returncode == 0, pulled.stderr
        shown = daemon.get(f"/images/{name}/json").json()
        assert shown["Architecture"] == architecture
        assert shown["RepoDigests"] == [f"{registry.address}/lists/real@{digest}"]


def test_the_password_this_user_has_is_what_gets_in(
    tmp_path: Path, ours: Client, authority: Authority
) -> None:
    tokens = TokenServer(authority)
    closed = Registry(tmp_path, tokens=tokens)
    try:
        name = f"{closed.address}/mine"
        done = ours("inspect", f"{name}:1")
        assert done.returncode == 1 and f"'sampan login {closed.address}'" in done.stderr
        pair = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        (tmp_path / ".docker").mkdir()
        known = {"auths": {closed.address: {"auth": pair}}}
        (tmp_path / ".docker/config.json").write_text(json.dumps(known))
        assert ours("inspect", f"{name}:1").stderr == f"sampan: no such manifest: {name}:1\n"
        assert tokens.asked[-1]["scope"] == ["repository:mine:pull"]
    finally:
        closed.close()
        tokens.close()


@pytest.mark.root
def test_a_certificate_nobody_knows_is_taken_when_it_is_said(
    ours: Client, authority: Authority, address: str
) -> None:
    liar = Liar(authority.issue("stranger", address), address)
    try:
        manifest, blobs = manifest_for("riscv64")
        liar.hold("a", "1", manifest, blobs)
        done = ours("inspect", f"{liar.address}/a:1")
        assert done.returncode == 1
        assert "failed to verify certificate" in done.stderr and "--insecure" in done.stderr
        assert json.loads(ours("inspect", "--insecure", f"{liar.address}/a:1", check=True).stdout)
    finally:
        liar.close()


@pytest.mark.root
def test_plain_http_is_spoken_when_it_is_said(ours: Client, address: str) -> None:
    liar = Liar(address=address)
    try:
        manifest, blobs = manifest_for("riscv64")
        liar.hold("a", "1", manifest, blobs)
        done = ours("create", f"{liar.address}/a:all", f"{liar.address}/a:1")
        assert done.returncode == 1
        assert "HTTP response to HTTPS client" in done.stderr and "--insecure" in done.stderr
        ours("create", "--insecure", f"{liar.address}/a:all", f"{liar.address}/a:1", check=True)
    finally:
        liar.close()


def test_what_a_registry_says_is_held_against_its_digest(ours: Client, liar: Liar) -> None:
    manifest, blobs = manifest_for("amd64")
    liar.hold("a", "1", manifest, blobs)
    config = json.loads(manifest)["config"]["digest"]
    liar.held[f"/v2/a/blobs/{config}"] = "application/octet-stream", b'{"architecture":"mips"}'
    done = ours("create", f"{liar.address}/a:all", f"{liar.address}/a:1")
    assert done.returncode == 1 and f"expected blob {config}" in done.stderr
    liar.held[f"/v2/a/manifests/{sha256(manifest)}"] = OCI_MANIFEST, manifest + b" "
    done = ours("inspect", f"{liar.address}/a@{sha256(manifest)}")
    assert done.returncode == 1 and f"expected manifest {sha256(manifest)}" in done.stderr


@pytest.mark.parametrize(
    "entry",
    [
        {"digest": "../../x"},
        {"platform": {"architecture": 1, "os": "linux"}},
        {"platform": {"architecture": "a", "os": "b", "os.features": "c"}},
        {"size": "1"},
    ],
)
def test_a_list_of_what_is_none_is_refused(ours: Client, liar: Liar, entry: dict[str, Any]) -> None:
    manifest, blobs = manifest_for("amd64")
    liar.hold("a", "1", manifest, blobs)
    good = {"mediaType": OCI_MANIFEST, "size": len(manifest), "digest": sha256(manifest)}
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [{**good, **entry}]}
    liar.held["/v2/a/manifests/all"] = OCI_INDEX, json.dumps(index).encode()
    done = ours("inspect", f"{liar.address}/a:all")
    assert done.returncode == 1 and "Traceback" not in done.stderr and done.stdout == ""


def test_a_registry_that_does_not_take_a_layer_over_is_told_of(ours: Client, liar: Liar) -> None:
    manifest, blobs = manifest_for("amd64")
    liar.hold("a", "1", manifest, blobs)
    place = "/v2/b/blobs/uploads/"
    liar.paths["POST", place] = lambda request: request.answer(202, Location=f"{place}1")
    liar.paths["DELETE", f"{place}1"] = lambda request: request.answer(204)
    ours("create", f"{liar.address}/b:all", f"{liar.address}/a:1", check=True)
    done = ours("push", f"{liar.address}/b:all")
    assert done.returncode == 1 and f"push the image to {liar.address}/b first" in done.stderr
    assert liar.requests("DELETE", f"{place}1") and not liar.requests("PUT", "/v2/b/manifests/all")


@pytest.mark.parametrize(
    ("step", "left"), [("mkdir", 0), ("open", 0), ("rename", 0), ("gone", 2), ("rmdir", 0)]
)
def test_who_dies_in_the_middle_leaves_a_list_whole_or_not_at_all(
    tmp_path: Path, ours: Client, liar: Liar, step: str, left: int
) -> None:
    manifest, blobs = manifest_for("amd64")
    for tag in ("1", "2"):
        liar.hold("a", tag, manifest, blobs)
    name = f"{liar.address}/a"
    dying = f"""
import os, signal, sys
from sampan.cli.main import main
def die(event, arguments):
    if event == "os.rename" and ".gone-" in arguments[1]:
        event = "gone"
    elif event == "open" and arguments[1] != "x":
        return
    if event.removeprefix("os.") == {step!r} and "/manifests/" in str(arguments[0]):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(die)
main(["manifest", "create", "{name}:all", "{name}:1", "{name}:2"])
main(["manifest", "rm", "{name}:all"])
"""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", dying], env=environment, timeout=60, check=False)
    assert done.returncode == -9
    store = ManifestStore(str(tmp_path / ".docker"))
    assert store.has(named(f"{name}:all")) == bool(left)
    if left:
        assert len(store.members(named(f"{name}:all"))) == left
        ours("rm", f"{name}:all", check=True)
    ours("create", f"{name}:all", f"{name}:1", check=True)
    assert [one.name[0] for one in (tmp_path / ".docker/manifests").iterdir()] == ["1"]


@pytest.mark.parametrize("text", ['{"a":[]}', "[1e3,-0.0,{}]", r'{"x":"\u00e9 \" {,:}","y":null}'])
def test_what_is_shown_is_what_was_written(text: str) -> None:
    assert indented(indented(text, "\t"), None) == text
    assert json.loads(indented(text, "\t")) == json.loads(text)


def test_a_file_that_is_no_manifest_is_said_to_be_none(tmp_path: Path, ours: Client) -> None:
    place = tmp_path / ".docker/manifests/docker.io_library_x-latest"
    place.mkdir(parents=True)
    for data in ("", "[]", '{"Ref": "x"}', '{"Ref": "x", "Descriptor": {"size": "1"}}'):
        (place / "y").write_text(data)
        done = ours("inspect", "x")
        assert done.returncode == 1 and "sampan manifest rm" in done.stderr, data
    ours("rm", "x", check=True)
