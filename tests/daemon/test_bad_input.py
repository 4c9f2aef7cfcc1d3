"""Bad input through every door of the daemon: named, refused, and nothing left of it.

Each test is held between two pictures of the machine: directories of the data and exec root,
cgroups, mounts, rows and processes.
"""

from __future__ import annotations

import gzip
import http.client
import io
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sampan.kernel import cgroups
from sampan.kernel.mounts import mountinfo
from tests.daemon_fixture import DOCKER, Daemon
from tests.image.archives import BASE, ONE, docker_save, tar

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

SAMPAN = str(Path(sys.executable).with_name("sampan"))
Door = tuple[str, ...]
DOORS: list[Door] = [(SAMPAN,), *([(DOCKER,)] if DOCKER else [])]
NAMES = ["sampan", "docker"][: len(DOORS)]


def through(
    daemon: Daemon, door: Door, *words: str, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*door, *words],
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(daemon.root), "DOCKER_HOST": daemon.host},
    )


def names(directory: Path) -> set[str]:
    return set(os.listdir(directory)) if directory.is_dir() else set()


def monitors(daemon: Daemon) -> list[str]:
    """One of them waits for a container to come, and is another one after each."""
    return [
        child
        for zygote in daemon.zygotes()
        for child in Path(f"/proc/{zygote}/task/{zygote}/children").read_text().split()
    ]


def picture(daemon: Daemon) -> dict[str, object]:
    data, run = daemon.data_root, daemon.exec_root
    groups = {
        path
        for mount in cgroups.detect().mounts.values()
        for path, _, _ in os.walk(f"{mount}{daemon.cgroup}")
        if path != f"{mount}{daemon.cgroup}"
    }
    return {
        "containers": names(data / "containers"),
        "run": names(run / "containers"),
        "writable": names(data / "overlay2/rw"),
        "layers": names(data / "overlay2/layers"),
        "staging": names(data / "overlay2/staging"),
        "ingest": names(data / "content/ingest"),
        "blobs": names(data / "content/blobs/sha256"),
        "volumes": names(data / "volumes"),
        "groups": groups,
        "mounts": [row.mount_point for row in mountinfo() if str(daemon.root) in row.mount_point],
        "rows": {item["Id"] for item in daemon.get("/containers/json", all=1).json()},
        "images": {item["Id"] for item in daemon.get("/images/json", all=1).json()},
        "monitors at work": len(monitors(daemon)) > 1,
    }


@pytest.fixture(autouse=True)
def nothing_left(daemon: Daemon) -> Iterator[None]:
    warmed = daemon.run("true", name="warmed", HostConfig={"AutoRemove": True})
    daemon.wait_for(lambda: daemon.get(f"/containers/{warmed}/json").status == 404)
    daemon.wait_for(lambda: not names(daemon.data_root / "containers"))
    # One stands by, and while it makes room for the next there may be two.
    before = picture(daemon) | {"monitors at work": False}
    yield
    after = picture(daemon)
    deadline = time.monotonic() + 60
    while after != before and time.monotonic() < deadline:
        time.sleep(0.05)
        after = picture(daemon)
    assert after == before


@pytest.mark.parametrize("door", DOORS, ids=NAMES)
@pytest.mark.parametrize(
    ("words", "status", "named"),
    [
        (("no-such-image:9", "true"), 125, "no-such-image:9"),
        (("host", "no-such-command"), 127, "no-such-command"),
        (("host", "/no/such/command"), 127, "/no/such/command"),
        (("host", "/etc/passwd"), 126, "/etc/passwd"),
        (("host", "/etc"), 126, "/etc"),
        (("--user", "nobody-here", "host", "true"), 125, "nobody-here"),
        (("--mount", "type=bind,src=/no/such,dst=/x", "host", "true"), 125, "/no/such"),
        (("--cpus", "4096", "host", "true"), 125, "CPUs"),
        (("--memory", "1k", "host", "true"), 125, "6MB"),
        (("--ulimit", "nofile=1073741820", "host", "true"), 125, "RLIMIT_NOFILE"),
        (("-w", "/proc/self/fd/7", "host", "true"), 125, "/proc/self/fd/7"),
        (("-v", "/tmp:/proc/sys", "host", "true"), 125, "/proc/sys"),
    ],
)
def test_what_cannot_run_is_named(
    daemon: Daemon, door: Door, words: Door, status: int, named: str
) -> None:
    done = through(daemon, door, "run", "--rm", "--network", "none", *words)
    assert (done.returncode, named in done.stderr.decode()) == (status, True), done.stderr


