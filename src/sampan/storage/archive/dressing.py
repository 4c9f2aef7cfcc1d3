"""Owner, mode, attributes and times of what is unpacked: by descriptor, or by name unfollowed."""

from __future__ import annotations

import os
import stat
from errno import ENOTSUP, EPERM
from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument
from sampan.kernel.paths import O_PATH
from sampan.storage.archive.headers import printable
from sampan.storage.archive.tree import OVERLAY_ATTRIBUTES

if TYPE_CHECKING:
    from sampan.storage.archive.headers import Member

__all__ = ["Dresser", "member_times"]

_MAX_WARNINGS = 100


class Dresser:
    """``warnings``: what could not be had on this file system, one sentence each. ``overlay``:
    unpacking is into a layer's own directory, where nothing was before."""

    def __init__(self, overlay: bool) -> None:
        self._overlay = overlay
        self.warnings: list[str] = []
        self.call = "open"
        """The system call that was tried last, for the error's sake."""

    def _dress(self, descriptor: int, member: Member, *, existed: bool = False) -> None:
        """Owner, mode and attributes, by descriptor: chown(2) takes set-user-ID bits and file
        capabilities away, so they come after it. Only what differs costs a call."""
        status = os.fstat(descriptor)
        mode = status.st_mode
        if status.st_uid != member.uid or status.st_gid != member.gid:
            self.call = "fchown"
            os.fchown(descriptor, member.uid, member.gid)
            mode = -1
        if mode & 0o7777 != member.mode or mode < 0:
            self.call = "fchmod"
            os.fchmod(descriptor, member.mode)
        if existed and not self._overlay:
            self.call = "flistxattr"
            for attribute in os.listxattr(descriptor):
                name = os.fsencode(attribute)
                if name not in member.xattrs and name.startswith((b"user.", b"trusted.")):
                    self.call = "fremovexattr"
                    os.removexattr(descriptor, attribute)
        if member.xattrs:
            self._set_attributes(descriptor, member)

    def _dress_by_name(self, directory: int, base: bytes, member: Member) -> None:
        """The same for what cannot be opened: links, devices, FIFOs; never followed."""
        status = os.stat(base, dir_fd=directory, follow_symlinks=False)
        changed = status.st_uid != member.uid or status.st_gid != member.gid
        if changed:
            self.call = "fchownat"
            os.chown(base, member.uid, member.gid, dir_fd=directory, follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode) and (
            changed or stat.S_IMODE(status.st_mode) != member.mode
        ):
            self.call = "fchmodat"
            _change_mode(directory, base, member.mode)
        if member.xattrs:
            # lsetxattr(2) knows no directory descriptor: this link of proc is ours and leads there.
            self._set_attributes(b"/proc/self/fd/%d/%s" % (directory, base), member)
        self.call = "utimensat"
        os.utime(base, ns=member_times(member), dir_fd=directory, follow_symlinks=False)

    def _set_attributes(self, where: int | bytes, member: Member) -> None:
        self.call = "setxattr"
        for attribute, value in member.xattrs.items():
            if attribute.startswith(OVERLAY_ATTRIBUTES):
                self._warn(member, attribute, "is overlayfs's own and was left out")
                continue
            if not attribute or b"\0" in attribute:
                raise InvalidArgument(
                    f"{printable(member.name)}: extended attribute {printable(attribute)}"
                )
            try:
                if isinstance(where, int):
                    os.setxattr(where, attribute, value)
                else:
                    os.setxattr(where, attribute, value, follow_symlinks=False)
            except OSError as error:
                # user.* is for files and directories only; EPERM says so for all others.
                unfit = error.errno == EPERM and attribute.startswith(b"user.")
                if error.errno != ENOTSUP and not unfit:
                    raise
                self._warn(member, attribute, "cannot be kept by this file system")

    def _warn(self, member: Member, attribute: bytes, why: str) -> None:
        if len(self.warnings) < _MAX_WARNINGS:
            self.warnings.append(
                f"{printable(member.name)}: extended attribute {printable(attribute)} {why}"
            )


def member_times(member: Member) -> tuple[int, int]:
    return (member.mtime if member.atime is None else member.atime), member.mtime


def _change_mode(directory: int, base: bytes, mode: int) -> None:
    """fchmodat(2) follows a link, which somebody may have put there: by descriptor it cannot."""
    descriptor = os.open(base, O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.chmod(f"/proc/self/fd/{descriptor}", mode)
    finally:
        os.close(descriptor)
