"""Each namespace by what it changes, new and joined."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from sampan.errors import InvalidArgument, NotFound
from sampan.kernel import cgroups
from tests.runtime.containers import NAMESPACES, Run, make_bundle, run, shell, spec_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sampan.runtime.child import Child

pytestmark = pytest.mark.root

MAPPINGS = [{"containerID": 0, "hostID": 100000, "size": 65536}]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def mapped_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose files belong to the mapped root, in directories it may pass."""
    directory = make_bundle(tmp_path_factory.mktemp("mapped"))
    for parent in (directory, *directory.parents):
        if parent.stat().st_mode & 0o5 != 0o5:
            parent.chmod(parent.stat().st_mode | 0o5)
    for top, names, files in os.walk(directory / "rootfs"):
        for name in (".", *names, *files):
            os.lchown(os.path.join(top, name), 100000, 100000)
    return directory


@pytest.fixture
def peer(bundle: Path) -> Iterator[Child]:
    """A running container whose namespaces others join."""
    container = Run(bundle, spec_of("sleep", "1000", hostname="peer"))
    container.child.start()
    yield container.child
    container.child.abort()
    os.close(container.output_fd)


def without(*names: str) -> list[dict[str, str]]:
    return [{"type": name} for name in NAMESPACES if name not in names]


def joining(peer: Child, kind: str, name: str) -> dict[str, Any]:
    path = f"/proc/{peer.pid}/ns/{name}"
    return {"namespaces": [*without(kind), {"type": kind, "path": path}]}


def mapped(**changes: Any) -> dict[str, Any]:
    return {
        "namespaces": [{"type": name} for name in (*NAMESPACES, "user")],
        "uidMappings": MAPPINGS,
        "gidMappings": MAPPINGS,
        **changes,
    }


def test_uts_a_host_name_is_not_seen_outside(bundle: Path) -> None:
    before = os.uname()
    output = shell(
        bundle,
        "hostname; dnsdomainname -y 2>/dev/null; hostname boat2; hostname",
        hostname="boat",
        process={"capabilities": all_sets("CAP_SYS_ADMIN")},
    )
    assert output.split()[0] == "boat" and output.split()[-1] == "boat2"
    assert os.uname() == before


def all_sets(*names: str) -> dict[str, list[str]]:
    return {kind: list(names) for kind in ("bounding", "effective", "permitted")}


def test_uts_a_domain_name(bundle: Path) -> None:
    assert shell(bundle, "cat /proc/sys/kernel/domainname", domainname="harbour") == "harbour"


def test_pid_the_program_is_pid_1_and_sees_only_its_own(bundle: Path) -> None:
    assert shell(bundle, "echo $$; ls -d /proc/[0-9]* | wc -l").split()[0] == "1"
    assert int(shell(bundle, "ls -d /proc/[0-9]* | wc -l")) <= 4


def test_network_has_lo_and_nothing_else(bundle: Path) -> None:
    assert shell(bundle, "ls /sys/class/net") == "lo"
    assert "UP" in shell(bundle, "ip link show lo")


