"""Mounts a user asks for: ``-v``, ``--mount``, ``--tmpfs`` and an image's volumes.

They come out as the runtime specification's mount options. Two of them at one place contradict
each other, except that a volume the *image* declares gives way. A bind's source named by ``-v`` is
made as a directory when it is missing, as Docker does; named by ``--mount`` it must be there.
"""

from __future__ import annotations

import os
import posixpath
import re
from typing import TYPE_CHECKING

from sampan.engine.container import UserMount
from sampan.errors import InvalidArgument, NotSupported

if TYPE_CHECKING:
    from sampan.engine.config import ContainerConfig, HostConfig, MountRequest

__all__ = ["read_mounts"]

_PROPAGATIONS = {"private", "rprivate", "shared", "rshared", "slave", "rslave"}
# Not for us: host file systems of other platforms, and SELinux labels, which no file here has.
_WITHOUT_EFFECT = {"cached", "delegated", "consistent", "default", "z", "Z"}
_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z")
_TMPFS_FLAGS = {
    "ro", "rw", "exec", "noexec", "suid", "nosuid", "dev", "nodev", "sync", "async", "atime",
    "noatime", "diratime", "nodiratime", "relatime", "norelatime", "strictatime", "nostrictatime",
    "dirsync", "private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable",
    "runbindable", "mand", "nomand",
}  # fmt: skip
_TMPFS_VALUES = {"size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"}


def _destination(path: str, what: str) -> str:
    _no_nul(path, what)
    if not path.startswith("/"):
        raise InvalidArgument(
            f"invalid {what}: mount path must be absolute: '{path}'; begin it with /"
        )
    clean = posixpath.normpath(path)
    if clean.startswith("//"):
        clean = clean[1:]
    if clean == "/":
        raise InvalidArgument(f"invalid {what}: destination can't be '/'")
    return clean


def _no_nul(path: str, what: str) -> None:
    if "\0" in path:
        raise InvalidArgument(f"invalid {what}: {path!r} contains a NUL character")


def _bind_options(writable: bool, propagation: str, recursive: bool = True) -> tuple[str, ...]:
    options = ["rbind" if recursive else "bind", propagation or "rprivate"]
    if not writable:
        # A read-only mount with writable mounts below it is not read-only.
        options += ["ro", "rro"] if recursive else ["ro"]
    return tuple(options)


def _read_bind(text: str) -> UserMount:
    """``source:destination[:options]``; a source without a slash is a volume's name."""
    what = f"volume specification '{text}'"
    parts = text.split(":")
    if len(parts) not in (2, 3) or not all(parts):
        raise InvalidArgument(f"invalid {what}: write source:destination or source:destination:ro")
    source, mode = parts[0], parts[2] if len(parts) == 3 else ""
    _no_nul(source, what)
    destination = _destination(parts[1], what)
    writable, propagation, copy, seen = True, "", True, set[str]()
    for option in mode.split(",") if mode else ():
        if option in ("ro", "rw"):
            kind, writable = "access", option == "rw"
        elif option in _PROPAGATIONS:
            kind, propagation = "propagation", option
        elif option == "nocopy":
            kind, copy = "copy", False
        elif option in _WITHOUT_EFFECT:
            kind = option
        else:
            raise InvalidArgument(f"invalid mode: {option}: in {what}")
        if kind in seen:
            raise InvalidArgument(f"invalid mode: {mode}: {kind} is given twice in {what}")
        seen.add(kind)
    if not source.startswith("/"):
        if propagation:
            raise InvalidArgument(f"invalid mode: {propagation}: a volume has no propagation")
        return _volume(source, destination, writable, mode or "z", copy=copy, what=what)
    if not copy:
        raise InvalidArgument(f"invalid mode: nocopy: in {what}: only a volume is copied to")
    return UserMount(
        type="bind",
        source=posixpath.normpath(source),
        destination=destination,
        options=_bind_options(writable, propagation),
        mode=mode,
        writable=writable,
        propagation=propagation or "rprivate",
    )


def _volume(
    name: str, destination: str, writable: bool, mode: str, *, copy: bool, what: str
) -> UserMount:
    if name and not _VOLUME_NAME.match(name):
        raise InvalidArgument(
            f"invalid {what}: '{name}' includes invalid characters for a local volume name, only "
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, '
            "use absolute path"
        )
    return UserMount(
        type="volume",
        name=name,
        destination=destination,
        # The runtime's word: an empty volume is filled with what the image has there.
        options=(*_bind_options(writable, ""), *(("copyup",) if copy else ())),
        driver="local",
        mode=mode,
        writable=writable,
        anonymous=not name,
    )


