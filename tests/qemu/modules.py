"""The lane's kernel modules, found by name with what they depend on, and an initramfs.

Debian's cloud kernel has its virtio drivers as modules, so the root disk needs an initramfs; the
distribution's own (14 MB, for any machine) would take most of the boot's time under emulation.
initramfs format: Documentation/driver-api/early-userspace/buffer-format.rst ("newc" cpio).
"""

from __future__ import annotations

import lzma
from pathlib import Path

BOOT = ("virtio_pci", "virtio_blk")
"""Needed to see the root disk."""

LATER = (
    "bfq",
    "8021q",
    "br_netfilter",
    "bridge",
    "dummy",
    "fuse",
    "ipvlan",
    "loop",
    "macvlan",
    "nf_nat",
    "nf_tables",
    "nft_chain_nat",
    "nft_masq",
    "overlay",
    "tun",
    "veth",
    "virtio_console",
)
"""What containers want; the kernel asks for them itself through /sbin/modprobe."""

_INIT = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in /modules/*.ko; do /bin/busybox insmod $module || /bin/busybox echo "no $module"; done
tries=0
until [ -b /dev/vda ] && [ -b /dev/vdb ]; do
    tries=$((tries + 1))
    [ $tries -gt 100 ] && exec /bin/busybox echo "the lane's disks did not appear"
    /bin/busybox sleep 0.1
done
/bin/busybox mount -t ext4 -o noatime /dev/vda /root
/bin/busybox mount -t ext4 -o noatime /dev/vdb /root/sampan
/bin/busybox umount /dev
exec /bin/busybox switch_root /root /sampan/.lane/init
"""


class Modules:
    """The modules of one kernel release."""

    def __init__(self, release: str) -> None:
        self.directory = Path("/lib/modules") / release
        self._needs: dict[str, list[str]] = {}
        self._path: dict[str, str] = {}
        for line in (self.directory / "modules.dep").read_text().splitlines():
            path, _, needs = line.partition(":")
            self._needs[path] = needs.split()
            self._path[_name(path)] = path

    def closure(self, names: tuple[str, ...]) -> list[Path]:
        """Files of these modules and of all they need, each after what it needs.

        A name that is built into this kernel, or unknown to it, has no file and is left out.
        """
        order: list[str] = []

        def visit(path: str) -> None:
            for need in self._needs[path]:
                visit(need)
            if path not in order:
                order.append(path)

        for name in names:
            if name in self._path:
                visit(self._path[name])
        return [self.directory / path for path in order]


def _name(path: str) -> str:
    return Path(path).name.partition(".ko")[0].replace("-", "_")


def read_module(path: Path) -> bytes:
    """A module, unpacked: Debian 13 keeps them as .ko.xz."""
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data


def initramfs(modules: Modules, busybox: Path) -> bytes:
    """The cpio archive: busybox, the boot modules in loading order, a script that hands over."""
    entries: list[tuple[str, int, bytes]] = [
        (name, 0o040755, b"") for name in ("bin", "dev", "modules", "root")
    ]
    entries.append(("bin/busybox", 0o100755, busybox.read_bytes()))
    for number, path in enumerate(modules.closure(BOOT)):
        entries.append((f"modules/{number:02}-{_name(path.name)}.ko", 0o100644, read_module(path)))
    entries.append(("init", 0o100755, _INIT.encode()))
    archive = bytearray()
    for inode, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], start=1):
        fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        archive += b"070701" + "".join(f"{field:08X}" for field in fields).encode()
        archive += name.encode() + b"\0"
        archive += bytes(-len(archive) % 4)
        archive += data
        archive += bytes(-len(archive) % 4)
    return bytes(archive)
