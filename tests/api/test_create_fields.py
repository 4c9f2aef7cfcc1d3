"""Every field of create: of the wrong type, of a value that cannot be, and what the right one does.

A wrong field is named in the answer, and leaves nothing behind.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec
import pytest

from sampan.engine.config import ContainerConfig, HostConfig
from tests.api.busybox import import_image
from tests.daemon_fixture import Daemon

pytestmark = pytest.mark.root

CONFIG = ContainerConfig.__struct_encode_fields__
HOST = HostConfig.__struct_encode_fields__
# Of these any JSON value is read, since they are refused whatever they are.
ANYTHING = {"DeviceRequests"}


class Nothing:
    """A value of no field's type: an object with an object in it."""

    value = {"a": {"b": [1.5]}}


def create(daemon: Daemon, config: dict[str, Any], host: dict[str, Any], **query: object) -> Any:
    body = {"Image": "host", "Cmd": ["true"], **config}
    body["HostConfig"] = {"NetworkMode": "none", **host}
    return daemon.post("/containers/create", body, **query)


@pytest.fixture(autouse=True)
def nothing_made(daemon: Daemon) -> Any:
    def picture() -> list[set[str]]:
        places = ("containers", "overlay2/rw", "volumes")
        return [set(os.listdir(daemon.data_root / place)) for place in places]

    before = picture()
    yield
    daemon.remove_all()
    daemon.wait_for(lambda: picture() == before)


@pytest.mark.parametrize("name", sorted({*CONFIG} - {"Image"}))
def test_a_field_of_the_wrong_type_is_named(daemon: Daemon, name: str) -> None:
    answer = create(daemon, {name: Nothing.value}, {})
    assert (answer.status, name in answer.message) == (400, True), answer.body


@pytest.mark.parametrize("name", sorted({*HOST} - ANYTHING))
def test_a_host_field_of_the_wrong_type_is_named(daemon: Daemon, name: str) -> None:
    answer = create(daemon, {}, {name: Nothing.value})
    assert (answer.status, name in answer.message) == (400, True), answer.body


@pytest.mark.parametrize("name", sorted({*CONFIG, *HOST} - {"Image", "Cmd"}))
def test_null_is_absence(daemon: Daemon, name: str) -> None:
    config, host = ({name: None}, {}) if name in CONFIG else ({}, {name: None})
    answer = create(daemon, config, host)
    assert answer.status == 201, answer.body


