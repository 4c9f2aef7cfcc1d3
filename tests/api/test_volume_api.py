"""The volumes' own operations: HTTP, the real client, docker-py; and what they tell listeners."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from sampan.kernel.mounts import mountinfo
from tests.api.busybox import import_image
from tests.daemon_fixture import Daemon

pytestmark = pytest.mark.root

TMPFS = {"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}
NOWHERE = {"type": "none", "device": "/no/where", "o": "bind"}


@pytest.fixture(autouse=True)
def clean(daemon: Daemon) -> Iterator[None]:
    yield
    daemon.remove_all()
    daemon.post("/volumes/prune", filters='{"all":["true"]}')


def create(daemon: Daemon, **body: Any) -> Any:
    answer = daemon.post("/volumes/create", body)
    assert answer.status == 201, answer.body
    return answer.json()


def names(daemon: Daemon, **filters: list[str]) -> set[str]:
    found = daemon.get("/volumes", filters=json.dumps(filters)).json()["Volumes"]
    return {volume["Name"] for volume in found}


def test_a_volumes_life(daemon: Daemon) -> None:
    made = create(daemon, Name="data", Labels={"a": "b"})
    assert made["Mountpoint"] == str(daemon.data_root / "volumes/data/_data")
    assert (made["Driver"], made["Scope"], made["Labels"]) == ("local", "local", {"a": "b"})
    assert daemon.get("/volumes/data").json() == made
    assert create(daemon, Name="data", Labels={"other": ""}) == made
    assert daemon.get("/volumes").json() == {"Volumes": [made], "Warnings": None}
    assert daemon.delete("/volumes/data").status == 204
    gone = daemon.delete("/volumes/data")
    assert (gone.status, gone.message) == (404, "get data: no such volume")
    assert daemon.delete("/volumes/data", force=1).status == 204
    assert daemon.get("/volumes/data").status == 404


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"Name": "x"}, 400, "create x: volume name is too short"),
        ({"Name": "a/b"}, 400, 'create a/b: "a/b" includes invalid characters'),
        ({"Name": "data", "Driver": "nope"}, 404, 'plugin "nope" not found'),
        ({"DriverOpts": {"type": "tmpfs"}}, 400, 'missing required option: "device"'),
        ({"DriverOpts": {"size": "1g"}}, 501, "no quota support"),
        ({"Name": 5}, 400, "Name"),
        ({"Nmae": "data"}, 400, "Nmae is not a field"),
        ({"ClusterVolumeSpec": {}}, 503, "swarm"),
        (None, 400, "EOF"),
    ],
)
def test_a_wrong_request_is_refused(daemon: Daemon, body: Any, status: int, words: str) -> None:
    answer = daemon.post("/volumes/create", body)
    assert (answer.status, words in answer.message) == (status, True), answer.message
    assert names(daemon) == set()


def test_other_options_are_a_conflict(daemon: Daemon) -> None:
    create(daemon, Name="data", DriverOpts=TMPFS)
    create(daemon, Name="data", DriverOpts=TMPFS)
    create(daemon, Name="data")
    answer = daemon.post("/volumes/create", {"Name": "data", "DriverOpts": {**TMPFS, "o": ""}})
    assert (answer.status, "exists with other options" in answer.message) == (409, True)
    mount = {
        "Type": "volume", "Source": "data", "Target": "/d",
        "VolumeOptions": {"DriverConfig": {"Options": {**TMPFS, "o": "size=2m"}}},
    }  # fmt: skip
    body = {"Image": "host", "Cmd": ["true"], "HostConfig": {"Mounts": [mount]}}
    assert daemon.post("/containers/create", body).status == 409


def test_a_volume_in_use_stays_and_says_by_whom(daemon: Daemon) -> None:
    container = daemon.create("true", HostConfig={"Binds": ["data:/d"]})
    for force in (0, 1):
        answer = daemon.delete("/volumes/data", force=force)
        assert answer.status == 409
        assert answer.message == f"remove data: volume is in use - [{container}]"
    done = daemon.docker("volume", "rm", "data")
    assert (done.returncode, "volume is in use" in done.stderr) == (1, True)


def test_lists_are_filtered(daemon: Daemon) -> None:
    create(daemon, Name="one", Labels={"a": "b"})
    create(daemon, Name="two", Labels={"a": "c"})
    daemon.create("true", HostConfig={"Binds": ["used:/d"]})
    assert names(daemon, dangling=["true"]) == {"one", "two"}
    assert names(daemon, dangling=["0"]) == {"used"}
    assert names(daemon, label=["a"]) == {"one", "two"}
    assert names(daemon, label=["a=b"]) == {"one"}
    assert names(daemon, label=["a", "a=c"]) == {"two"}
    assert names(daemon, name=["^o", "se"]) == {"one", "used"}
    assert names(daemon, driver=["local"], name=["two"]) == {"two"}
    assert names(daemon, driver=["other"]) == set()
    for filters, words in (
        ({"dangling": ["x"]}, "invalid filter 'dangling=[x]'"),
        ({"nope": ["x"]}, "invalid filter 'nope'"),
    ):
        answer = daemon.get("/volumes", filters=json.dumps(filters))
        assert (answer.status, answer.message) == (400, words)


def test_prune_takes_anonymous_ones_and_all_when_told(daemon: Daemon) -> None:
    named = create(daemon, Name="named", Labels={"keep": "me"})
    anonymous = create(daemon)
    assert anonymous["Labels"] == {"com.docker.volume.anonymous": ""}
    Path(anonymous["Mountpoint"], "file").write_bytes(b"x" * 1000)
    container = daemon.create("true", Volumes={"/d": {}})
    pruned = daemon.post("/volumes/prune").json()
    assert pruned == {"VolumesDeleted": [anonymous["Name"]], "SpaceReclaimed": 1000}
    assert names(daemon) > {"named"}
    kept = daemon.post("/volumes/prune", filters='{"all":["1"],"label!":["keep"]}').json()
    assert kept["VolumesDeleted"] == []
    assert daemon.get("/volumes/named").json() == named
    daemon.delete(f"/containers/{container}")
    assert len(daemon.post("/volumes/prune").json()["VolumesDeleted"]) == 1
    # Before API 1.42 a prune took named ones too.
    assert daemon.post("/v1.41/volumes/prune").json()["VolumesDeleted"] == ["named"]
    assert daemon.post("/volumes/prune", filters='{"until":["1h"]}').status == 400


def test_listeners_hear_of_volumes(daemon: Daemon) -> None:
    begin = time.time()
    container = daemon.run("true", HostConfig={"Binds": ["heard:/d:ro"]})
    daemon.wait(container)
    daemon.delete(f"/containers/{container}")
    daemon.delete("/volumes/heard")
    daemon.post("/volumes/prune")
    filters = json.dumps({"type": ["volume"]})
    lines = daemon.get("/events", since=begin, until=time.time(), filters=filters).body
    heard = [json.loads(line) for line in lines.splitlines()]
    assert [(one["Action"], one["Actor"]["ID"]) for one in heard] == [
        ("create", "heard"),
        ("mount", "heard"),
        ("unmount", "heard"),
        ("destroy", "heard"),
        ("prune", ""),
    ]
    assert heard[0]["Actor"]["Attributes"] == {"driver": "local"}
    assert heard[1]["Actor"]["Attributes"] == {
        "driver": "local", "container": container, "destination": "/d", "read/write": "false",
        "propagation": "",
    }  # fmt: skip
    assert heard[2]["Actor"]["Attributes"] == {"driver": "local", "container": container}
    assert heard[4]["Actor"]["Attributes"] == {"reclaimed": "0"}


def test_a_swarms_operation_is_answered_as_by_an_engine_outside_of_one(daemon: Daemon) -> None:
    create(daemon, Name="data")
    answer = daemon.request("PUT", "/volumes/data", {}, query={"version": 1})
    assert (answer.status, "swarm is unavailable" in answer.message) == (503, True)
    assert daemon.request("PUT", "/v1.41/volumes/data", {}).status == 404


def mounted(daemon: Daemon, name: str) -> bool:
    place = str(daemon.data_root / "volumes" / name / "_data")
    return any(row.mount_point == place for row in mountinfo())


def test_two_containers_share_a_volumes_own_file_system_as_long_as_one_runs(
    daemon: Daemon,
) -> None:
    create(daemon, Name="shared", DriverOpts={**TMPFS, "o": "size=1m,mode=0755"})
    first = daemon.run(
        "sh", "-c", "echo seen > /d/x; sleep 60", HostConfig={"Binds": ["shared:/d"]}
    )
    daemon.wait_for((daemon.data_root / "volumes/shared/_data/x").exists)
    second = daemon.run("sh", "-c", "cat /d/x; df -k /d", HostConfig={"Binds": ["shared:/d"]})
    daemon.wait(second)
    assert daemon.logs(second).startswith("seen\n")
    assert " 1024 " in daemon.logs(second)
    assert mounted(daemon, "shared")
    daemon.post(f"/containers/{first}/kill")
    assert not mounted(daemon, "shared")
    third = daemon.run("sh", "-c", "ls -A /d", HostConfig={"Binds": ["shared:/d"]})
    daemon.wait(third)
    assert daemon.logs(third) == ""


@pytest.mark.parametrize("bind", ["bad:/d:nocopy", "bad:/d"])
def test_what_cannot_be_mounted_fails_the_start_and_not_the_create(
    daemon: Daemon, bind: str
) -> None:
    create(daemon, Name="bad", DriverOpts=NOWHERE)
    done = daemon.docker("create", "--network=none", "-v", bind, "host", "true")
    assert done.returncode == 0, done.stderr
    answer = daemon.post(f"/containers/{done.stdout.strip()}/start")
    assert answer.status == 400
    assert "failed to mount local volume: mount /no/where:" in answer.message
    assert "no such file or directory" in answer.message


def test_what_the_image_has_to_be_copied_into_fails_the_create(daemon: Daemon) -> None:
    create(daemon, Name="bad", DriverOpts=NOWHERE)
    done = daemon.docker("create", "--network=none", "-v", "bad:/usr", "host", "true")
    assert done.returncode == 1
    assert "failed to mount local volume: mount /no/where:" in done.stderr
    assert daemon.get("/containers/json", all=1).json() == []


def test_a_killed_daemon_finds_its_volumes_mounts_again(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)
    try:
        daemon.start()
        create(daemon, Name="used", DriverOpts=TMPFS)
        create(daemon, Name="ended", DriverOpts=TMPFS)
        create(daemon, Name="gone")
        daemon.run("sleep", "60", HostConfig={"Binds": ["used:/d"]})
        ends = daemon.run("sleep", "60", HostConfig={"Binds": ["ended:/d"]})
        pid = daemon.state(ends)["Pid"]
        assert mounted(daemon, "used") and mounted(daemon, "ended")
        daemon.kill()
        os.kill(pid, signal.SIGKILL)
        os.makedirs(tmp_path / "data/volumes/half/_data")
        daemon.start()
        daemon.wait_for(lambda: not daemon.state(ends)["Running"])
        assert mounted(daemon, "used") and not mounted(daemon, "ended")
        assert names(daemon) == {"used", "ended", "gone"}
        assert not (tmp_path / "data/volumes/half").exists()
    finally:
        daemon.close()


def test_the_real_client(daemon: Daemon) -> None:
    done = daemon.docker("volume", "create", "--label", "a=b", "-o", "type=tmpfs",
                         "-o", "device=tmpfs", "cli")  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "cli\n"), done.stderr
    shown = json.loads(daemon.docker("volume", "inspect", "cli").stdout)
    assert shown[0]["Options"] == {"type": "tmpfs", "device": "tmpfs"}
    assert "cli" in daemon.docker("volume", "ls", "--filter", "label=a=b").stdout
    anonymous = daemon.docker("volume", "create").stdout.strip()
    pruned = daemon.docker("volume", "prune", "-f")
    assert (pruned.returncode, anonymous in pruned.stdout) == (0, True), pruned.stderr
    assert "cli" not in pruned.stdout
    assert "cli" in daemon.docker("volume", "prune", "-af").stdout
    assert daemon.docker("volume", "rm", "cli").returncode == 1
    assert daemon.docker("volume", "rm", "-f", "cli").returncode == 0


def test_docker_py(daemon: Daemon) -> None:
    client = docker.DockerClient(base_url=daemon.host)
    try:
        volume = client.volumes.create("py", labels={"a": "b"})
        assert volume.attrs["Labels"] == {"a": "b"}
        assert [one.name for one in client.volumes.list(filters={"label": "a"})] == ["py"]
        mount = docker.types.Mount("/d", "py", type="volume", no_copy=True)
        text = client.containers.run(
            "host", ["sh", "-c", "echo x >/d/x; ls /d"], mounts=[mount], remove=True,
            network_mode="none",
        )  # fmt: skip
        assert text == b"x\n"
        client.volumes.get("py").remove()
        with pytest.raises(docker.errors.NotFound):
            client.volumes.get("py")
        assert client.volumes.prune()["VolumesDeleted"] == []
    finally:
        client.close()


def test_an_images_volumes(daemon: Daemon) -> None:
    import_image(
        daemon,
        "declares:1",
        {"data": None, "data/file": b"of the image", "plain": b""},
        'VOLUME ["/data", "/new"]',
    )
    first = daemon.create("true", Image="declares:1", name="store")
    volumes = daemon.get(f"/containers/{first}/json").json()["Mounts"]
    assert {point["Destination"] for point in volumes} == {"/data", "/new"}
    assert all(len(point["Name"]) == 64 and point["RW"] for point in volumes)
    # A container that never ran gives its volumes, filled, to another.
    second = daemon.run("cat", "/data/file", HostConfig={"VolumesFrom": ["store:ro"]}, name="user")
    daemon.wait(second)
    assert daemon.logs(second) == "of the image"
    assert daemon.docker("rm", "-v", "store").returncode == 0
    assert len(names(daemon)) == 2
    assert daemon.docker("rm", "-v", "user").returncode == 0
    assert names(daemon) == set()
    import_image(daemon, "over:1", {"plain": b""}, "VOLUME /plain")
    answer = daemon.post("/containers/create", {"Image": "over:1", "Cmd": ["true"]})
    assert answer.message == "cannot mount volume over existing file, file exists /plain"
    assert answer.status == 400
    assert names(daemon) == set()


@pytest.mark.parametrize("target", ["/proc/sys/kernel", "/sys", "/dev", "/etc", "/../../etc"])
def test_a_link_in_the_image_fills_a_volume_from_the_image_only_cve_2022_23648(
    daemon: Daemon, target: str
) -> None:
    import_image(daemon, "links:1", {"data": target, "etc/mine": b""})
    daemon.create("true", Image="links:1", HostConfig={"Binds": ["filled:/data"]})
    found = {path.name for path in (daemon.data_root / "volumes/filled/_data").iterdir()}
    assert found <= {"mine"}
    assert bool(found) == target.endswith("etc")
