"""Filling an empty volume with what an image has where the volume is mounted.

Whole or not at all, though the volume may be in use by a container that sees its directory: the
copy is made beside it, and its entries are moved in one by one when all of it is there.

    .filling            the copy is under way; died here: it is thrown away
    .filled             it is whole; died here: the moves go on (``recover``)

A volume whose directory is a mount point (it has options) is filled in place: there is no
"beside", and what a rename cannot do a journal could not either.
"""

from __future__ import annotations

import os
import stat
from errno import EEXIST, ENODATA, ENOENT, ENOTSUP
from typing import TYPE_CHECKING

from sampan.errors import KernelError
from sampan.kernel.paths import rename_new
from sampan.runtime import copyup
from sampan.storage.failures import explain

if TYPE_CHECKING:
    from sampan.storage.drivers.removal import Trash

__all__ = ["fill", "fill_in_place", "recover"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DATA, _FILLING, _FILLED = "_data", ".filling", ".filled"


def fill(place: str, source: int, trash: Trash) -> None:
    """Fill ``place/_data``, if it is empty, from the directory ``source`` (readable).

    SampanError for a full disk, KernelError.
    """
    outer = os.open(place, _DIRECTORY)
    try:
        if os.listdir(f"{place}/{_DATA}"):
            return
        trash.put(outer, _FILLING)
        os.mkdir(_FILLING, 0o755, dir_fd=outer)
        copy = os.open(_FILLING, _DIRECTORY, dir_fd=outer)
        try:
            _copy(source, copy)
        except BaseException:
            trash.put(outer, _FILLING)
            raise
        finally:
            os.close(copy)
        os.rename(_FILLING, _FILLED, src_dir_fd=outer, dst_dir_fd=outer)
        _move(outer, trash)
    finally:
        os.close(outer)


def fill_in_place(path: str, source: int) -> None:
    """The same for the directory ``path``, without the promise to be whole."""
    target = os.open(path, _DIRECTORY)
    try:
        if not os.listdir(target):
            _copy(source, target)
    finally:
        os.close(target)


def recover(place: str, trash: Trash) -> None:
    """Undo or finish what was under way when a process died."""
    try:
        outer = os.open(place, _DIRECTORY)
    except FileNotFoundError:
        return
    try:
        trash.put(outer, _FILLING)
        _move(outer, trash)
    finally:
        os.close(outer)


def _copy(source: int, target: int) -> None:
    try:
        copyup.copy_tree(source, target)
    except OSError as error:
        call = error.call if isinstance(error, KernelError) else "copy"
        raise explain(error, call, str(error.filename or ""), "while filling a volume") from error


def _move(outer: int, trash: Trash) -> None:
    """Move what is in ``.filled`` into ``_data``, and make that the copied directory's like."""
    try:
        filled = os.open(_FILLED, _DIRECTORY, dir_fd=outer)
    except OSError as error:
        if error.errno == ENOENT:
            return
        raise
    try:
        data = os.open(_DATA, _DIRECTORY, dir_fd=outer)
        try:
            status = os.fstat(filled)
            for name in os.listdir(filled):
                try:
                    rename_new(filled, name, data, name)
                except KernelError as error:
                    # What a container wrote meanwhile is the volume's; the image's gives way.
                    if error.errno != EEXIST:
                        raise
            os.fchown(data, status.st_uid, status.st_gid)
            os.fchmod(data, stat.S_IMODE(status.st_mode))
            for attribute in os.listxattr(filled):
                try:
                    os.setxattr(data, attribute, os.getxattr(filled, attribute))
                except OSError as error:
                    if error.errno not in (ENOTSUP, ENODATA):
                        raise
            os.utime(data, ns=(status.st_atime_ns, status.st_mtime_ns))
        finally:
            os.close(data)
    finally:
        os.close(filled)
    trash.put(outer, _FILLED)