WRONG: list[tuple[dict[str, Any], int, str]] = [
    # Config
    ({"Image": ""}, 400, "no image specified"),
    ({"Image": "no-such-image"}, 404, "No such image: no-such-image"),
    ({"Image": "UPPER"}, 400, "UPPER"),
    ({"Cmd": [], "Entrypoint": []}, 400, "no command specified"),
    ({"Env": ["=x"]}, 400, "invalid environment variable: =x"),
    ({"Env": [""]}, 400, "invalid environment variable"),
    ({"Env": ["A=\0"]}, 400, "NUL"),
    ({"Cmd": ["a\0b"]}, 400, "NUL"),
    ({"WorkingDir": "relative"}, 400, "the working directory 'relative' is invalid"),
    ({"Hostname": "x" * 65}, 400, "hostname"),
    ({"Hostname": "a b"}, 400, "hostname 'a b'"),
    ({"Domainname": "x" * 65}, 400, "domainname"),
    ({"StopSignal": "SIGNOTHING"}, 400, "Invalid signal: SIGNOTHING"),
    ({"StopSignal": "77"}, 400, "Invalid signal: 77"),
    ({"Volumes": {"relative": {}}}, 400, "mount path must be absolute"),
    ({"Volumes": {"/": {}}}, 400, "destination can't be '/'"),
    ({"Healthcheck": {"Test": ["CMD"]}}, 400, "Healthcheck.Test"),
    ({"MacAddress": "02:42:ac:11"}, 400, "not a MAC address"),
    ({"OnBuild": ["RUN x"]}, 501, "OnBuild"),
    ({"ArgsEscaped": True}, 501, "ArgsEscaped"),
    ({"ExposedPorts": {"x/tcp": {}}}, 400, "x/tcp"),
    ({"ExposedPorts": {"70000/tcp": {}}}, 400, "70000/tcp"),
    ({"ExposedPorts": {"80/icmp": {}}}, 400, "80/icmp"),
    ({"Mystery": 1}, 400, "Mystery is not a field"),
]
WRONG_HOST: list[tuple[dict[str, Any], int, str]] = [
    ({"AutoRemove": True, "RestartPolicy": {"Name": "always"}}, 400, "can't create 'AutoRemove'"),
    ({"RestartPolicy": {"Name": "x"}}, 400, "invalid restart policy"),
    ({"RestartPolicy": {"Name": "always", "MaximumRetryCount": 1}}, 400, "maximum retry count"),
    ({"Binds": ["x"]}, 400, "volume specification: 'x'"),
    ({"Binds": ["/a:b"]}, 400, "mount path must be absolute"),
    ({"Binds": ["/a:/b:bad"]}, 400, "invalid mode: bad"),
    ({"Binds": ["/tmp:/b", "/usr:/b"]}, 400, "Duplicate mount point: /b"),
    ({"Mounts": [{"Type": "bind", "Source": "/no/such", "Target": "/b"}]}, 400, "/no/such"),
    ({"Mounts": [{"Type": "what", "Target": "/b"}]}, 400, "what"),
    ({"Tmpfs": {"/t": "size=much,bad"}}, 400, "bad"),
    ({"VolumesFrom": ["nobody"]}, 400, "nobody"),
    ({"VolumeDriver": "nfs", "Binds": ["vv:/x"]}, 404, "nfs"),
    ({"NetworkMode": "container:nobody"}, 400, "No such container: nobody"),
    ({"IpcMode": "container:nobody"}, 400, "No such container: nobody"),
    ({"PidMode": "container:nobody"}, 400, "No such container: nobody"),
    ({"PidMode": "container:"}, 400, "names no container"),
    ({"PidMode": "mine"}, 400, "PidMode"),
    ({"IpcMode": "mine"}, 400, "IpcMode"),
    ({"UTSMode": "mine"}, 400, "UTSMode"),
    ({"CgroupnsMode": "mine"}, 400, "CgroupnsMode"),
    ({"UsernsMode": "private"}, 501, "UsernsMode"),
    ({"Runtime": "runc"}, 400, "unknown or invalid runtime name: runc"),
    ({"Isolation": "hyperv"}, 400, "invalid isolation 'hyperv' on linux"),
    ({"Cgroup": "x"}, 501, "Cgroup"),
    ({"CgroupParent": "../x"}, 400, ".."),
    ({"Links": ["nobody:b"]}, 400, "could not get container for nobody"),
    ({"PortBindings": {"80/tcp": [{"HostPort": "x"}]}}, 400, 'port specification: "x"'),
    ({"PortBindings": {"80/tcp": [{"HostPort": "1/udp"}]}}, 400, 'port specification: "1/udp"'),
    ({"PortBindings": {"80/tcp": [{"HostPort": "65536"}]}}, 400, "65536"),
    ({"PortBindings": {"80/tcp": [{"HostIp": "1.2.3"}]}}, 400, "'1.2.3'"),
    ({"PortBindings": {"80-81/tcp": [{}]}}, 400, "80-81/tcp"),
    ({"PortBindings": {"0/tcp": [{}]}}, 400, "0/tcp"),
    ({"PortBindings": {"80/icmp": [{}]}}, 400, "80/icmp"),
    ({"PortBindings": {"80/tcp": [{"Port": "1"}]}}, 400, "Port"),
    ({"StorageOpt": {"size": "10G"}}, 501, "StorageOpt"),
    ({"DeviceRequests": [{"Driver": "nvidia", "Count": -1}]}, 501, "DeviceRequests"),
    ({"Devices": [{"PathOnHost": "/dev/no-such"}]}, 400, "/dev/no-such"),
    ({"DeviceCgroupRules": ["x 1:1 r"]}, 400, "x 1:1 r"),
    ({"CapAdd": ["NET_WHAT"]}, 400, "NET_WHAT"),
    ({"CapDrop": ["NET_WHAT"]}, 400, "NET_WHAT"),
    ({"SecurityOpt": ["what=ever"]}, 400, "what=ever"),
    ({"SecurityOpt": ["seccomp={"]}, 400, "seccomp"),
    ({"Dns": ["x"]}, 400, "invalid IP address in dns: 'x'"),
    ({"DnsSearch": ["a b"]}, 400, "a b"),
    ({"ExtraHosts": ["x"]}, 400, "bad format for add-host: 'x'"),
    ({"ExtraHosts": ["x:y"]}, 400, "invalid IP address in add-host: 'y'"),
    ({"Sysctls": {"kernel.what": "1"}}, 400, "kernel.what"),
    ({"Ulimits": [{"Name": "what"}]}, 400, "invalid ulimit type: what"),
    ({"Ulimits": [{"Name": "core", "Soft": 5, "Hard": 1}]}, 400, "core: 5 > 1"),
    ({"ShmSize": -1}, 400, "ShmSize"),
    ({"OomScoreAdj": 1001}, 400, "range for oom score adj is [-1000, 1000]"),
    ({"Memory": 5}, 400, "Minimum memory limit allowed is 6MB"),
    ({"Memory": -1}, 400, "Memory -1"),
    ({"MemorySwap": 1 << 30}, 400, "You should always set the Memory limit"),
    ({"Memory": 1 << 30, "MemorySwap": 1 << 29}, 400, "memoryswap limit should be larger"),
    ({"MemorySwappiness": 101}, 400, "valid memory swappiness range is 0-100"),
    ({"MemoryReservation": 5}, 400, "Minimum memory reservation allowed is 6MB"),
    ({"KernelMemory": 1 << 30}, 501, "KernelMemory"),
    ({"NanoCpus": 10**15}, 400, "range of CPUs is from 0.01"),
    ({"NanoCpus": 10**9, "CpuQuota": 5000}, 400, "Nano CPUs and CPU Quota cannot both be set"),
    ({"CpuPeriod": 5}, 400, "CPU cfs period can not be less than 1ms"),
    ({"CpuQuota": 5}, 400, "CPU cfs quota can not be less than 1ms"),
    ({"CpuShares": -5}, 400, "CpuShares"),
    ({"CpusetCpus": "x"}, 400, "Invalid value x for cpuset cpus"),
    ({"CpusetCpus": "3-1"}, 400, "Invalid value 3-1 for cpuset cpus"),
    ({"CpusetCpus": "0-4000"}, 400, "Requested CPUs are not available - requested 0-4000"),
    ({"CpusetMems": "77"}, 400, "Requested memory nodes are not available - requested 77"),
    ({"RestartPolicy": {"Mystery": 1}}, 400, "HostConfig.RestartPolicy.Mystery is not a field"),
    ({"Ulimits": [{"Name": "core", "X": 1}]}, 400, "HostConfig.Ulimits[0].X is not a field"),
    ({"CpuCount": 2}, 501, "CpuCount"),
    ({"CpuPercent": 20}, 501, "CpuPercent"),
    ({"IOMaximumIOps": 5}, 501, "IOMaximumIOps"),
    ({"IOMaximumBandwidth": 5}, 501, "IOMaximumBandwidth"),
    ({"BlkioWeight": 5}, 400, "Range of blkio weight is from 10 to 1000"),
    ({"BlkioDeviceReadBps": [{"Path": "/dev/null", "Rate": 5}]}, 400, "/dev/null"),
    ({"Annotations": {"": "x"}}, 400, "Annotations"),
    ({"LogConfig": {"Type": "what"}}, 400, "what"),
    ({"LogConfig": {"Type": "json-file", "Config": {"what": "x"}}}, 400, "unknown log opt 'what'"),
    ({"ConsoleSize": [1]}, 400, "ConsoleSize"),
    ({"ConsoleSize": [-1, 5]}, 400, "ConsoleSize"),
    ({"Mystery": 1}, 400, "HostConfig.Mystery is not a field"),
]


