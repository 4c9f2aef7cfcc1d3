"""What a configuration may not say: refused by the field's name, before anything is made."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest

from sampan.errors import InvalidArgument, NotFound, NotSupported, SampanError
from sampan.oci.runtime import Spec
from sampan.runtime import spec as rules
from tests.runtime.containers import NAMESPACES, configuration

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "rootfs").mkdir()
    return tmp_path


def validate(bundle: Path, value: dict[str, Any]) -> tuple[str, ...]:
    return rules.validate(Spec.from_json(value), str(bundle))


def put(value: dict[str, Any], path: str, new: object) -> dict[str, Any]:
    """A copy with the field at ``a.b.c`` set."""
    result = copy.deepcopy(value)
    at = result
    *parents, last = path.split("/")
    for name in parents:
        at = at.setdefault(name, {})
    at[last] = new
    return result


def kinds(*names: str) -> list[dict[str, str]]:
    return [{"type": name} for name in names]


MAP = [{"containerID": 0, "hostID": 1000, "size": 10}]
USER = {"namespaces": kinds(*NAMESPACES, "user"), "uidMappings": MAP, "gidMappings": MAP}

REFUSED: list[tuple[str, object, str]] = [
    ("ociVersion", "1.4.0", "ociVersion: 1.4.0"),
    ("ociVersion", "2.0.0", "ociVersion"),
    ("ociVersion", "1.0", "ociVersion"),
    ("ociVersion", "01.0.0", "ociVersion"),
    ("ociVersion", "latest", "ociVersion"),
    ("root", None, "root"),
    ("root/path", "missing", "root.path"),
    ("root/path", "", "root.path"),
    ("root/path", "link", "symbolic link"),
    ("root/path", "file", "not a directory"),
    ("process", None, "process"),
    ("process/args", [], "process.args"),
    ("process/args", [""], "process.args"),
    ("process/args", ["a\0b"], "process.args[0]"),
    ("process/cwd", "relative", "process.cwd"),
    ("process/env", ["NOVALUE"], "process.env[0]"),
    ("process/env", ["A=1", "=2"], "process.env[1]"),
    ("process/env", ["A=\0"], "process.env[0]"),
    ("process/user", {"uid": -1, "gid": 0}, "process.user.uid"),
    ("process/user", {"uid": 0, "gid": 1 << 32}, "process.user.gid"),
    ("process/user", {"uid": 0, "gid": 0, "umask": 0o1000}, "process.user.umask"),
    ("process/user", {"additionalGids": [1, -2]}, "process.user.additionalGids[1]"),
    ("process/rlimits", [{"type": "RLIMIT_NONE", "soft": 1, "hard": 1}], "RLIMIT_NONE"),
    ("process/rlimits", [{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}], "RLIMIT_CPU"),
    ("process/rlimits", [{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}] * 2, "given twice"),
    ("process/oomScoreAdj", 1001, "process.oomScoreAdj"),
    ("process/scheduler", {"policy": "SCHED_NONE"}, "process.scheduler.policy"),
    ("process/scheduler", {"policy": "SCHED_FIFO"}, "process.scheduler.priority"),
    ("process/scheduler", {"policy": "SCHED_OTHER", "priority": 1}, "process.scheduler.priority"),
    ("process/scheduler", {"policy": "SCHED_OTHER", "nice": 20}, "process.scheduler.nice"),
    ("process/scheduler", {"policy": "SCHED_OTHER", "flags": ["X"]}, "process.scheduler.flags"),
    ("process/scheduler", {"policy": "SCHED_OTHER", "runtime": 5}, "SCHED_DEADLINE"),
    ("process/ioPriority", {"class": "IOPRIO_CLASS_X"}, "process.ioPriority.class"),
    ("process/ioPriority", {"class": "IOPRIO_CLASS_BE", "priority": 8}, "process.ioPriority"),
    ("process/execCPUAffinity", {"initial": "0-"}, "process.execCPUAffinity.initial"),
    ("process/execCPUAffinity", {"final": "3-1"}, "process.execCPUAffinity.final"),
    ("hooks", {"poststop": [{"path": "relative"}]}, "hooks.poststop[0].path"),
    ("hooks", {"prestart": [{"path": "/x", "timeout": 0}]}, "hooks.prestart[0].timeout"),
    ("hooks", {"prestart": [{"path": "/x", "env": ["A"]}]}, "hooks.prestart[0].env"),
    ("linux/namespaces", kinds("mount", "mount"), "given twice"),
    ("linux/namespaces", kinds("mounts"), "unknown namespace"),
    ("linux/namespaces", [{"type": "pid", "path": "x"}], "linux.namespaces[0].path"),
    ("linux/namespaces", kinds("pid"), "mounts"),
    ("linux/namespaces", kinds(*NAMESPACES, "user"), "linux.uidMappings"),
    ("linux/uidMappings", MAP, "linux.uidMappings: need a user namespace"),
    ("linux", {**USER, "gidMappings": []}, "linux.gidMappings"),
    ("linux", {**USER, "uidMappings": [{"containerID": 0, "hostID": 1, "size": 0}]}, "size"),
    ("linux", {**USER, "uidMappings": MAP + MAP}, "mapped twice"),
    ("linux", {**USER, "gidMappings": [{"containerID": 0, "hostID": 1 << 32, "size": 1}]}, "reach"),
    ("linux/timeOffsets", {"monotonic": {"secs": 1}}, "linux.timeOffsets"),
    ("linux/rootfsPropagation", "sideways", "linux.rootfsPropagation"),
    ("linux/maskedPaths", ["relative"], "linux.maskedPaths"),
    ("linux/readonlyPaths", ["relative"], "linux.readonlyPaths"),
    ("linux/sysctl", {"vm.swappiness": "1"}, "vm.swappiness"),
    ("linux/sysctl", {"kernel.hostname": "x"}, "kernel.hostname"),
    ("linux/sysctl", {"user.max_user_namespaces": "1"}, "user"),
    ("linux/netDevices", {"a/b": {}}, "linux.netDevices.a/b"),
    ("linux/netDevices", {"eth0": {"name": "x" * 16}}, "linux.netDevices.eth0"),
    ("linux/personality", {"domain": "BSD"}, "linux.personality.domain"),
    ("linux/personality", {"domain": "LINUX", "flags": ["X"]}, "linux.personality.flags"),
    ("linux/intelRdt", {"closID": "x"}, "linux.intelRdt"),
    ("linux/memoryPolicy", {"mode": "MPOL_X"}, "linux.memoryPolicy.mode"),
    ("linux/memoryPolicy", {"mode": "MPOL_BIND"}, "linux.memoryPolicy.nodes"),
    ("linux/memoryPolicy", {"mode": "MPOL_LOCAL", "nodes": "0"}, "linux.memoryPolicy.nodes"),
    ("linux/memoryPolicy", {"mode": "MPOL_BIND", "nodes": "x"}, "linux.memoryPolicy.nodes"),
    ("linux/memoryPolicy", {"mode": "MPOL_LOCAL", "flags": ["X"]}, "linux.memoryPolicy.flags"),
    (
        "linux/seccomp",
        {"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"},
        "linux.seccomp.listenerMetadata",
    ),
    # wrong shapes
    ("process/args", "sh", "process.args: expected a list"),
    ("process/args", [1], "process.args[0]: expected a string"),
    ("process/cwd", None, "process.cwd: required"),
    ("process/terminal", "yes", "process.terminal"),
    ("process/user", [], "process.user: expected an object"),
    ("process/rlimits", [{"type": "RLIMIT_CPU"}], "process.rlimits[0].soft: required"),
    ("linux/namespaces", [{}], "linux.namespaces[0].type: required"),
    ("mounts", [{}], "mounts[0].destination: required"),
    ("hostname", 5, "hostname: expected a string"),
    ("annotations", {"a": 1}, "annotations.a: expected a string"),
]


@pytest.mark.parametrize(("path", "value", "named"), REFUSED)
def test_a_bad_value_is_refused_by_name(bundle: Path, path: str, value: object, named: str) -> None:
    (bundle / "link").symlink_to("rootfs")
    (bundle / "file").touch()
    with pytest.raises((InvalidArgument, NotFound, NotSupported)) as caught:
        validate(bundle, put(configuration("true"), path, value))
    assert named in caught.value.message


@pytest.mark.parametrize("field", ["hostname", "domainname"])
def test_names_need_a_uts_namespace_and_64_bytes(bundle: Path, field: str) -> None:
    value = put(configuration("true"), "linux/namespaces", kinds("mount"))
    with pytest.raises(InvalidArgument, match=field):
        validate(bundle, {**value, field: "boat"})
    with pytest.raises(InvalidArgument, match=f"{field}: longer"):
        validate(bundle, {**configuration("true"), field: "b" * 65})


@pytest.mark.parametrize("field", ["maskedPaths", "readonlyPaths"])
def test_masks_need_a_mount_namespace(bundle: Path, field: str) -> None:
    value = configuration("true", mounts=[], linux={"namespaces": [], field: ["/proc/kcore"]})
    with pytest.raises(InvalidArgument, match=field):
        validate(bundle, value)


def test_network_settings_need_a_network_namespace(bundle: Path) -> None:
    mount = kinds("mount")
    wanted: list[dict[str, Any]] = [
        {"sysctl": {"net.ipv4.ip_forward": "1"}},
        {"netDevices": {"eth0": {}}},
    ]
    for settings in wanted:
        with pytest.raises(InvalidArgument):
            validate(bundle, configuration("true", linux={"namespaces": mount, **settings}))
        own = [*mount, {"type": "network", "path": "/proc/self/ns/net"}]
        with pytest.raises(InvalidArgument):
            validate(bundle, configuration("true", linux={"namespaces": own, **settings}))


def test_time_offsets_need_a_new_namespace_and_known_clocks(bundle: Path) -> None:
    joined = [*kinds("mount"), {"type": "time", "path": "/proc/self/ns/time"}]
    new = kinds("mount", "time")
    for namespaces, offsets in (
        (joined, {"boottime": {"secs": 1}}),
        (new, {"realtime": {"secs": 1}}),
        (new, {"boottime": {"nanosecs": 1_000_000_000}}),
    ):
        linux = {"namespaces": namespaces, "timeOffsets": offsets}
        with pytest.raises(InvalidArgument, match=r"linux\.timeOffsets"):
            validate(bundle, configuration("true", linux=linux))


@pytest.mark.parametrize("field", ["apparmorProfile", "selinuxLabel"])
def test_labels_are_refused_where_their_module_is_off(bundle: Path, field: str) -> None:
    module = {"apparmorProfile": "AppArmor", "selinuxLabel": "SELinux"}[field]
    try:
        validate(bundle, configuration("true", process={field: "x"}))
    except NotSupported as error:
        assert field in error.message and module in error.message
    else:
        pytest.skip(f"{module} is on here")


@pytest.mark.parametrize("version", ["1.0.0", "1.0.2-dev", "1.3.9", "1.2.1+build.5"])
def test_versions_that_are_taken(bundle: Path, version: str) -> None:
    assert validate(bundle, {**configuration("true"), "ociVersion": version}) == ()


def test_unknown_capabilities_are_warnings(bundle: Path) -> None:
    process = {"capabilities": {"bounding": ["CAP_KILL", "CAP_FLY"], "ambient": ["CAP_SWIM"]}}
    warnings = validate(bundle, configuration("true", process=process))
    assert [warning.split('"')[1] for warning in warnings] == ["CAP_FLY", "CAP_SWIM"]


def test_a_good_configuration_with_everything(bundle: Path) -> None:
    value = configuration(
        "true",
        hostname="boat",
        process={
            "scheduler": {"policy": "SCHED_RR", "priority": 5, "flags": ["SCHED_FLAG_RECLAIM"]},
            "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 7},
            "execCPUAffinity": {"initial": "0-3,7"},
            "oomScoreAdj": -1000,
        },
        linux={
            **USER,
            "sysctl": {"net.ipv4.ip_forward": "1", "kernel/shmmax": "1", "fs.mqueue.msg_max": "5"},
            "memoryPolicy": {"mode": "MPOL_PREFERRED"},
            "personality": {"domain": "LINUX"},
        },
    )
    assert validate(bundle, value) == ()


class TestLoad:
    def test_a_bundle(self, bundle: Path) -> None:
        (bundle / "config.json").write_text(json.dumps(configuration("true")))
        assert rules.load(str(bundle)).process is not None

    def test_no_file(self, bundle: Path) -> None:
        with pytest.raises(NotFound, match=r"config\.json"):
            rules.load(str(bundle))

    @pytest.mark.parametrize("text", ["", "{", "[]", "nonsense", '{"a": 1}', "[" * 100000])
    def test_no_configuration(self, bundle: Path, text: str) -> None:
        (bundle / "config.json").write_text(text)
        with pytest.raises(SampanError):
            rules.load(str(bundle))

    def test_a_huge_file(self, bundle: Path) -> None:
        with open(bundle / "config.json", "wb") as file:
            file.truncate(1 << 40)
        with pytest.raises(InvalidArgument, match="at most"):
            rules.load(str(bundle))

    def test_a_directory(self, bundle: Path) -> None:
        (bundle / "config.json").mkdir()
        with pytest.raises(InvalidArgument, match="not a regular file"):
            rules.load(str(bundle))
