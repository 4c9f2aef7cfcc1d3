"""Mounts a user asks for: ``--volumes-from``, ``-v``, ``--mount``, ``--tmpfs``, an image's volumes.

They come out as the runtime specification's mount options, and with each volume what is wanted of
it. Two of ``-v``, ``--mount`` and ``--tmpfs`` at one place contradict each other; they go before
what another container has there, and all of them before what the image declares. A bind's source
named by ``-v`` is made as a directory when the container starts and it is missing, as Docker does;
named by ``--mount`` it must be there (``create-mountpoint`` aside). Error texts are Docker's, by
which its clients' users search.
"""

from __future__ import annotations

import os
import posixpath
from typing import TYPE_CHECKING, NamedTuple

from sampan.engine.container import UserMount
from sampan.engine.mount_words import (
    CONSISTENCIES,
    PROPAGATIONS,
    Mode,
    absolute,
    bind_options,
    is_mode,
    read_mode,
    subpath_of,
    target,
    tmpfs_options,
    volume_options,
)
from sampan.errors import InvalidArgument, NotFound, NotSupported, SampanError
from sampan.volume.store import check_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from sampan.engine.config import ContainerConfig, HostConfig, MountRequest
    from sampan.engine.container import ContainerRecord

__all__ = ["Reader", "VolumeWish", "Wanted"]

# What of a mount of the API may be set for which type.
_OPTIONS = {
    "BindOptions": ("bind",),
    "VolumeOptions": ("volume",),
    "ImageOptions": ("image",),
    "TmpfsOptions": ("tmpfs",),
}
_TYPES = ("bind", "volume", "image", "tmpfs")


class VolumeWish(NamedTuple):
    """What is asked of a mount's volume: ``copy`` fills an empty one from the image."""

    name: str = ""
    driver: str = ""
    options: dict[str, str] = {}
    labels: dict[str, str] = {}
    copy: bool = True


class Wanted(NamedTuple):
    """A mount, and what its volume is to be. ``declared``: by the image or for it, so that the
    image must have a directory there, or nothing."""

    mount: UserMount
    volume: VolumeWish | None = None
    declared: bool = False


