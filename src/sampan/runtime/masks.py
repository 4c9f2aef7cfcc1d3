"""Hiding and freezing parts of /proc and /sys: ``maskedPaths`` and ``readonlyPaths``.

After the runtime specification. A masked file gets the null device on top, a directory an empty
read-only tmpfs. The null device is held by descriptor and proved to be the character device 1:3
before and after: an image that has a symbolic link at /dev/null, or swaps it while we work, would
otherwise choose what is mounted there (CVE-2025-31133). What does not exist needs no mask.
"""

from __future__ import annotations

import os
import stat
from errno import EACCES, ENOENT, ENOTDIR

from sampan.errors import Conflict, KernelError
from sampan.kernel import mounts as km
from sampan.kernel import paths
from sampan.runtime import devices

__all__ = ["mask_all", "null_device", "readonly_all", "seal"]


def null_device(root: int) -> int:
    """An O_PATH descriptor of the null device of the root, verified; ``Conflict`` without one."""
    try:
        fd = paths.open_in_root(root, "/dev/null", os.O_PATH | os.O_NOFOLLOW)
    except KernelError as error:
        if error.errno not in (ENOENT, ENOTDIR):
            raise
        raise Conflict("maskedPaths: there is no /dev/null to hide files behind") from None
    if not devices.is_null(fd):
        os.close(fd)
        raise Conflict("maskedPaths: /dev/null of the root file system is not the null device")
    return fd


def readonly_all(root: int, names: tuple[str, ...]) -> None:
    """Bind each path on itself, read-only, with what is mounted below; other flags stay."""
    for name in names:
        target = _open(root, name)
        if target < 0:
            continue
        try:
            clone = km.clone_tree(target, recursive=True)
            try:
                km.mount_setattr(clone, "", 0, km.MOUNT_ATTR_RDONLY)
                km.attach(clone, target)
            finally:
                os.close(clone)
        finally:
            os.close(target)


def mask_all(root: int, names: tuple[str, ...]) -> None:
    """Hide each path; ``Conflict`` if what is there afterwards is not the mask."""
    if not names:
        return
    null = empty = -1
    try:
        for name in names:
            target = _open(root, name)
            if target < 0:
                continue
            try:
                if stat.S_ISDIR(os.fstat(target).st_mode):
                    if empty < 0:
                        mask = empty = _empty_directory()
                    else:
                        mask = km.clone_tree(empty, recursive=False)
                else:
                    if null < 0:
                        null = null_device(root)
                    mask = km.clone_tree(null, recursive=False)
                try:
                    km.attach(mask, target)
                    _verify(root, name, mask)
                finally:
                    if mask != empty:
                        os.close(mask)
            finally:
                os.close(target)
    finally:
        for fd in (null, empty):
            if fd >= 0:
                os.close(fd)


def seal(root: int, names: tuple[str, ...]) -> None:
    """Make the mounts at these destinations read-only: what was to be filled first is."""
    for name in names:
        fd = paths.open_in_root(root, name, os.O_PATH)
        try:
            km.mount_setattr(fd, "", 0, km.MOUNT_ATTR_RDONLY)
        finally:
            os.close(fd)


def _open(root: int, name: str) -> int:
    """The path as O_PATH, or -1 if there is none (or nobody in the container could get there)."""
    try:
        return paths.open_in_root(root, name, os.O_PATH)
    except KernelError as error:
        if error.errno in (ENOENT, ENOTDIR, EACCES):
            return -1
        raise


def _empty_directory() -> int:
    """A detached empty tmpfs, read-only as a file system and as a mount."""
    context = km.fsopen("tmpfs")
    try:
        km.fsconfig_string(context, "source", "tmpfs")
        km.fsconfig_flag(context, "ro")
        km.fsconfig_string(context, "nr_inodes", "1")
        km.fsconfig_create(context)
        return km.fsmount(
            context,
            km.MOUNT_ATTR_RDONLY
            | km.MOUNT_ATTR_NOSUID
            | km.MOUNT_ATTR_NODEV
            | km.MOUNT_ATTR_NOEXEC,
        )
    finally:
        os.close(context)


def _verify(root: int, name: str, mask: int) -> None:
    fd = _open(root, name)
    if fd >= 0:
        try:
            seen, wanted = os.fstat(fd), os.fstat(mask)
            right = (seen.st_dev, seen.st_ino) == (wanted.st_dev, wanted.st_ino)
            if right and (stat.S_ISDIR(seen.st_mode) or devices.is_null(fd)):
                return
        finally:
            os.close(fd)
    raise Conflict(f"maskedPaths: {name} changed under the mask while it was put up")
