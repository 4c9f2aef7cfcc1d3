"""A container's device files: the default ones, ``linux.devices``, /dev's links, the terminal.

After the runtime specification ("Default Devices", "Devices") and mknod(2). Nodes are made by name
in a directory held by descriptor, so a symbolic link in the image leads nowhere
(CVE-2025-52565); a file that is already there must be the very device, or it is an error. In a user
namespace mknod(2) is not allowed, so the host's own node is bound, once it proved to be the one.
"""

from __future__ import annotations

import os
import stat
from errno import EEXIST, ENOENT, EPERM
from typing import TYPE_CHECKING

from sampan.errors import Conflict, InvalidArgument, KernelError, NotFound
from sampan.kernel import mounts as km
from sampan.kernel import paths
from sampan.oci.runtime import Device

if TYPE_CHECKING:
    from sampan.oci.runtime import Linux

__all__ = ["DEFAULT", "bind_console", "is_null", "make_all", "make_link", "make_links", "planned"]

_KINDS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}
_DEFAULT_MODE = 0o666

DEFAULT: tuple[Device, ...] = tuple(
    Device(type="c", path=f"/dev/{name}", major=major, minor=minor)
    for name, major, minor in (
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
    )
)

_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
)

_NULL = os.makedev(1, 3)
_PTMX = os.makedev(5, 2)
_UNIX98_MAJORS = range(136, 144)


def planned(linux: Linux) -> list[Device]:
    """The default devices and the configuration's, which win; ``InvalidArgument`` for a bad one."""
    chosen = {device.path: device for device in DEFAULT}
    for device in linux.devices:
        where = f"linux.devices: {device.path}"
        if device.type not in _KINDS:
            raise InvalidArgument(f"{where}: type {device.type!r} is none of c, b, u, p")
        path = os.path.normpath(device.path)
        if not path.startswith("/") or path == "/":
            raise InvalidArgument(f"{where}: the path must be absolute")
        if device.type != "p" and (device.major is None or device.minor is None):
            raise InvalidArgument(f"{where}: a device needs major and minor")
        chosen[path] = device if path == device.path else device.replace(path=path)
    # What /dev/ptmx is, is not free to choose: the link into the container's own devpts.
    chosen.pop("/dev/ptmx", None)
    return list(chosen.values())


def make_all(root: int, devices: list[Device], bind: bool) -> None:
    """Make ``devices`` below ``root``; ``bind``: by binding the host's. The umask must be 0."""
    directory, opened = "", -1
    try:
        for device in devices:
            parent, _, name = device.path.rpartition("/")
            if opened < 0 or parent != directory:
                if opened >= 0:
                    os.close(opened)
                    opened = -1
                opened = paths.make_directory_in_root(root, parent or "/", 0o755)
                directory = parent
            if not bind or device.type == "p":
                try:
                    _make(opened, name, device)
                    continue
                except OSError as error:
                    if error.errno != EPERM:
                        raise KernelError("mknod", error.errno or 0, device.path) from None
            if device.type == "p":
                raise KernelError("mknod", EPERM, device.path)
            _bind(opened, name, device)
    finally:
        if opened >= 0:
            os.close(opened)


def make_links(root: int) -> None:
    """/dev/fd, stdin, stdout, stderr, core and ptmx, as far as the image has not got them."""
    dev = paths.make_directory_in_root(root, "/dev", 0o755)
    try:
        for name, target in _LINKS:
            _symlink(target, name, dev)
        if os.path.lexists("/proc/kcore"):
            _symlink("/proc/kcore", "core", dev)
        if not _symlink("pts/ptmx", "ptmx", dev):
            _replace_ptmx(dev)
    finally:
        os.close(dev)


def make_link(root: int, path: str, target: str) -> None:
    """A symbolic link that the image has not got, nor anything else in its place."""
    directory, _, name = path.rpartition("/")
    parent = paths.make_directory_in_root(root, directory or "/", 0o755)
    try:
        _symlink(target, name, parent)
    finally:
        os.close(parent)