class Reader:
    """Reads a request's mounts. ``find`` is the registry's; ``data_root`` must not be mounted
    private; ``deep``: read-only means read-only all the way down (since API 1.44)."""

    def __init__(
        self, find: Callable[[str], ContainerRecord], data_root: str, *, deep: bool = True
    ) -> None:
        self._find = find
        self._data_root = data_root
        self._deep = deep

    def read(self, config: ContainerConfig, host: HostConfig) -> list[Wanted]:
        """All mounts, parents before children; ``config`` is merged with the image's.

        A volume's ``source``, and the name of an anonymous one, are still empty.
        Raises InvalidArgument, NotFound, NotSupported.
        """
        found: dict[str, Wanted] = {}
        given: set[str] = set()

        def add(wanted: Wanted) -> None:
            place = wanted.mount.destination
            if place in given:
                raise InvalidArgument(f"Duplicate mount point: {place}")
            given.add(place)
            found[place] = wanted

        for text in host.volumes_from or ():
            for mount in self._inherited(text):
                found[mount.destination] = Wanted(mount)
        for text in host.binds or ():
            add(self._bind(text, host.volume_driver))
        for request in host.mounts:
            add(self._mount(request))
        for place, text in host.tmpfs.items():
            options = ["noexec", "nosuid", "nodev", *tmpfs_options(text)]
            mount = UserMount(
                type="tmpfs",
                destination=target(place),
                options=tuple(options),
                writable="ro" not in options,
                listed=False,
            )
            add(Wanted(mount))
        for text in config.volumes or ():
            # The client puts `-v /data` here, and `-v /a:/b` sometimes too (old docker-py).
            if ":" in text:
                add(self._bind(text, host.volume_driver))
                continue
            place = target(text)
            if place not in found:
                volume = VolumeWish(driver=host.volume_driver)
                found[place] = self._volume(volume, place, True, "", declared=True)
        return sorted(found.values(), key=lambda wanted: wanted.mount.destination.count("/"))

    def _inherited(self, text: str) -> list[UserMount]:
        """The mounts of another container: ``name`` or ``name:ro``."""
        if not text:
            raise InvalidArgument("volumes-from specification cannot be an empty string")
        name, _, mode = text.partition(":")
        writable = read_mode(mode).writable
        if read_mode(mode).copy is not None:
            raise InvalidArgument(f"invalid mode: {mode}")
        try:
            record = self._find(name)
        except NotFound as error:
            raise InvalidArgument(error.message) from error
        mounts = []
        for mount in record.mounts:
            if not mount.listed:
                continue
            options = mount.options
            if mount.writable and not writable:
                options = (*options, "ro") if mount.type == "tmpfs" else (*options, "ro", "rro")
                if mount.type == "volume":
                    options = tuple("rprivate" if word == "rslave" else word for word in options)
            mounts.append(
                UserMount(
                    type=mount.type,
                    source=mount.source,
                    destination=mount.destination,
                    options=options,
                    name=mount.name,
                    driver=mount.driver,
                    writable=mount.writable and writable,
                    propagation=mount.propagation,
                    anonymous=mount.anonymous,
                    make_source=mount.make_source,
                    layers=mount.layers,
                )
            )
        return mounts

    def _bind(self, text: str, driver: str) -> Wanted:
        """``source:destination[:mode]``; a source without a slash is a volume's name."""
        wrong = f"invalid volume specification: '{text}'"
        parts = text.split(":")
        source, place, mode = "", parts[0], ""
        if len(parts) in (2, 3):
            source, place, mode = parts[0], parts[1], parts[2] if len(parts) == 3 else ""
        if len(parts) > 3 or not all(parts) or (len(parts) == 2 and is_mode(parts[1])):
            raise InvalidArgument(wrong)
        read = read_mode(mode)
        try:
            place = target(place)
            if source.startswith("/"):
                if read.copy is not None:
                    raise InvalidArgument("field VolumeOptions must not be specified")
                source = absolute(posixpath.normpath(source), source)
                return Wanted(self._bind_mount(source, place, read, mode, make=True))
            if read.propagation:
                raise InvalidArgument("field BindOptions must not be specified")
        except InvalidArgument as error:
            kind = "bind" if source.startswith("/") else "volume"
            raise InvalidArgument(
                f'{wrong}: invalid mount config for type "{kind}": {error.message}'
            ) from error
        wish = VolumeWish(source, driver, copy=read.copy is None)
        # A mode that was not given is shown as this; an anonymous volume's is not.
        return self._volume(wish, place, read.writable, mode or ("z" if source else ""))

    def _bind_mount(
        self,
        source: str,
        place: str,
        read: Mode,
        mode: str = "",
        *,
        recursive: bool = True,
        deep: bool | None = None,
        make: bool = False,
    ) -> UserMount:
        propagation = read.propagation or self._default_propagation(source)
        self._check_data_root(source, propagation)
        deep = self._deep if deep is None else deep
        return UserMount(
            type="bind",
            source=source,
            destination=place,
            options=bind_options(read.writable, propagation, recursive, deep),
            mode=mode,
            writable=read.writable,
            propagation=propagation,
            make_source=make,
        )

    def _near_data_root(self, source: str) -> bool:
        own, other = f"{self._data_root}/", f"{source.rstrip('/')}/"
        return own.startswith(other) or other.startswith(own)

    def _default_propagation(self, source: str) -> str:
        # What this machine unmounts below its data root must not live on in a container.
        return "rslave" if self._near_data_root(source) else "rprivate"

    def _check_data_root(self, source: str, propagation: str) -> None:
        if propagation not in ("rslave", "rshared") and self._near_data_root(source):
            raise InvalidArgument(
                'invalid mount config: must use either propagation mode "rslave" or "rshared" when '
                f'mount source is within the daemon root, daemon root: "{self._data_root}", bind '
                f'mount source: "{source}", propagation: "{propagation}"'
            )

    def _volume(
        self,
        wish: VolumeWish,
        place: str,
        writable: bool,
        mode: str,
        *,
        subpath: str = "",
        declared: bool = False,
    ) -> Wanted:
        if wish.name:
            check_name(wish.name)
        mount = UserMount(
            type="volume",
            name=wish.name,
            destination=place,
            options=volume_options(writable, subpath),
            driver=wish.driver or "local",
            mode=mode,
            writable=writable,
            anonymous=not wish.name,
        )
        return Wanted(mount, wish, declared)

    # -- the API's Mounts ----------------------------------------------------------------------

    def _mount(self, request: MountRequest) -> Wanted:
        try:
            return self._checked(request)
        except SampanError as error:
            what = f'invalid mount config for type "{request.type}"'
            if isinstance(error, InvalidArgument) and not error.message.startswith("create "):
                raise InvalidArgument(f"{what}: {error.message}") from error
            raise

    def _checked(self, request: MountRequest) -> Wanted:
        if request.type in ("npipe", "cluster"):
            raise NotSupported(
                f'mounts of type "{request.type}" are not supported: '
                + ("they are of Windows" if request.type == "npipe" else "this is no swarm")
            )
        if request.type not in _TYPES:
            raise InvalidArgument("mount type unknown")
        place = target(request.target)
        given = {
            "BindOptions": request.bind_options,
            "VolumeOptions": request.volume_options,
            "ImageOptions": request.image_options,
            "TmpfsOptions": request.tmpfs_options,
        }
        for field, kinds in _OPTIONS.items():
            if given[field] is not None and request.type not in kinds:
                raise InvalidArgument(f"field {field} must not be specified")
        consistency = request.consistency
        if consistency and consistency not in CONSISTENCIES:
            raise InvalidArgument(f"invalid consistency: {consistency}")
        if request.type == "bind":
            return Wanted(self._request_bind(request, place))
        if request.type == "volume":
            return self._request_volume(request, place)
        if request.type == "image":
            return self._request_image(request, place)
        return Wanted(self._request_tmpfs(request, place))

    def _request_bind(self, request: MountRequest, place: str) -> UserMount:
        options = request.bind_options
        if not request.source:
            raise InvalidArgument("field Source must not be empty")
        propagation = options.propagation if options else ""
        if propagation and propagation not in PROPAGATIONS:
            raise InvalidArgument(f"invalid propagation mode: {propagation}")
        source = absolute(posixpath.normpath(request.source), request.source)
        make = bool(options and options.create_mountpoint)
        if not make and not os.path.lexists(source):
            raise InvalidArgument(f"bind source path does not exist: {request.source}")
        recursive = not (options and options.non_recursive)
        shallow = bool(options and options.read_only_non_recursive)
        forced = bool(options and options.read_only_force_recursive)
        if (shallow or forced) and not request.read_only:
            raise InvalidArgument(
                "ReadOnlyNonRecursive and ReadOnlyForceRecursive need ReadOnly to be set"
            )
        if shallow and forced:
            raise InvalidArgument(
                "ReadOnlyNonRecursive and ReadOnlyForceRecursive contradict each other"
            )
        if forced and propagation not in ("", "rprivate"):
            raise InvalidArgument(
                "ReadOnlyForceRecursive needs the propagation rprivate: what is mounted there "
                "later would not be read-only"
            )
        read = Mode(not request.read_only, propagation, None)
        deep = forced or (self._deep and not shallow)
        return self._bind_mount(source, place, read, recursive=recursive, deep=deep, make=make)

    def _request_volume(self, request: MountRequest, place: str) -> Wanted:
        options = request.volume_options
        subpath = subpath_of(options.subpath if options else "", "volume")
        if not request.source and request.read_only:
            raise InvalidArgument("must not set ReadOnly mode when using anonymous volumes")
        if not request.source and subpath:
            raise InvalidArgument("must not set Subpath when using anonymous volumes")
        driver = options.driver_config if options else None
        wish = VolumeWish(
            name=request.source,
            driver=driver.name if driver else "",
            options=driver.options if driver else {},
            labels=options.labels if options else {},
            # A part of a volume is not the image's to fill.
            copy=not (options and options.no_copy) and not subpath,
        )
        return self._volume(wish, place, not request.read_only, "z", subpath=subpath)

    def _request_image(self, request: MountRequest, place: str) -> Wanted:
        if not request.source:
            raise InvalidArgument("field Source must not be empty")
        options = request.image_options
        subpath = subpath_of(options.subpath if options else "", "image")
        mount = UserMount(
            type="image",
            name=request.source,
            destination=place,
            options=(f"subpath={subpath}",) if subpath else (),
            writable=False,
        )
        return Wanted(mount)

    def _request_tmpfs(self, request: MountRequest, place: str) -> UserMount:
        if request.source:
            raise InvalidArgument("field Source must not be specified")
        tmpfs = request.tmpfs_options
        words = ["noexec", "nosuid", "nodev"]
        if tmpfs and tmpfs.size_bytes:
            if tmpfs.size_bytes < 0:
                raise InvalidArgument(f"SizeBytes {tmpfs.size_bytes} is less than 0")
            words.append(f"size={tmpfs.size_bytes}")
        if tmpfs and tmpfs.mode:
            if not 0 <= tmpfs.mode <= 0o7777:
                raise InvalidArgument(f"Mode {tmpfs.mode} is not a file mode (a decimal number)")
            words.append(f"mode={tmpfs.mode:o}")
        for option in tmpfs.options if tmpfs else ():
            if len(option) not in (1, 2):
                raise InvalidArgument("an item of Options has one text, or two: name and value")
            words += tmpfs_options("=".join(option))
        if request.read_only:
            words.append("ro")
        return UserMount(
            type="tmpfs",
            destination=place,
            options=tuple(words),
            writable=not request.read_only,
        )