@pytest.mark.parametrize("row", WRONG, ids=lambda row: str(row[0]))
def test_a_value_that_cannot_be_is_named(
    daemon: Daemon, row: tuple[dict[str, Any], int, str]
) -> None:
    answer = create(daemon, row[0], {})
    assert (answer.status, row[2].lower() in answer.message.lower()) == (row[1], True), answer.body


@pytest.mark.parametrize("row", WRONG_HOST, ids=lambda row: str(row[0]))
def test_a_host_value_that_cannot_be_is_named(
    daemon: Daemon, row: tuple[dict[str, Any], int, str]
) -> None:
    answer = create(daemon, {}, row[0])
    assert (answer.status, row[2].lower() in answer.message.lower()) == (row[1], True), answer.body


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b'"x"', b"{", b'{"Image": "host"} x'])
def test_what_is_no_object_is_refused(daemon: Daemon, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    answer = daemon.request("POST", "/containers/create", body, headers=headers)
    assert answer.status == 400, answer.body


@pytest.mark.parametrize(
    ("version", "query", "status"),
    [("v1.51", "linux/no-such", 501), ("v1.41", "windows", 501), ("v1.40", "windows", 201)],
)
def test_another_platform_is_refused_by_those_who_know_of_it(
    daemon: Daemon, version: str, query: str, status: int
) -> None:
    body = {"Image": "host", "Cmd": ["true"]}
    answer = daemon.post(f"/{version}/containers/create", body, platform=query)
    assert answer.status == status, answer.body


OLD: list[tuple[str, dict[str, Any], str, Any]] = [
    ("v1.24", {"AutoRemove": True}, "AutoRemove", False),
    ("v1.25", {"AutoRemove": True}, "AutoRemove", True),
    ("v1.39", {}, "IpcMode", "shareable"),
    ("v1.40", {}, "IpcMode", "private"),
    ("v1.41", {}, "CgroupnsMode", "private"),
    ("v1.41", {"ConsoleSize": [20, 30]}, "ConsoleSize", [0, 0]),
    ("v1.42", {"ConsoleSize": [20, 30]}, "ConsoleSize", [20, 30]),
    ("v1.43", {"Annotations": {"a": "b"}}, "Annotations", {"a": "b"}),
    ("v1.51", {"PidsLimit": -1}, "PidsLimit", None),
]


@pytest.mark.parametrize("row", OLD, ids=lambda row: f"{row[0]}-{row[2]}")
def test_an_old_client_gets_what_its_version_meant(
    daemon: Daemon, row: tuple[str, dict[str, Any], str, Any]
) -> None:
    version, host, name, expected = row
    body = {"Image": "host", "Cmd": ["true"], "HostConfig": host}
    answer = daemon.post(f"/{version}/containers/create", body)
    assert answer.status == 201, answer.body
    shown = daemon.get(f"/containers/{answer.json()['Id']}/json").json()
    assert shown["HostConfig"][name] == expected


def test_cgroups_of_an_old_client_are_the_hosts_on_v1_only(daemon: Daemon) -> None:
    from sampan.kernel import cgroups

    answer = daemon.post("/v1.40/containers/create", {"Image": "host", "Cmd": ["true"]})
    shown = daemon.get(f"/containers/{answer.json()['Id']}/json").json()
    old = "private" if cgroups.detect().kind == "v2" else "host"
    assert shown["HostConfig"]["CgroupnsMode"] == old


@pytest.mark.parametrize(
    ("version", "mount", "words"),
    [
        (
            "v1.44",
            {"Type": "volume", "Source": "vv", "VolumeOptions": {"Subpath": "x"}},
            "Subpath needs API v1.45",
        ),
        ("v1.47", {"Type": "image", "Source": "host"}, "needs API v1.48"),
        (
            "v1.43",
            {"Type": "bind", "Source": "/tmp", "BindOptions": {"ReadOnlyForceRecursive": True}},
            "ReadOnlyForceRecursive needs API v1.44",
        ),
    ],
    ids=str,
)
def test_what_an_old_version_must_not_ignore_is_refused(
    daemon: Daemon, version: str, mount: dict[str, Any], words: str
) -> None:
    host = {"Mounts": [{"Target": "/x", **mount}]}
    body = {"Image": "host", "Cmd": ["true"], "HostConfig": host}
    answer = daemon.post(f"/{version}/containers/create", body)
    assert (answer.status, words in answer.message) == (400, True), answer.body


def test_groups_are_found_by_name_in_the_container(daemon: Daemon) -> None:
    host = {"GroupAdd": ["daemon", "4242"]}
    container = daemon.run("id", "-G", User="nobody", HostConfig=host)
    daemon.wait(container)
    assert {"1", "4242"} <= set(daemon.logs(container).split())
    instance = {"Cmd": ["sh", "-c", "id -G > /tmp/groups"]}
    runs = daemon.run("sleep", "600", HostConfig=host)
    created = daemon.post(f"/containers/{runs}/exec", instance).json()["Id"]
    daemon.post(f"/exec/{created}/start", {"Detach": True})
    daemon.wait_for(lambda: daemon.get(f"/exec/{created}/json").json()["ExitCode"] == 0)
    missing = daemon.create("true", HostConfig={"GroupAdd": ["no-such-group"]})
    answer = daemon.post(f"/containers/{missing}/start")
    words = "unable to find group no-such-group: no matching entries in group file"
    assert (answer.status, answer.message) == (400, words)


def test_root_has_the_groups_that_the_image_gives_it(daemon: Daemon) -> None:
    """Whether it is asked for or the default: Alpine's root is in eleven."""
    passwd, group = (
        b"root:x:0:0:root:/root:/bin/sh\n",
        b"root:x:0:\nbin:x:1:root,bin\nw:x:10:root\n",
    )
    import_image(daemon, "grouped:1", {"etc/passwd": passwd, "etc/group": group})
    for user in ("", "root", "0"):
        container = daemon.run("id", "-G", Image="grouped:1", User=user)
        daemon.wait(container)
        assert daemon.logs(container) == "0 1 10\n"
    for user, groups in (("0:0", "0\n"), ("7", "0\n")):
        container = daemon.run("id", "-G", Image="grouped:1", User=user)
        daemon.wait(container)
        assert daemon.logs(container) == groups


def test_a_container_that_is_joined_is_known_by_its_id(daemon: Daemon) -> None:
    donor = daemon.run("sleep", "600", name="donor", HostConfig={"IpcMode": "shareable"})
    modes = ("NetworkMode", "IpcMode", "PidMode")
    joiner = daemon.create("true", HostConfig=dict.fromkeys(modes, "container:donor"))
    shown = daemon.get(f"/containers/{joiner}/json").json()["HostConfig"]
    assert [shown[mode] for mode in modes] == [f"container:{donor}"] * 3
    daemon.post("/containers/donor/rename", name="renamed")
    assert daemon.post(f"/containers/{joiner}/start").status == 204
    daemon.wait(joiner)
    daemon.post(f"/containers/{donor}/kill")
    for mode, word in (("NetworkMode", "network"), ("IpcMode", "IPC"), ("PidMode", "PID")):
        one = daemon.create("true", HostConfig={mode: f"container:{donor}"})
        answer = daemon.post(f"/containers/{one}/start")
        said = f"failed to join {word} namespace: container {donor} is not running"
        assert (answer.status, answer.message) == (409, said)
    daemon.delete(f"/containers/{donor}", force=1)
    answer = daemon.post(f"/containers/{joiner}/start")
    assert (answer.status, "No such container" in answer.message) == (400, True)


def test_an_inspection_can_be_created_again(daemon: Daemon) -> None:
    """What tools that replace a container do: inspect, remove, create with what was shown."""
    first = daemon.create(
        "sleep", "5", Env=["A=b"], Labels={"x": "y"}, StopSignal="SIGINT", StopTimeout=3,
        Healthcheck={"Test": ["CMD", "true"], "Retries": 2}, ExposedPorts={"80/tcp": {}},
        AttachStdin=True, AttachStdout=True, AttachStderr=True,
        HostConfig={"Memory": 64 << 20, "PidsLimit": 9, "CapAdd": ["NET_ADMIN"], "Init": True,
                    "ContainerIDFile": "/x",
                    "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2}},
    )  # fmt: skip
    shown = daemon.get(f"/containers/{first}/json").json()
    for stream in ("AttachStdin", "AttachStdout", "AttachStderr"):
        assert shown["Config"][stream] is True
    assert shown["HostConfig"]["ContainerIDFile"] == "/x"
    body = {**shown["Config"], "HostConfig": shown["HostConfig"]}
    answer = daemon.post("/containers/create", body)
    assert answer.status == 201, answer.body
    again = daemon.get(f"/containers/{answer.json()['Id']}/json").json()
    assert again["HostConfig"] == shown["HostConfig"]
    assert again["Config"] == shown["Config"]
    assert msgspec.json.encode(again["Args"]) == b'["5"]'
