"""Kernel parameters: which may be set, how they are written, and that they arrive."""

from __future__ import annotations

from pathlib import Path

import pytest

from sampan.errors import InvalidArgument, SampanError
from sampan.oci.runtime import Linux, Namespace
from sampan.runtime import sysctl
from tests.runtime.inside import OWN, USUAL, make_root, spec, within


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/conf/eth0.100/forwarding", "net/ipv4/conf/eth0.100/forwarding"),
        ("net.ipv4.conf.eth0/100.forwarding", "net/ipv4/conf/eth0.100/forwarding"),
        ("kernel.shmmax", "kernel/shmmax"),
    ],
)
def test_both_separators(key: str, path: str) -> None:
    assert sysctl.path_of(key) == path


@pytest.mark.parametrize("key", ["", ".", "net..x", "net/../../etc", "net.", "/net/x"])
def test_names_that_are_none(key: str) -> None:
    with pytest.raises(InvalidArgument, match=r"linux\.sysctl"):
        sysctl.path_of(key)


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("kernel.msgmax", "ipc"),
        ("kernel.shm_rmid_forced", "ipc"),
        ("fs.mqueue.msg_max", "ipc"),
        ("net.core.somaxconn", "network"),
        ("kernel.domainname", "uts"),
        ("user.max_user_namespaces", "user"),
    ],
)
def test_a_parameter_needs_its_namespace(key: str, kind: str) -> None:
    linux = Linux(namespaces=(Namespace(type=kind),), sysctl={key: "1"})
    assert list(sysctl.check(linux).values()) == ["1"]
    with pytest.raises(InvalidArgument, match=f"{key} needs a {kind} namespace"):
        sysctl.check(linux.replace(namespaces=(Namespace(type="mount"),)))


@pytest.mark.parametrize("key", ["vm.swappiness", "kernel.panic", "fs.file-max", "kernel/modprobe"])
def test_the_machines_parameters_are_refused(key: str) -> None:
    linux = Linux(namespaces=tuple(Namespace(type=kind) for kind in OWN), sysctl={key: "1"})
    with pytest.raises(InvalidArgument, match="belongs to the machine"):
        sysctl.check(linux)


def test_the_hostname_has_a_field_of_its_own() -> None:
    linux = Linux(namespaces=(Namespace(type="uts"),), sysctl={"kernel.hostname": "x"})
    with pytest.raises(InvalidArgument, match="set by the field hostname"):
        sysctl.check(linux)


def test_a_joined_host_network_is_refused() -> None:
    entry = Namespace(type="network", path="/proc/self/ns/net")
    linux = Linux(namespaces=(entry,), sysctl={"net.core.somaxconn": "1"})
    with pytest.raises(InvalidArgument, match="would be the machine's"):
        sysctl.validate(linux)


@pytest.mark.root
@pytest.mark.v2
def test_they_are_set_in_the_container_only(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    files = ("/proc/sys/kernel/msgmax", "/proc/sys/net/ipv4/ip_default_ttl")
    before = [Path(file).read_text() for file in files]
    seen = within(
        spec(
            root,
            *USUAL,
            sysctl={"kernel.msgmax": "4321", "net/ipv4/ip_default_ttl": "33"},
            readonly_paths=("/proc/sys",),
        ),
        lambda: [Path(file).read_text() for file in files],
    )
    assert seen == ["4321\n", "33\n"]
    assert [Path(file).read_text() for file in files] == before


@pytest.mark.root
def test_what_this_kernel_lacks_or_refuses_is_named(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    with pytest.raises(InvalidArgument, match=r"no parameter net\.no\.such"):
        within(spec(root, *USUAL, sysctl={"net.no.such": "1"}), lambda: None)
    with pytest.raises(SampanError, match="ip_forward"):
        within(spec(root, *USUAL, sysctl={"net.ipv4.ip_forward": "many"}), lambda: None)


@pytest.mark.root
def test_a_fake_proc_in_the_image_gets_nothing(tmp_path: Path) -> None:
    """CVE-2019-19921: without a mount on /proc the image's own files are there."""
    root = make_root(tmp_path / "root")
    fake = root / "proc/sys/kernel"
    fake.mkdir(parents=True)
    (fake / "msgmax").write_text("untouched")
    within(spec(root, sysctl={"kernel.msgmax": "4321"}), lambda: None)
    assert (fake / "msgmax").read_text() == "untouched"
