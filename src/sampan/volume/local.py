"""The local driver's options: a volume whose content is a file system of somebody else.

``type``, ``device`` and ``o`` are mount(8)'s, handed to mount(2): a tmpfs, a directory of this
machine (``o=bind``), NFS, a block device. Without options a volume is a directory. Such a file
system is mounted on the volume's directory while a container uses it, once for all of them: two
containers with one tmpfs volume see one tmpfs.

For NFS and CIFS ``addr=`` may be a name: the kernel knows addresses only, and says nothing of a
name it was given.
"""

from __future__ import annotations

import ipaddress
import os
from errno import ENOENT, EXDEV
from typing import TYPE_CHECKING, NamedTuple

from sampan.errors import InvalidArgument, KernelError, NotSupported, Unavailable
from sampan.kernel import mounts as km
from sampan.kernel.resolve import O_PATH, RESOLVE_NO_XDEV, openat2
from sampan.kernel.syscalls import AT_FDCWD
from sampan.runtime.mount_options import parse

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Source", "is_mounted", "read_options", "unmount"]

# An option, and the ones it means nothing without.
_NEEDS = {"device": ("type",), "type": ("device",), "o": ("device", "type")}
_OPTIONS = (*_NEEDS, "size")
_NETWORK = ("nfs", "cifs")


class Source(NamedTuple):
    """What is mounted on a volume's directory."""

    fstype: str
    device: str
    words: tuple[str, ...]

    @property
    def is_bind(self) -> bool:
        return "bind" in self.words or "rbind" in self.words

    def mount(self, path: str) -> None:
        """Mount it. Raises KernelError, Unavailable (a name that cannot be resolved)."""
        options = parse(self._resolved(), "bind" if self.is_bind else self.fstype, path)
        if self.is_bind:
            recursive = km.AT_RECURSIVE if options.recursive else 0
            fd = km.open_tree(AT_FDCWD, self.device, km.OPEN_TREE_CLONE | recursive)
            try:
                km.mount_setattr(fd, "", km.AT_RECURSIVE, propagation=km.MS_PRIVATE)
                km.mount_setattr(fd, "", 0, options.set, options.clear)
                km.mount_setattr(
                    fd, "", km.AT_RECURSIVE, options.recursive_set, options.recursive_clear
                )
                km.move_mount(fd, "", AT_FDCWD, path)
            finally:
                os.close(fd)
        else:
            data = ",".join(options.data) or None
            km.mount(self.device, path, self.fstype, options.old_flags(), data)
        for kind, whole in options.propagation:
            km.mount(None, path, None, kind | (km.MS_REC if whole else 0))

    def _resolved(self) -> tuple[str, ...]:
        if self.fstype not in _NETWORK:
            return self.words
        return tuple(
            f"addr={_address(word[5:])}" if word.startswith("addr=") else word
            for word in self.words
        )


def _address(name: str) -> str:
    import socket

    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return str(socket.getaddrinfo(name, None)[0][4][0])
    except (OSError, UnicodeError) as error:
        raise Unavailable(
            f"error resolving passed in network volume address: {name}: {error}"
        ) from error


def read_options(options: Mapping[str, str]) -> Source | None:
    """What a volume of these options mounts; None for a plain directory.

    Raises InvalidArgument, NotSupported (``size``: quotas).
    """
    for name in options:
        if name not in _OPTIONS:
            raise InvalidArgument(f'invalid option: "{name}"')
    for name, needed in _NEEDS.items():
        for other in needed:
            if name in options and not options.get(other):
                raise InvalidArgument(f'missing required option: "{other}"')
    for name, value in options.items():
        if "\0" in value:
            raise InvalidArgument(f"option {name}: {value!r} contains a NUL character")
    if options.get("size"):
        raise NotSupported("quota size requested but no quota support")
    if not options.get("device"):
        return None
    words = tuple(word for word in options.get("o", "").split(",") if word)
    source = Source(options["type"], options["device"], words)
    if source.is_bind and not source.device.startswith("/"):
        raise InvalidArgument(f"device {source.device}: a bind needs an absolute path")
    given = parse(words, "bind" if source.is_bind else source.fstype, "volume")
    if given.remount or given.idmap or given.copyup:
        raise InvalidArgument(f"o={options['o']}: remount, idmap and tmpcopyup are not for volumes")
    if (given.recursive_set or given.recursive_clear) and not source.is_bind:
        raise InvalidArgument(f"o={options['o']}: recursive attributes are for binds")
    return source


def is_mounted(directory: int, name: str) -> bool:
    """Whether something is mounted on ``name``, if that is there; a bind of the same file system
    counts."""
    try:
        os.close(openat2(directory, name, O_PATH | os.O_NOFOLLOW, resolve=RESOLVE_NO_XDEV))
    except KernelError as error:
        if error.errno == ENOENT:
            return False
        if error.errno == EXDEV:
            return True
        raise
    return False


def unmount(path: str) -> None:
    """Take away what is mounted on a volume's directory; containers keep their own mounts of it."""
    km.umount(path, km.MNT_DETACH | km.UMOUNT_NOFOLLOW)
