"""Overlay mounts from a mount entry's options, however many layers there are.

After the kernel's Documentation/filesystems/overlayfs.rst, fsconfig(2) and mount(2). ``lowerdir=``
is one string, and fsconfig(2) takes 256 bytes at most; Linux 6.7 added ``lowerdir+``, one layer at
a time. Before that there is mount(2), whose whole data is cut at a page: there the paths are given
relative to their common directory.

Option values are in mount(8)'s syntax: in ``lowerdir`` a colon or backslash that belongs to a path
is escaped by a backslash.
"""

from __future__ import annotations

import os
from errno import EINVAL
from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument, KernelError
from sampan.kernel import mounts as km

if TYPE_CHECKING:
    from sampan.runtime.mount_options import MountOptions

__all__ = ["detached", "mount_old", "split_layers"]

_VALUE_LIMIT = 255
_PAGE = os.sysconf("SC_PAGE_SIZE")


def detached(options: MountOptions) -> int:
    """A detached overlay mount, or -1 where this kernel can only do it by ``mount_old``."""
    held: list[int] = []
    context = km.fsopen("overlay")
    try:
        km.fsconfig_string(context, "source", "overlay")
        for word in options.superblock:
            km.fsconfig_flag(context, word)
        if options.set & km.MOUNT_ATTR_RDONLY:
            km.fsconfig_flag(context, "ro")
        for word in options.data:
            key, equals, value = word.partition("=")
            if key == "lowerdir" and len(os.fsencode(value)) > _VALUE_LIMIT:
                if not _add_layers(context, split_layers(value), held):
                    return -1
            elif not equals:
                km.fsconfig_flag(context, key)
            elif key in ("upperdir", "workdir"):
                km.fsconfig_string(context, key, _short(value, held))
            else:
                km.fsconfig_string(context, key, value)
        km.fsconfig_create(context)
        return km.fsmount(context, options.set)
    finally:
        os.close(context)
        for fd in held:
            os.close(fd)


def mount_old(options: MountOptions, where: str, flags: int) -> None:
    """Mount on ``where`` (absolute) by mount(2). ``InvalidArgument``: more than a page of options.

    The working directory is changed while it lasts: for a process that is alone in it.
    """
    data = _data(options, "")
    if len(os.fsencode(data)) < _PAGE:
        km.mount("overlay", where, "overlay", flags, data)
        return
    values = dict(word.partition("=")[::2] for word in options.data)
    layers = split_layers(values.get("lowerdir", ""))
    common = os.path.commonpath(
        [*layers, *(values[key] for key in ("upperdir", "workdir") if key in values)]
    )
    data = _data(options, common)
    size = len(os.fsencode(data))
    if size >= _PAGE:
        raise InvalidArgument(
            f"overlay of {len(layers)} layers: its options take {size} bytes, and before Linux 6.7 "
            f"the kernel takes {_PAGE - 1}; use fewer layers or shorter directory names"
        )
    before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chdir(common)
        km.mount("overlay", where, "overlay", flags, data)
    finally:
        os.fchdir(before)
        os.close(before)


def split_layers(value: str) -> list[str]:
    """The paths of a ``lowerdir`` value, topmost first, without their escapes."""
    layers = [""]
    characters = iter(value)
    for character in characters:
        if character == "\\":
            layers[-1] += next(characters, "")
        elif character == ":":
            layers.append("")
        else:
            layers[-1] += character
    return layers


def _add_layers(context: int, layers: list[str], held: list[int]) -> bool:
    for index, layer in enumerate(layers):
        try:
            km.fsconfig_string(context, "lowerdir+", _short(layer, held))
        except KernelError as error:
            if index == 0 and error.errno == EINVAL:
                return False
            raise
    return True


def _short(path: str, held: list[int]) -> str:
    """``path``, or where it is too long the name of a descriptor of it, added to ``held``."""
    if len(os.fsencode(path)) <= _VALUE_LIMIT:
        return path
    try:
        held.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as error:
        raise KernelError("open", error.errno or 0, path) from None
    return f"/proc/self/fd/{held[-1]}"


def _data(options: MountOptions, start: str) -> str:
    """The options as mount(2) takes them; with ``start``, paths relative to that directory."""
    words = []
    for word in options.data:
        key, equals, value = word.partition("=")
        if start and key == "lowerdir":
            layers = [os.path.relpath(layer, start) for layer in split_layers(value)]
            value = ":".join(layer.replace("\\", "\\\\").replace(":", "\\:") for layer in layers)
        elif start and key in ("upperdir", "workdir"):
            value = os.path.relpath(value, start)
        words.append(key + equals + value.replace("\\,", ",").replace(",", "\\,"))
    return ",".join(words)