def _read_mount(request: MountRequest, position: int) -> UserMount:
    what = f'mount config for type "{request.type}"'
    destination = _destination(request.target, what)
    for kind, value in (
        ("bind", request.bind_options),
        ("volume", request.volume_options),
        ("tmpfs", request.tmpfs_options),
    ):
        if value is not None and kind != request.type:
            raise InvalidArgument(f"invalid {what}: {kind.title()}Options must not be specified")
    writable = not request.read_only
    if request.type == "bind":
        bind = request.bind_options
        _no_nul(request.source, what)
        if not request.source.startswith("/"):
            raise InvalidArgument(
                f"invalid {what}: invalid mount path: '{request.source}' mount path must be "
                "absolute"
            )
        propagation = bind.propagation if bind else ""
        if propagation and propagation not in _PROPAGATIONS:
            raise InvalidArgument(f"invalid {what}: propagation '{propagation}' is unknown")
        source = posixpath.normpath(request.source)
        if not os.path.lexists(source):
            if not (bind and bind.create_mountpoint):
                raise InvalidArgument(
                    f"invalid {what}: bind source path does not exist: {request.source}"
                )
            os.makedirs(source, exist_ok=True)
        recursive = not (bind and bind.non_recursive)
        options = _bind_options(writable, propagation, recursive)
        if bind and bind.read_only_non_recursive:
            options = tuple(option for option in options if option != "rro")
        return UserMount(
            type="bind",
            source=source,
            destination=destination,
            options=options,
            writable=writable,
            propagation=propagation or "rprivate",
        )
    if request.type == "volume":
        volume = request.volume_options
        if volume is not None:
            driver = volume.driver_config
            if driver and (driver.name not in ("", "local") or driver.options):
                raise NotSupported(
                    f"HostConfig.Mounts[{position}].VolumeOptions.DriverConfig is not supported "
                    "yet: use the local driver without options"
                )
            for name, given in (("Labels", volume.labels), ("Subpath", volume.subpath)):
                if given:
                    raise NotSupported(
                        f"HostConfig.Mounts[{position}].VolumeOptions.{name} is not supported yet"
                    )
        copy = not (volume and volume.no_copy)
        return _volume(request.source, destination, writable, "z", copy=copy, what=what)
    if request.type == "tmpfs":
        if request.source:
            raise InvalidArgument(f"invalid {what}: Source must not be specified")
        tmpfs = request.tmpfs_options
        words = ["noexec", "nosuid", "nodev"]
        if tmpfs and tmpfs.size_bytes:
            words.append(f"size={tmpfs.size_bytes}")
        if tmpfs and tmpfs.mode:
            words.append(f"mode={tmpfs.mode:o}")
        for option in tmpfs.options if tmpfs else ():
            words += _tmpfs_options("=".join(option))
        if not writable:
            words.append("ro")
        return UserMount(
            type="tmpfs", destination=destination, options=tuple(words), writable=writable
        )
    raise NotSupported(
        f'HostConfig.Mounts[{position}].Type "{request.type}" is not supported: '
        "use bind, volume or tmpfs"
    )


def _tmpfs_options(text: str) -> list[str]:
    options = [option for option in text.split(",") if option]
    for option in options:
        name, equals, _ = option.partition("=")
        if not (name in _TMPFS_VALUES and equals) and option not in _TMPFS_FLAGS:
            raise InvalidArgument(f"invalid tmpfs option [{option!r}]")
    return options


def read_mounts(config: ContainerConfig, host: HostConfig) -> list[UserMount]:
    """All user mounts, parents before children; ``config`` is merged with the image's.

    A volume's ``source`` is still empty: the volume store fills it in. Raises InvalidArgument,
    NotSupported.
    """
    found: dict[str, UserMount] = {}

    def add(mount: UserMount) -> None:
        if mount.destination in found:
            raise InvalidArgument(f"Duplicate mount point: {mount.destination}")
        found[mount.destination] = mount

    for text in host.binds or ():
        add(_read_bind(text))
    for position, request in enumerate(host.mounts):
        add(_read_mount(request, position))
    for place, text in host.tmpfs.items():
        options = ["noexec", "nosuid", "nodev", *_tmpfs_options(text)]
        add(
            UserMount(
                type="tmpfs",
                destination=_destination(place, "tmpfs"),
                options=tuple(options),
                writable="ro" not in options,
                listed=False,
            )
        )
    for text in config.volumes or ():
        # The client puts `-v /data` here, and `-v /a:/b` sometimes too (old docker-py).
        if ":" in text:
            add(_read_bind(text))
            continue
        place = _destination(text, "volume specification")
        if place not in found:
            add(_volume("", place, True, "", copy=True, what="volume"))
    return sorted(found.values(), key=lambda mount: mount.destination.count("/"))