def bind_console(root: int, slave_fd: int) -> None:
    """Put the terminal ``slave_fd`` (of the container's own devpts) on /dev/console."""
    status = os.fstat(slave_fd)
    if not stat.S_ISCHR(status.st_mode) or os.major(status.st_rdev) not in _UNIX98_MAJORS:
        raise InvalidArgument("/dev/console: what should be bound there is not a pseudoterminal")
    dev = paths.make_directory_in_root(root, "/dev", 0o755)
    try:
        target = _plain_file(dev, "console")
        try:
            clone = km.clone_tree(slave_fd, recursive=False)
            try:
                km.attach(clone, target)
            finally:
                os.close(clone)
        finally:
            os.close(target)
    finally:
        os.close(dev)


def is_null(fd: int) -> bool:
    """Whether ``fd`` (may be O_PATH) is the null device."""
    status = os.fstat(fd)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == _NULL


def _number(device: Device) -> int:
    return 0 if device.type == "p" else os.makedev(device.major or 0, device.minor or 0)


def _make(dev: int, name: str, device: Device) -> None:
    kind = _KINDS[device.type]
    mode = _DEFAULT_MODE if device.file_mode is None else stat.S_IMODE(device.file_mode)
    try:
        os.mknod(name, kind | mode, _number(device), dir_fd=dev)
    except OSError as error:
        if error.errno != EEXIST:
            raise
        _must_be(dev, name, device)
        if device in DEFAULT:
            return  # an image's own node keeps its mode
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dev)
        try:
            os.chmod(f"/proc/self/fd/{fd}", mode)
        finally:
            os.close(fd)
    if device.uid or device.gid:
        os.chown(name, device.uid or 0, device.gid or 0, dir_fd=dev, follow_symlinks=False)


def _must_be(dev: int, name: str, device: Device) -> None:
    status = os.stat(name, dir_fd=dev, follow_symlinks=False)
    same_kind = stat.S_IFMT(status.st_mode) == _KINDS[device.type]
    if not same_kind or (device.type != "p" and status.st_rdev != _number(device)):
        raise Conflict(
            f"device {device.path}: the root file system has something else there; "
            "remove it from the image, or the device from the configuration"
        )


def _bind(dev: int, name: str, device: Device) -> None:
    """Bind the host's node of the same path, verified to be that device."""
    try:
        source = os.open(device.path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == ENOENT:
            raise NotFound(f"device {device.path} does not exist on the host") from None
        raise KernelError("open", error.errno or 0, device.path) from None
    try:
        status = os.fstat(source)
        same_kind = stat.S_IFMT(status.st_mode) == _KINDS[device.type]
        if not same_kind or status.st_rdev != _number(device):
            raise Conflict(
                f"device {device.path}: cannot be made here, and the host has another device there"
            )
        clone = km.clone_tree(source, recursive=False)
        try:
            target = _plain_file(dev, name)
            try:
                km.attach(clone, target)
            finally:
                os.close(target)
        finally:
            os.close(clone)
    finally:
        os.close(source)


def _plain_file(dev: int, name: str) -> int:
    """An O_PATH descriptor of the file or device ``name``, made if missing; never of a link."""
    try:
        os.mknod(name, stat.S_IFREG | 0o600, dir_fd=dev)
    except OSError as error:
        if error.errno != EEXIST:
            raise KernelError("mknod", error.errno or 0, name) from None
    try:
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dev)
    except OSError as error:
        raise KernelError("open", error.errno or 0, name) from None
    if not stat.S_ISREG(os.fstat(fd).st_mode) and not stat.S_ISCHR(os.fstat(fd).st_mode):
        os.close(fd)
        raise Conflict(f"/dev/{name}: the root file system has a link or directory there")
    return fd


def _symlink(target: str, name: str, dev: int) -> bool:
    try:
        os.symlink(target, name, dir_fd=dev)
    except OSError as error:
        if error.errno == EEXIST:
            return False
        raise KernelError("symlink", error.errno or 0, f"/dev/{name}") from None
    return True


def _replace_ptmx(dev: int) -> None:
    """An image's own /dev/ptmx would open terminals of the host's devpts: make it the link."""
    try:
        status = os.stat("ptmx", dir_fd=dev, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode) and os.readlink("ptmx", dir_fd=dev) == "pts/ptmx":
            return
        if stat.S_ISDIR(status.st_mode):
            raise Conflict("/dev/ptmx: the root file system has a directory there")
        os.unlink("ptmx", dir_fd=dev)
        os.symlink("pts/ptmx", "ptmx", dir_fd=dev)
    except OSError as error:
        raise KernelError("symlink", error.errno or 0, "/dev/ptmx") from None
