"""The host image: this machine, copy-on-write, without its secrets."""

from __future__ import annotations

import io
import os
import socket
import stat
import threading
from typing import TYPE_CHECKING

import pytest

from sampan.errors import Conflict, InvalidArgument, NotSupported
from sampan.image.host import HostImage, Machine, is_host, secret_name
from sampan.image.store import ImageStore
from sampan.oci import reference as references
from tests.storage.drivers.layers import within

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.root

KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A small machine with everything in it that must not come out."""
    root = tmp_path / "machine"
    files = {
        "etc/passwd": "root:x:0:0::/root:/bin/sh\n",
        "etc/group": "root:x:0:\n",
        "etc/os-release": "ID=test\n",
        "etc/resolv.conf": "nameserver 192.0.2.1\n",
        "etc/shadow": "root:$6$secret:1::::::\n",
        "etc/shadow-": "root:$6$secret:1::::::\n",
        "etc/gshadow": "secret",
        "etc/passwd-": "secret",
        "etc/machine-id": "secret",
        "etc/sudoers": "secret",
        "etc/sudoers.d/all": "secret",
        "etc/ssh/ssh_config": "Host *\n",
        "etc/ssh/ssh_host_rsa_key": KEY,
        "etc/ssl/certs/ca.pem": "-----BEGIN CERTIFICATE-----\n",
        "etc/ssl/private/server.pem": "secret",
        "etc/ssl/server.key": "secret",
        "etc/odd/name.txt": f"an example\n{KEY}",
        "etc/apt/sources.list": "deb http://deb.test/ stable main\n",
        "etc/apt/auth.conf": "secret",
        "etc/apt/auth.conf.d/one.conf": "secret",
        "etc/apt/sources.list.d/private.list": "deb https://me:secret@deb.test/ stable main\n",
        "etc/NetworkManager/system-connections/home": "psk=secret",
        "etc/wpa_supplicant/wpa_supplicant.conf": "psk=secret",
        "etc/docker/daemon.json": "secret",
        "etc/kubernetes/admin.conf": "secret",
        "etc/opt/.netrc": "secret",
        "root/.ssh/id_rsa": KEY,
        "home/me/file": "secret",
        "srv/data": "secret",
        "extra/file": "secret",
        "var/lib/dpkg/status": "Package: test\n",
        "var/lib/other/state": "secret",
        "usr/bin/tool": "tool",
        "usr/bin/bash": "",
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o644)
    (root / "etc/only-root").write_text("secret")
    (root / "etc/only-root").chmod(0o640)
    (root / "etc/closed").mkdir()
    (root / "etc/closed/file").write_text("secret")
    (root / "etc/closed").chmod(0o750)
    (root / "etc/link").symlink_to("/usr/lib/os-release")
    os.mkfifo(root / "etc/pipe", 0o666)
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(root / "etc/socket"))
    os.mknod(root / "etc/device", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (root / "bin").symlink_to("usr/bin")
    (root / "lib64").mkdir()
    return root


def test_nothing_secret_is_in_the_skeleton(machine: Path) -> None:
    entries = {entry.path: entry for entry in Machine(str(machine)).entries()}
    files = {path for path, entry in entries.items() if stat.S_ISREG(entry.mode)}
    assert files == {
        "etc/passwd",
        "etc/group",
        "etc/os-release",
        "etc/ssh/ssh_config",
        "etc/ssl/certs/ca.pem",
        "etc/apt/sources.list",
        "etc/hostname",
        "etc/hosts",
        "etc/resolv.conf",
    }
    assert entries["etc/resolv.conf"].content == b""
    for entry in entries.values():
        assert b"secret" not in entry.content
        assert b"PRIVATE KEY" not in entry.content
        assert stat.S_IFMT(entry.mode) in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)
    tops = {path.split("/")[0] for path in entries}
    assert "extra" not in tops
    assert not [path for path in entries if path.startswith(("root/", "home/", "srv/"))]
    assert "var/lib/other" not in entries
    assert entries["bin"].content == b"usr/bin"
    assert entries["tmp"].mode & 0o7777 == 0o1777
    assert entries["root"].mode & 0o7777 == 0o700


def test_system_directories_are_those_that_are_no_links(machine: Path) -> None:
    assert Machine(str(machine)).system() == ("/usr", "/lib64", "/var/lib/dpkg")


@pytest.mark.parametrize(
    ("path", "secret"),
    [
        ("shadow", True),
        ("shadow.bak", True),
        ("ssh/ssh_host_ed25519_key", True),
        ("ssh/ssh_host_ed25519_key.pub", True),
        ("ssh/sshd_config", False),
        ("pki/tls/private/x", True),
        ("pki/tls/certs/x", False),
        ("some/where/.netrc", True),
        ("ssl/private/a/b", True),
        ("ppp/chap-secrets", True),
        ("pppoe", False),
        ("default/docker-not", False),
        ("x/docker/config.json", True),
        ("group", False),
        ("java/security/cacerts.jks", True),
    ],
)
def test_names_of_secrets_are_known(path: str, secret: bool) -> None:
    assert secret_name(path) is secret


def test_the_image_is_the_same_until_the_machine_changes(store: ImageStore, machine: Path) -> None:
    host = HostImage(store.driver, store.layers, Machine(str(machine)))
    first = host.image()
    assert host.image() is first
    again = HostImage(store.driver, store.layers, Machine(str(machine))).image()
    assert (again.id, again.chain) == (first.id, first.chain)
    (machine / "etc/passwd").write_text("root:x:0:0::/root:/bin/bash\n")
    later = host.image()
    assert later.id != first.id
    assert later.chain != first.chain


def test_a_skeleton_goes_when_neither_machine_nor_container_has_it(
    store: ImageStore, machine: Path
) -> None:
    host = HostImage(store.driver, store.layers, Machine(str(machine)))
    first = host.image()
    store.driver.create_container("c", first.chain)
    (machine / "etc/group").write_text("root:x:0:\nnew:x:1:\n")
    second = host.image()
    assert store.driver.has_layer(first.chain[0])
    store.driver.remove_container("c")
    (machine / "etc/group").write_text("root:x:0:\n")
    os.utime(machine / "etc/group", (1, 1))
    host.image()
    assert not store.driver.has_layer(second.chain[0])
    assert store.layers.collect(adopted=True) == []


def test_a_container_of_this_machine_works_and_writes_nothing_to_it(
    store: ImageStore, tmp_path: Path
) -> None:
    image = store.resolve("host")
    store.driver.create_container("c", image.chain, image.system)
    marker = f"sampan-test-{os.getpid()}"
    script = f"""
    mount -t proc proc $ROOT/proc
    exec chroot $ROOT /bin/sh -ec '
      ls / | xargs
      test ! -e /etc/shadow; test ! -e /etc/machine-id
      test -z "$(ls -A /root /home /tmp)" || ls -A /root /home /tmp
      touch /usr/bin/{marker} /{marker} /etc/{marker}; rm /usr/bin/env; test ! -e /usr/bin/env
      if test -d /var/lib/dpkg; then dpkg-query -W -f "\\${{Status}}\\n" dpkg; fi'
    """
    shown = within(store.driver.mounts("c"), str(tmp_path / "root"), script).splitlines()
    assert set(shown[0].split()) >= {"bin", "etc", "usr", "tmp", "root", "proc"}
    allowed = {entry.path.split("/")[0] for entry in Machine().entries()}
    assert set(shown[0].split()) <= allowed
    if os.path.isdir("/var/lib/dpkg"):
        assert shown[-1] == "install ok installed"
    for path in (f"/usr/bin/{marker}", f"/{marker}", f"/etc/{marker}"):
        assert not os.path.exists(path)
    assert os.path.exists("/usr/bin/env")
    changed = {(c.kind, c.path.decode()) for c in store.driver.changes("c")}
    assert {("A", f"usr/bin/{marker}"), ("D", "usr/bin/env"), ("A", marker)} <= changed


def test_it_is_always_listed_and_has_its_name(store: ImageStore) -> None:
    (image,) = store.list()
    assert image.references == ("host:latest",)
    assert image.config.cmd in (("bash",), ("sh",))
    assert image.config.env[0].startswith("PATH=/usr/local/sbin:")
    for name in ("host", "host:latest", "docker.io/library/host", image.id, image.id[7:19]):
        assert store.resolve(name).id == image.id
    assert is_host(references.parse("host"))
    assert not is_host(references.parse("host:1"))
    assert not is_host(references.parse("registry.test/host"))


def test_it_cannot_be_renamed_saved_or_removed(store: ImageStore) -> None:
    with pytest.raises(NotSupported, match="cannot be tagged"):
        store.tag("host", "mine:1")
    with pytest.raises(InvalidArgument, match="reserved"):
        store.tag("whatever", "host")
    with pytest.raises(NotSupported, match="cannot be saved"):
        store.save(["host"], io.BytesIO())
    with pytest.raises(Conflict, match="cannot be removed"):
        store.remove("host", force=True, used_by=lambda _: ())


def test_vfs_says_that_it_cannot(tmp_path: Path) -> None:
    store = ImageStore(str(tmp_path / "data"), "vfs")
    try:
        image = store.resolve("host")
        with pytest.raises(NotSupported, match="the host image needs the overlay2"):
            store.driver.create_container("c", image.chain, image.system)
        assert store.driver.containers() == {}
    finally:
        store.close()


def test_it_comes_back_after_its_skeleton_was_lost(data_root: str, tmp_path: Path) -> None:
    store = ImageStore(data_root)
    image = store.resolve("host")
    store.driver.create_container("c", image.chain, image.system)
    # As if the machine had lost power before the skeleton was durable.
    store.layers.close()
    store.database.execute("UPDATE layers SET boot_id = 'another boot'")
    store.close()
    store = ImageStore(data_root)
    try:
        assert store.driver.has_layer(image.chain[0])
        shown = within(store.driver.mounts("c"), str(tmp_path / "root"), "ls $ROOT/etc/passwd")
        assert shown.endswith("/etc/passwd\n")
    finally:
        store.close()


def test_files_that_come_and_go_are_no_error(machine: Path) -> None:
    """As in an upgrade of packages, or when a user is added."""
    place, over = machine / "etc/group+", threading.Event()

    def install() -> None:
        while not over.is_set():
            place.write_text("root:x:0:\n")
            place.unlink()
            place.mkdir()
            (place / "file").write_text("x")
            (place / "file").unlink()
            place.rmdir()
            os.mkfifo(place)
            place.unlink()
            place.symlink_to("group")
            place.unlink()

    changes = threading.Thread(target=install)
    changes.start()
    try:
        for _ in range(300):
            names = [entry.path for entry in Machine(str(machine)).entries()]
            assert "etc/group" in names
    finally:
        over.set()
        changes.join()
