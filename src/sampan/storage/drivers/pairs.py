"""What an overlay writes to: a pair of directories, and the mount that lays them over others.

Documentation/filesystems/overlayfs.rst in the kernel's tree; why these options, ``overlaid`` says.
"""

from __future__ import annotations

import os
import stat

from sampan.oci.runtime import Mount

__all__ = [
    "OPTIONS",
    "copy_root_attributes",
    "forget_volatile",
    "make_empty",
    "make_pair",
    "overlay",
]

OPTIONS = ("index=off", "redirect_dir=off", "metacopy=off")


def overlay(
    destination: str, lower: str, writable: str, suffix: str, more: tuple[str, ...]
) -> Mount:
    """The pair with this suffix in the directory ``writable``, over ``lower``."""
    return Mount(
        destination=destination,
        type="overlay",
        source="overlay",
        options=(
            f"lowerdir={lower}",
            f"upperdir={writable}/upper{suffix}",
            f"workdir={writable}/work{suffix}",
            *OPTIONS,
            *more,
        ),
    )


def forget_volatile(work: str) -> None:
    """Let a pair be mounted once more that was mounted ``volatile``: the machine is still up."""
    mark = f"{work}/work/incompat/volatile"
    try:
        os.unlink(f"{mark}/dirty")
    except FileNotFoundError:
        return  # It was never mounted.
    os.rmdir(mark)


def make_pair(fd: int, suffix: str, below: os.stat_result) -> None:
    """Make ``upper`` and ``work`` in a directory; ``below`` is what the upper one will hide."""
    os.mkdir(f"upper{suffix}", 0o755, dir_fd=fd)
    os.mkdir(f"work{suffix}", 0o700, dir_fd=fd)
    copy_root_attributes(below, f"upper{suffix}", fd)


def make_empty(path: str, dir_fd: int) -> None:
    """An empty file, executable by all as Docker's are, in a directory nobody else writes to."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    os.close(os.open(path, flags, 0o755, dir_fd=dir_fd))


def copy_root_attributes(below: os.stat_result, name: str, dir_fd: int) -> None:
    """Give an upper directory the owner and mode of what it will hide.

    The root of an overlay shows its upper directory's attributes, not the lower one's.
    """
    if below.st_uid or below.st_gid:
        os.chown(name, below.st_uid, below.st_gid, dir_fd=dir_fd)
    # After chown(2), which may clear set-ID bits.
    os.chmod(name, stat.S_IMODE(below.st_mode), dir_fd=dir_fd)
