"""Who the user is: Docker's ``name|uid[:group|gid]`` looked up in passwd(5) and group(5) of a root.

The files belong to the image, so they are hostile: they are opened below the root by descriptor
(openat2(2), RESOLVE_IN_ROOT: CVE-2019-14271's class), must be regular files, and are read up to a
bound. A line of the wrong form is skipped, as the C library does. A number is always an ID, never
the name of a line: an image whose passwd calls a user "1000" and gives it uid 0 would else have the
user asked for run as root (CVE-2016-3697).
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument, KernelError
from sampan.kernel.paths import open_in_root

if TYPE_CHECKING:
    from collections.abc import Callable

    Opener = Callable[[int, str], int]

__all__ = ["Identity", "group_of", "home_of", "resolve"]

MAX_FILE = 4 << 20
"""The most that is read of a hostile passwd or group file, in bytes."""

MAX_ID = (1 << 32) - 2


class Identity:
    """Numeric user, group and supplementary groups; ``home`` is passwd's directory or None."""

    __slots__ = ("gid", "gids", "home", "uid")

    def __init__(self, uid: int, gid: int, gids: tuple[int, ...], home: str | None) -> None:
        self.uid = uid
        self.gid = gid
        self.gids = gids
        self.home = home


def resolve(root_fd: int, name: str, opener: Opener | None = None) -> Identity:
    """Resolve ``name|uid[:group|gid]`` below ``root_fd``.

    ``opener(root_fd, path)`` opens a file: for a caller whom the container's device rules do not
    hold, and whom opening a device in the file's place would hurt.

    A number that has no line is taken as it is (group 0, no home); a name that has none raises
    InvalidArgument. Supplementary groups are the group itself (without it a setgid program sheds
    its membership, and with it what a file denies that group: CVE-2022-36109) and those that list
    the user, unless a group was named.
    """
    user, _, group = name.partition(":")
    user = user or "0"
    number = _number(user)
    uid, gid, home, login = number, 0, None, user
    for fields in _lines(root_fd, "etc/passwd", 7, opener):
        line_uid, line_gid = _number(fields[2]), _number(fields[3])
        if line_uid is None or line_gid is None:
            continue
        if line_uid == number if number is not None else fields[0] == user:
            login, uid, gid, home = fields[0], line_uid, line_gid, fields[5] or None
            break
    if uid is None:
        raise InvalidArgument(f"unable to find user {user}: no matching entries in passwd file")
    if group:
        gid = group_of(root_fd, group, opener)
        return Identity(uid, gid, (gid,), home)
    gids = [gid]
    for fields in _lines(root_fd, "etc/group", 4, opener):
        line_gid = _number(fields[2])
        if line_gid is not None and login in fields[3].split(","):
            gids.append(line_gid)
    return Identity(uid, gid, tuple(dict.fromkeys(gids)), home)


def home_of(root_fd: int, uid: int) -> str | None:
    """The home directory of ``uid`` in the root's passwd file, or None."""
    try:
        rows = _lines(root_fd, "etc/passwd", 7)
    except InvalidArgument:
        return None  # unreadable (a user namespace that does not map its owner): no one named it
    for fields in rows:
        if _number(fields[2]) == uid:
            return fields[5] or None
    return None


def group_of(root_fd: int, group: str, opener: Opener | None = None) -> int:
    """The ID of a group, by its name or as a number. Raises InvalidArgument."""
    number = _number(group)
    if number is not None:
        return number
    for fields in _lines(root_fd, "etc/group", 4, opener):
        gid = _number(fields[2])
        if gid is not None and fields[0] == group:
            return gid
    raise InvalidArgument(f"unable to find group {group}: no matching entries in group file")


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdecimal() and len(text) <= 10):
        return None
    value = int(text)
    return value if value <= MAX_ID else None


def _open(root_fd: int, path: str) -> int:
    return open_in_root(root_fd, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)


def _lines(root_fd: int, path: str, columns: int, opener: Opener | None = None) -> list[list[str]]:
    try:
        descriptor = (opener or _open)(root_fd, path)
    except KernelError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return []
        raise InvalidArgument(f"the container's /{path}: {os.strerror(error.errno or 0)}") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InvalidArgument(f"the container's /{path} is not a regular file")
        data = bytearray()
        while chunk := os.read(descriptor, 65536):
            data += chunk
            if len(data) > MAX_FILE:
                raise InvalidArgument(f"the container's /{path} is larger than {MAX_FILE} bytes")
    finally:
        os.close(descriptor)
    rows = (os.fsdecode(line).split(":") for line in bytes(data).split(b"\n"))
    return [row for row in rows if len(row) >= columns and row[0]]