@pytest.mark.parametrize("door", DOORS, ids=NAMES)
def test_a_name_in_use_is_named(daemon: Daemon, door: Door) -> None:
    holder = daemon.create("true", name="holder")
    done = through(daemon, door, "run", "--network", "none", "--name", "holder", "host", "true")
    assert done.returncode == 125
    assert b"holder" in done.stderr and holder[:12].encode() in done.stderr
    assert daemon.delete(f"/containers/{holder}").status == 204


def test_an_exec_that_cannot_begin_is_named_every_time(daemon: Daemon) -> None:
    """Its process may be gone, and reaped by the monitor, before its maker looks at it."""
    container = daemon.run("sleep", "600")
    for _ in range(10):
        for body, named in (
            ({"Cmd": ["true"], "WorkingDir": "/proc/self/fd/5"}, "/proc/self/fd/5"),
            ({"Cmd": ["true"], "User": "nobody-here"}, "nobody-here"),
            ({"Cmd": ["no-such-command"]}, "no-such-command"),
        ):
            instance = daemon.post(f"/containers/{container}/exec", body).json()["Id"]
            answer = daemon.post(f"/exec/{instance}/start", {"Detach": True})
            assert (answer.status, named in answer.message) == (400, True), answer.body
    assert daemon.delete(f"/containers/{container}", force=1).status == 204