def test_ipc_objects_are_not_the_machines(bundle: Path) -> None:
    made = subprocess.run(["ipcmk", "-M", "4096"], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip("no ipcmk here")
    number = made.stdout.split()[-1]
    try:
        assert len(shell(bundle, "cat /proc/sysvipc/shm").split("\n")) == 1
    finally:
        subprocess.run(["ipcrm", "-m", number], check=True)


def test_mount_what_is_mounted_inside_is_not_seen_outside(bundle: Path) -> None:
    def mounts() -> list[str]:
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            return [line for line in file if str(bundle) in line]  # others mount meanwhile

    before = mounts()
    script = "mount -t tmpfs none /tmp && touch /tmp/inside && ls /tmp"
    process = {"capabilities": all_sets("CAP_SYS_ADMIN")}
    assert shell(bundle, script, process=process) == "inside"
    assert mounts() == before
    assert not (bundle / "rootfs/tmp/inside").exists()


@pytest.mark.v2
def test_cgroup_the_containers_is_its_root(bundle: Path) -> None:
    group = cgroups.detect().group("/sampan-test-ns")
    container = Run(bundle, spec_of("cat", "/proc/self/cgroup"), group=group)
    try:
        code, output = container.finish()
    finally:
        group.destroy()
    assert code == 0
    assert {line.split(":")[2] for line in output.split()} == {"/"}


@pytest.mark.v2
def test_cgroup_inherited_shows_the_whole_path(bundle: Path) -> None:
    group = cgroups.detect().group("/sampan-test-ns")
    spec = spec_of("cat", "/proc/self/cgroup", linux={"namespaces": without("cgroup")})
    container = Run(bundle, spec, group=group)
    try:
        code, output = container.finish()
    finally:
        group.destroy()
    assert code == 0
    assert "/sampan-test-ns" in output


@pytest.mark.v2
def test_time_offsets_move_the_clocks(bundle: Path) -> None:
    days = 100 * 86400
    linux = {
        "namespaces": [{"type": name} for name in (*NAMESPACES, "time")],
        "timeOffsets": {"boottime": {"secs": days, "nanosecs": 0}, "monotonic": {"secs": 5}},
    }
    with open("/proc/uptime", encoding="ascii") as file:
        outside = float(file.read().split()[0])
    output = shell(bundle, "cat /proc/uptime; cat /proc/self/timens_offsets", linux=linux)
    assert abs(float(output.split()[0]) - outside - days) < 60
    assert output.split("\n")[1].split() == ["monotonic", "5", "0"]


def test_user_root_inside_is_nobody_outside(mapped_bundle: Path) -> None:
    container = Run(
        mapped_bundle,
        spec_of("sh", "-c", "id -u; cat /proc/self/uid_map; touch /tmp/made", linux=mapped()),
    )
    assert os.stat(f"/proc/{container.child.pid}/root").st_uid == 100000
    with open(f"/proc/{container.child.pid}/status", encoding="ascii") as file:
        assert "Uid:\t100000\t100000\t100000\t100000\n" in file.read()
    code, output = container.finish()
    assert code == 0, output
    assert output.split() == ["0", "0", "100000", "65536"]
    assert (mapped_bundle / "rootfs/tmp/made").stat().st_uid == 100000


def test_user_an_id_without_a_mapping_is_refused(mapped_bundle: Path) -> None:
    process = {"user": {"uid": 70000, "gid": 0}}
    with pytest.raises(InvalidArgument, match="user 70000: not mapped"):
        Run(mapped_bundle, spec_of("true", linux=mapped(), process=process))


def test_user_and_time_together(mapped_bundle: Path) -> None:
    linux = mapped(
        namespaces=[{"type": name} for name in (*NAMESPACES, "user", "time")],
        timeOffsets={"boottime": {"secs": 86400 * 100}},
    )
    output = shell(mapped_bundle, "id -u; cat /proc/self/timens_offsets; echo $$", linux=linux)
    lines = output.split("\n")
    assert lines[0] == "0" and lines[-1] == "1"
    assert lines[2].split() == ["boottime", str(86400 * 100), "0"]


@pytest.mark.v2
@pytest.mark.parametrize("kinds", [("user",), ("time",), ("user", "time")])
def test_user_and_time_with_a_cgroup(mapped_bundle: Path, kinds: tuple[str, ...]) -> None:
    """Made by a stage or not, the process is in its group, of every hierarchy."""
    namespaces = [{"type": name} for name in (*NAMESPACES, *kinds)]
    linux = mapped(namespaces=namespaces) if "user" in kinds else {"namespaces": namespaces}
    group = cgroups.detect().group("/sampan-test-ns")
    container = Run(mapped_bundle, spec_of("cat", "/proc/self/cgroup", linux=linux), group=group)
    try:
        with open(f"/proc/{container.child.pid}/cgroup", encoding="ascii") as file:
            assert {line.rstrip().split(":")[2] for line in file} == {"/sampan-test-ns"}
        code, output = container.finish()
    finally:
        group.destroy()
    assert code == 0
    assert {line.split(":")[2] for line in output.split()} == {"/"}


@pytest.mark.parametrize(
    ("kind", "name"),
    [("network", "net"), ("uts", "uts"), ("ipc", "ipc"), ("pid", "pid"), ("cgroup", "cgroup")],
)
def test_joining_by_path(bundle: Path, peer: Child, kind: str, name: str) -> None:
    output = shell(bundle, f"readlink /proc/self/ns/{name}", linux=joining(peer, kind, name))
    assert output == os.readlink(f"/proc/{peer.pid}/ns/{name}")


def test_joining_uts_shows_the_peers_name(bundle: Path, peer: Child) -> None:
    assert shell(bundle, "hostname", linux=joining(peer, "uts", "uts")) == "peer"


def test_joining_pid_sees_the_peers_init(bundle: Path, peer: Child) -> None:
    output = shell(bundle, "cat /proc/1/cmdline; echo $$", linux=joining(peer, "pid", "pid"))
    assert output.startswith("sleep\x001000")
    assert int(output.split("\0")[-1]) > 1


def test_joining_pid_the_child_is_the_callers_own(bundle: Path, peer: Child) -> None:
    container = Run(bundle, spec_of("sh", "-c", "exit 7", linux=joining(peer, "pid", "pid")))
    with open(f"/proc/{container.child.pid}/status", encoding="ascii") as file:
        assert f"PPid:\t{os.getpid()}\n" in file.read()
    assert container.finish()[0] == 7


def test_joining_a_user_namespace(mapped_bundle: Path) -> None:
    first = Run(mapped_bundle, spec_of("sleep", "1000", linux=mapped()))
    first.child.start()
    try:
        pid = first.child.pid
        joined = [
            {"type": "user", "path": f"/proc/{pid}/ns/user"},
            {"type": "network", "path": f"/proc/{pid}/ns/net"},
            *without("network"),
        ]
        script = "readlink /proc/self/ns/user; readlink /proc/self/ns/net; id -u; echo $$"
        lines = shell(mapped_bundle, script, linux=mapped(namespaces=joined)).split("\n")
        assert lines[:2] == [os.readlink(f"/proc/{pid}/ns/{name}") for name in ("user", "net")]
        assert lines[2:] == ["0", "1"]
        other = [{"containerID": 0, "hostID": 5, "size": 1}]
        wrong = mapped(namespaces=joined, uidMappings=other, gidMappings=other)
        with pytest.raises(InvalidArgument, match="uid_map"):
            Run(mapped_bundle, spec_of("true", linux=wrong))
    finally:
        first.child.abort()
        os.close(first.output_fd)


def test_joining_a_network_from_a_new_user_namespace(mapped_bundle: Path) -> None:
    first = Run(mapped_bundle, spec_of("sleep", "1000"))
    first.child.start()
    try:
        path = f"/proc/{first.child.pid}/ns/net"
        namespaces = [{"type": "user"}, {"type": "network", "path": path}, *without("network")]
        # sysfs shows a network namespace, so its owner's rights are needed to mount it.
        output = shell(
            mapped_bundle,
            "readlink /proc/self/ns/net; id -u",
            linux=mapped(namespaces=namespaces),
            mounts=[{"destination": "/proc", "type": "proc", "source": "proc"}],
        )
        assert output.split("\n") == [os.readlink(path), "0"]
    finally:
        first.child.abort()
        os.close(first.output_fd)


def test_a_path_that_is_no_namespace_is_refused(bundle: Path) -> None:
    namespaces = [*without("ipc"), {"type": "ipc", "path": "/proc/self/ns/net"}]
    with pytest.raises(InvalidArgument, match="ipc namespace /proc/self/ns/net"):
        run(bundle, "true", linux={"namespaces": namespaces})
    namespaces = [*without("ipc"), {"type": "ipc", "path": "/no/such/file"}]
    with pytest.raises(NotFound, match="/no/such/file"):
        run(bundle, "true", linux={"namespaces": namespaces})


def test_the_callers_namespaces_are_untouched(bundle: Path, peer: Child) -> None:
    def picture() -> dict[str, str]:
        return {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")}

    before = picture()
    run(bundle, "true", linux=joining(peer, "pid", "pid"))
    assert picture() == before


def test_a_network_device_is_moved_renamed_and_keeps_its_address(bundle: Path) -> None:
    """In a network namespace of the test's own, so that the machine's is not disturbed."""
    script = """
import sys
from tests.runtime.containers import shell
from pathlib import Path
linux = {"netDevices": {"spt0": {"name": "eth%d"}}}
print(shell(Path(sys.argv[1]), "ip -o addr show", linux=linux))
"""
    made = subprocess.run(
        [
            "unshare", "-n", "sh", "-c",
            "ip link add spt0 type veth peer name spt1 && ip addr add 192.0.2.7/24 dev spt0 && "
            'ip link set lo up && exec "$0" -c "$1" "$2"',
            sys.executable, script, str(bundle),
        ],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": "src:."},
    )  # fmt: skip
    if "not found" in made.stderr:
        pytest.skip("no ip or unshare here")
    assert made.returncode == 0, made.stderr
    line = next(line for line in made.stdout.split("\n") if "192.0.2.7/24" in line)
    assert "eth0" in line


def test_without_a_mount_namespace_it_is_a_chroot(bundle: Path) -> None:
    linux = {"namespaces": without("mount", "cgroup")}
    code, output = run(bundle, "ls", "/", linux=linux, mounts=[])
    assert code == 0 and "bin" in output.split()
