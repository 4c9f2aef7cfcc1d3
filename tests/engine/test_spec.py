"""From a container's record to the runtime's specification: Docker's defaults, the user's words."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import pytest

from sampan.engine import merge, security
from sampan.engine.container import ContainerRecord
from sampan.engine.mounts import Reader
from sampan.engine.reading import read_create
from sampan.engine.spec import Other, build_spec, spec_json
from sampan.errors import InvalidArgument, NotFound, NotSupported, SampanError
from sampan.kernel.capabilities import NAMES
from sampan.kernel.seccomp import compiled
from sampan.oci.image import ImageConfig
from sampan.oci.runtime import Mount, Spec
from sampan.runtime.spec import validate

ID = "c0ffee" + "0" * 58


def record(image: ImageConfig | None = None, **fields: Any) -> ContainerRecord:
    request = read_create({"Image": "i", "Cmd": ["true"], **fields})
    config = merge.merge(request.config, image or ImageConfig())
    return ContainerRecord(
        id=ID,
        name="n",
        created=1,
        image_id="sha256:0",
        image_name="i",
        driver="overlay2",
        config=config,
        host_config=request.host_config,
        args=merge.command(config),
        mounts=tuple(one.mount for one in Reader(_nobody, "/d").read(config, request.host_config)),
    )


def _nobody(reference: str) -> ContainerRecord:
    raise NotFound(f"No such container: {reference}")


def _image(chain: Sequence[str]) -> Mount:
    return Mount(destination="/", type="bind", source=f"/layers/{chain[-1]}", options=("bind",))


def spec(image: ImageConfig | None = None, **fields: Any) -> Spec:
    return build_spec(
        record(image, **fields),
        directory="/d",
        root="/",
        cgroup=f"/sampan/{ID}",
        machine="machine",
        other=lambda namespace, reference: Other(4242, "/other"),
        image=_image,
    )


def test_the_default_is_dockers() -> None:
    made = spec()
    assert made.process is not None and made.linux is not None
    assert made.process.capabilities is not None
    assert made.process.capabilities.bounding == tuple(
        sorted(security.DEFAULT_CAPABILITIES, key=NAMES.index)
    )
    assert made.process.capabilities.inheritable == ()
    assert made.process.env[:2] == (
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        f"HOSTNAME={ID[:12]}",
    )
    assert made.hostname == ID[:12]
    assert {n.type for n in made.linux.namespaces} == {
        "mount", "network", "ipc", "pid", "uts", "cgroup",
    }  # fmt: skip
    assert "/proc/kcore" in made.linux.masked_paths
    assert "/proc/sys" in made.linux.readonly_paths
    assert made.linux.seccomp is not None
    assert [mount.destination for mount in made.mounts] == [
        "/proc", "/dev", "/dev/pts", "/sys", "/sys/fs/cgroup", "/dev/mqueue", "/dev/shm",
        "/etc/hostname", "/etc/hosts", "/etc/resolv.conf",
    ]  # fmt: skip
    resources = made.linux.resources
    assert resources is not None and resources.devices[0].allow is False


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"HostConfig": {"Privileged": True}},
        {"HostConfig": {"NetworkMode": "host", "PidMode": "host", "IpcMode": "host"}},
        {"HostConfig": {"UTSMode": "host", "CgroupnsMode": "host"}},
        {"HostConfig": {"Sysctls": {"net.ipv4.ip_forward": "1"}, "Tmpfs": {"/x": "size=1m"}}},
        {"Tty": True, "User": "a:b", "HostConfig": {"ConsoleSize": [10, 20]}},
    ],
    ids=str,
)
def test_the_runtime_takes_what_we_make(fields: dict[str, Any]) -> None:
    made = spec(**fields)
    assert validate(made, "/") == ()
    shown, program = spec_json(made)
    assert made.linux is not None
    assert Spec.from_json(shown) == made.replace(linux=made.linux.replace(seccomp=None))
    if made.linux.seccomp is None:
        assert program is None
    else:
        assert program is not None
        assert base64.b64decode(str(program["program"])) == compiled(made.linux.seccomp).program


def test_the_image_fills_in_what_the_container_does_not_say() -> None:
    image = ImageConfig(
        env=("A=image", "B=image"),
        entrypoint=("/entry",),
        cmd=("default",),
        working_dir="/work",
        user="1000",
        labels={"l": "image", "m": "image"},
        volumes={"/data": {}},
        stop_signal="SIGQUIT",
    )
    made = record(image, Cmd=[], Env=["A=own"], Labels={"l": "own"})
    assert made.args == ("/entry", "default")
    assert made.config.env == ["A=own", "B=image"]
    assert made.config.labels == {"l": "own", "m": "image"}
    assert (made.config.user, made.config.working_dir) == ("1000", "/work")
    assert made.config.stop_signal == "SIGQUIT"
    assert [mount.destination for mount in made.mounts] == ["/data"]
    assert record(image, Cmd=["own"]).args == ("/entry", "own")
    assert record(image, Cmd=["own"], Entrypoint=["/e"]).args == ("/e", "own")
    assert record(image, Cmd=[], Entrypoint=["/e"]).args == ("/e",)
    assert record(image, Cmd=["own"], Entrypoint=[""]).args == ("own",)


def test_a_variable_named_without_a_value_takes_the_default_away() -> None:
    made = spec(Env=["PATH", "X=1"])
    assert made.process is not None
    assert made.process.env == (f"HOSTNAME={ID[:12]}", "X=1")


@pytest.mark.parametrize(
    ("add", "drop", "has", "lacks"),
    [
        (["NET_ADMIN"], [], "CAP_NET_ADMIN", "CAP_SYS_ADMIN"),
        (["cap_sys_admin"], ["ALL"], "CAP_SYS_ADMIN", "CAP_CHOWN"),
        (["ALL"], ["SYS_ADMIN"], "CAP_SYS_PTRACE", "CAP_SYS_ADMIN"),
        ([], ["CHOWN"], "CAP_KILL", "CAP_CHOWN"),
    ],
)
def test_capabilities_are_added_and_dropped(
    add: list[str], drop: list[str], has: str, lacks: str
) -> None:
    made = spec(HostConfig={"CapAdd": add, "CapDrop": drop})
    assert made.process is not None and made.process.capabilities is not None
    assert has in made.process.capabilities.bounding
    assert lacks not in made.process.capabilities.bounding


def test_other_containers_namespaces_are_joined_by_their_process() -> None:
    made = spec(HostConfig={"NetworkMode": "container:x", "PidMode": "container:x"})
    assert made.linux is not None
    paths = {n.type: n.path for n in made.linux.namespaces}
    assert paths["network"] == "/proc/4242/ns/net"
    assert paths["pid"] == "/proc/4242/ns/pid"


def test_numbers_land_in_their_places() -> None:
    made = spec(
        HostConfig={
            "Memory": 64 << 20,
            "MemorySwap": -1,
            "MemoryReservation": 32 << 20,
            "NanoCpus": 500_000_000,
            "CpuShares": 512,
            "CpusetCpus": "0",
            "PidsLimit": 10,
            "OomScoreAdj": 100,
            "Ulimits": [{"Name": "nofile", "Soft": 5, "Hard": 6}, {"Name": "core", "Hard": -1}],
        }
    )
    assert made.linux is not None and made.linux.resources is not None
    resources = made.linux.resources
    assert resources.memory is not None and resources.cpu is not None and resources.pids is not None
    assert (resources.memory.limit, resources.memory.swap) == (64 << 20, -1)
    assert (resources.cpu.quota, resources.cpu.period, resources.cpu.shares) == (50000, 100000, 512)
    assert resources.pids.limit == 10
    assert made.process is not None
    limits = {limit.type: (limit.soft, limit.hard) for limit in made.process.rlimits}
    assert limits == {"RLIMIT_NOFILE": (5, 6), "RLIMIT_CORE": (0, 2**64 - 1)}


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ({"Memory": 1}, "Minimum memory limit allowed is 6MB"),
        ({"MemorySwap": 64 << 20}, "always set the Memory limit"),
        ({"Memory": 64 << 20, "MemorySwap": 32 << 20}, "larger than memory limit"),
        ({"Memory": 8 << 20, "MemoryReservation": 9 << 20}, "can not be less than"),
        ({"NanoCpus": 1_000_000_000, "CpuQuota": 1}, "Nano CPUs and CPU Quota"),
        ({"CpuQuota": 5}, "cfs quota"),
        ({"BlkioWeight": 5}, "blkio weight"),
        ({"Ulimits": [{"Name": "nofile", "Soft": 9, "Hard": 6}]}, "soft limit"),
        ({"OomScoreAdj": 2000}, "oom score adj"),
        ({"IpcMode": "nonsense"}, 'HostConfig.IpcMode "nonsense"'),
        ({"UTSMode": "container:x"}, "HostConfig.UTSMode"),
        ({"SecurityOpt": ["apparmor=mine"]}, "apparmor=mine"),
        ({"SecurityOpt": ["nonsense"]}, "nonsense"),
        ({"DeviceCgroupRules": ["x"]}, "device cgroup rule"),
        ({"Devices": [{"PathOnHost": "/etc/passwd"}]}, "not a device node"),
    ],
    ids=str,
)
def test_contradictions_are_refused_by_name(host: dict[str, Any], words: str) -> None:
    with pytest.raises(SampanError) as caught:
        spec(HostConfig=host)
    assert words in str(caught.value)
    assert isinstance(caught.value, InvalidArgument | NotSupported)


def test_dockers_form_of_a_seccomp_profile_is_reduced_to_this_container() -> None:
    import json

    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
        ],
        "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": None},
            {"name": "write", "action": "SCMP_ACT_ALLOW"},
            {"names": ["a"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["b"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_CHOWN"]}},
            {"names": ["c"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["d"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390"]}},
        ],
    }
    made = spec(HostConfig={"SecurityOpt": ["seccomp=" + json.dumps(profile)]})
    assert made.linux is not None and made.linux.seccomp is not None
    names = [name for rule in made.linux.seccomp.syscalls for name in rule.names]
    assert names == ["read", "write", "c"]
    assert len(made.linux.seccomp.architectures) == 2