def hostile(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", below: str = "") -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        member = tarfile.TarInfo("x")
        member.name, member.type, member.linkname = name, kind, link
        member.devmajor, member.devminor = 1, 3
        archive.addfile(member)
        if below:
            archive.addfile(tarfile.TarInfo(below))
    return whole.getvalue()


ARCHIVES = {
    "dotdot": (hostile("../../escaped"), "../../escaped"),
    "link out": (hostile("hard", tarfile.LNKTYPE, "../../etc/shadow"), "../../etc/shadow"),
    "device in the way": (hostile("dev", tarfile.CHRTYPE, below="dev/x"), "dev/x"),
    "link in the way": (hostile("way", tarfile.SYMTYPE, "/nowhere", "way/x"), "way/x"),
}


@pytest.mark.parametrize("door", DOORS, ids=NAMES)
@pytest.mark.parametrize(
    ("data", "named"),
    [
        *ARCHIVES.values(),
        (hostile("/etc/cron.d/x"), "/etc/cron.d/x"),
        (BASE[:700], "truncated"),
        (gzip.compress(BASE * 50)[:-40], "gzip"),
        (os.urandom(5000), "tar"),
        (b"", "empty"),
    ],
    ids=[*ARCHIVES, "absolute", "truncated", "truncated gzip", "noise", "empty"],
)
def test_a_bad_root_file_system_is_named(
    daemon: Daemon, door: Door, data: bytes, named: str
) -> None:
    done = through(daemon, door, "import", "-", "bad:1", stdin=data)
    assert (done.returncode != 0, named in done.stderr.decode()) == (True, True), done.stderr


@pytest.mark.parametrize("door", DOORS, ids=NAMES)
@pytest.mark.parametrize(
    ("data", "named"),
    [
        *((docker_save([layer]), named) for layer, named in ARCHIVES.values()),
        (docker_save([BASE, ONE])[:3000], "truncated"),
        (tar({"manifest.json": b"[{}"}), "manifest.json"),
        (tar({"manifest.json": b"[" * 200_000}), "manifest.json"),
        (tar({"manifest.json": b'[{"Config":"../../etc/passwd","Layers":[]}]'}), "../../etc"),
        (tar({"../manifest.json": b"[]"}), "../manifest.json"),
        (tar({"x": b"y"}), "manifest.json"),
    ],
    ids=[*ARCHIVES, "truncated", "broken", "deep", "climbing", "climbing member", "no image"],
)
def test_a_bad_image_is_named(daemon: Daemon, door: Door, data: bytes, named: str) -> None:
    done = through(daemon, door, "load", stdin=data)
    said = (done.stdout + done.stderr).decode()
    assert (done.returncode != 0, named in said) == (True, True), said


@pytest.mark.parametrize(
    ("host", "named"),
    [
        ({"Binds": ["/tmp/x\0y:/y"]}, "NUL"),
        ({"Binds": ["/tmp:/y\0z"]}, "NUL"),
        ({"Binds": ["/tmp:/../../"]}, "destination can't be '/'"),
        ({"Binds": ["../x:/y"]}, "../x"),
        ({"Mounts": [{"Type": "bind", "Source": "/x\0", "Target": "/y"}]}, "NUL"),
        ({"Devices": [{"PathOnHost": "/dev/null\0", "PathInContainer": "/x"}]}, "NUL"),
        ({"Devices": [{"PathOnHost": "/dev/../etc/passwd", "PathInContainer": "/x"}]}, "passwd"),
        ({"Tmpfs": {"/x": "size=1,upperdir=/"}}, "upperdir"),
        ({"Sysctls": {"net/../kernel/core_pattern": "|/x"}}, "net/../kernel"),
        ({"Sysctls": {"kernel.core_pattern": "|/x"}}, "kernel.core_pattern"),
        ({"CgroupParent": "../../x"}, "../../x"),
        ({"CgroupParent": "/a/../../x"}, "/a/../../x"),
        ({"ExtraHosts": ["a\n6.6.6.6 b:1.2.3.4"]}, "add-host"),
        ({"DnsSearch": ["a\nnameserver 6.6.6.6"]}, "dns-search"),
        ({"DnsOptions": ["a\nnameserver 6.6.6.6"]}, "dns-option"),
        ({"ShmSize": -1}, "ShmSize"),
        ({"LogConfig": {"Type": "json-file", "Config": {"path": "/etc/x"}}}, "path"),
        ({"PidMode": "container:../x"}, "../x"),
    ],
)
def test_a_host_configuration_that_reaches_out_is_named(
    daemon: Daemon, host: dict[str, Any], named: str
) -> None:
    body = {"Image": "host", "Cmd": ["true"], "HostConfig": {"NetworkMode": "none", **host}}
    answer = daemon.post("/containers/create", body)
    assert 400 <= answer.status < 500
    assert named in answer.message


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"Env": ["A\0=1"]}, "NUL"),
        ({"Cmd": ["a\0b"]}, "NUL"),
        ({"WorkingDir": "/a\0b"}, "NUL"),
        ({"WorkingDir": "relative"}, "relative"),
        ({"Hostname": "a\nb"}, "hostname"),
        ({"Volumes": {"../x": {}}}, "../x"),
        ({"Volumes": {"/": {}}}, "'/'"),
        ({"Volumes": {"/x\0": {}}}, "NUL"),
        ({"Image": "a\nb"}, "invalid reference"),
        ({"Image": "../../etc"}, "invalid reference"),
        ({"Cmd": [1]}, "Cmd"),
        ({"StopSignal": "NO"}, "NO"),
    ],
)
def test_a_configuration_that_no_container_can_have_is_named(
    daemon: Daemon, fields: dict[str, Any], named: str
) -> None:
    body = {"Image": "host", "Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}, **fields}
    answer = daemon.post("/containers/create", body)
    assert 400 <= answer.status < 500
    assert named in answer.message


@pytest.mark.parametrize("name", ["../x", "a/b", "a\nb", "a\0b", "..", "-x", "a b", "ü", "a"])
def test_a_name_that_is_a_path_or_a_line_is_refused(daemon: Daemon, name: str) -> None:
    body = {"Image": "host", "HostConfig": {"NetworkMode": "none"}}
    answer = daemon.post("/containers/create", body, name=name)
    assert answer.status == 400
    assert "Invalid container name" in answer.message


@pytest.mark.parametrize(
    "path",
    [
        "/containers/..%2f..%2fetc/json",
        "/containers/%00/json",
        "/containers/%0a/json",
        "/exec/..%2fx/json",
        "/images/..%2f..%2fetc%2fpasswd/json",
        "/images/sha256:..%2f..%2f/json",
        "/images/%00/json",
    ],
)
def test_an_identifier_that_climbs_finds_nothing(daemon: Daemon, path: str) -> None:
    answer = daemon.get(path)
    assert answer.status in (400, 404)
    assert answer.message


@pytest.mark.parametrize("data", [b"{" * 1000, b"[" * 500_000, b'{"Image":', b"\xff", b"7"])
def test_a_body_that_is_no_configuration_is_refused(daemon: Daemon, data: bytes) -> None:
    answer = daemon.request(
        "POST", "/containers/create", data, headers={"Content-Type": "application/json"}
    )
    assert answer.status == 400
    assert answer.message


def _status(daemon: Daemon, path: str, body: bytes | None, headers: dict[str, str]) -> int:
    """0 where the daemon hung up in the middle of a request too long for it."""
    try:
        return daemon.request("POST" if body else "GET", path, body, headers=headers).status
    except (OSError, http.client.HTTPException):
        return 0


def test_a_request_without_measure_is_cut_short(daemon: Daemon) -> None:
    whole = b'{"Image":"' + b"a" * (64 << 20) + b'"}'
    for path, body, headers in (
        ("/containers/create", whole, {"Content-Type": "application/json"}),
        ("/" + "x" * (1 << 20), None, {}),
        ("/_ping", None, {"X": "y" * (1 << 20)}),
    ):
        status = _status(daemon, path, body, headers)
        assert status == 0 or 400 <= status < 500, path[:20]
    assert daemon.get("/_ping").status == 200
