"""What the archive tests share: layers built by Python's tarfile, and trees as values."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sampan.storage.archive.apply import Applied, Limits, WhiteoutStyle, apply_layer

Item = tuple[tarfile.TarInfo, bytes]


def item(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, **fields: Any) -> Item:
    """A member for ``layer``; ``fields`` are TarInfo's own."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = len(data)
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    info.mtime = 1_600_000_000
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def folder(name: str, **fields: Any) -> Item:
    return item(name, kind=tarfile.DIRTYPE, **fields)


def symlink(name: str, target: str) -> Item:
    return item(name, kind=tarfile.SYMTYPE, linkname=target)


def hardlink(name: str, target: str) -> Item:
    return item(name, kind=tarfile.LNKTYPE, linkname=target)


def layer(*items: Item, format: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar archive of these members, in this order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for info, data in items:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def unpack(
    data: bytes,
    directory: Path,
    style: WhiteoutStyle = "direct",
    lower: tuple[Path, ...] = (),
    limits: Limits | None = None,
    **options: Any,
) -> Applied:
    """Apply a layer to a directory, made if it is missing."""
    directory.mkdir(exist_ok=True)
    descriptors = [os.open(path, os.O_PATH | os.O_DIRECTORY) for path in (directory, *lower)]
    try:
        return apply_layer(
            io.BytesIO(data),
            descriptors[0],
            style=style,
            lower=descriptors[1:],
            limits=limits,
            **options,
        )
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def tree(root: Path, *, directory_times: bool = True) -> dict[bytes, tuple[object, ...]]:
    """All that is below a directory and all that matters of it, hard links by their first name."""
    found: dict[bytes, tuple[object, ...]] = {}
    first: dict[int, bytes] = {}
    base = os.fsencode(root)
    for where, folders, files in os.walk(base):
        folders.sort()
        for name in sorted(folders + files):
            path = os.path.join(where, name)
            relative = os.path.relpath(path, base)
            status = os.lstat(path)
            kind = stat.S_IFMT(status.st_mode)
            content: object = None
            if kind == stat.S_IFREG:
                content = Path(os.fsdecode(path)).read_bytes()
            elif kind == stat.S_IFLNK:
                content = os.readlink(path)
            elif kind in (stat.S_IFCHR, stat.S_IFBLK):
                content = status.st_rdev
            xattrs = tuple(
                (attribute, os.getxattr(path, attribute, follow_symlinks=False))
                for attribute in sorted(os.listxattr(path, follow_symlinks=False))
            )
            link = b""
            if kind != stat.S_IFDIR and status.st_nlink > 1:
                link = first.setdefault(status.st_ino, relative)
            timed = kind != stat.S_IFDIR or directory_times
            found[relative] = (
                status.st_mode,
                status.st_uid,
                status.st_gid,
                status.st_mtime_ns if timed else 0,
                content,
                xattrs,
                link,
            )
    return found


def names(root: Path) -> set[str]:
    return {os.fsdecode(path) for path in tree(root)}


def descriptor_of(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY)


def in_child(work: Callable[[], None]) -> None:
    """Run ``work`` in a forked child with a mount namespace of its own; fail if it fails."""
    from sampan.kernel import mounts, namespaces

    child = os.fork()
    if child == 0:
        status = 1
        try:
            namespaces.unshare(namespaces.CLONE_NEWNS)
            mounts.mount("none", "/", "", mounts.MS_REC | mounts.MS_PRIVATE)
            work()
            status = 0
        except BaseException:  # noqa: BLE001 - printed, and the parent fails
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert status == 0, "the child failed: see its output"
