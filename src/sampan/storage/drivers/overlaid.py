"""Containers as an overlay: read-only layers below, one writable directory above.

Documentation/filesystems/overlayfs.rst in the kernel's tree. Reading falls through to the first
layer that has the file; the first write copies it up into ``upperdir``; deleting one that exists
below leaves a whiteout (a character device 0:0) and replacing a directory marks the new one opaque
(``trusted.overlay.opaque``).

``redirect_dir=off`` and ``metacopy=off`` keep an upper directory readable as a difference: with
them on, a renamed directory or a changed mode would be a reference to bytes that are elsewhere.
``index=off`` lets the same lower directories serve any number of mounts.

An overlay that is unmounted syncs the whole file system its upper directory is on, and flushes the
disk. For a container that goes with its end nobody needs that: ``volatile`` leaves it out, with all
other syncs. The kernel marks the work directory then and mounts it no second time; the mark is
taken away here, since nothing asks such a directory to have survived a power failure.

    rw/<container>/upper  work            the root's own
    rw/<container>/upper%usr  work%usr …  the same for each directory of this machine (the ``host``
                                          image), with "%" for "/"
"""

from __future__ import annotations

import os
from abc import abstractmethod
from contextlib import ExitStack
from errno import EINVAL, ENODEV, EPERM
from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument, KernelError, NotSupported
from sampan.kernel.mounts import fsconfig_create, fsconfig_string, fsopen
from sampan.oci import digest as digests
from sampan.oci.runtime import Mount
from sampan.storage.archive.tree import files_size
from sampan.storage.drivers.directory import DirectoryDriver
from sampan.storage.drivers.pairs import OPTIONS, forget_volatile, make_empty, make_pair, overlay

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sampan.storage.archive.diff import Change
    from sampan.storage.archive.writer import Output, Written

__all__ = ["OverlaidDriver"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_VALUE_LIMIT = 255  # bytes of a value of fsconfig(2)


class OverlaidDriver(DirectoryDriver):
    """Base of ``overlay2`` and ``overlay``, which differ in what lies below."""

    def __init__(self, data_root: str) -> None:
        super().__init__(data_root)
        try:
            self._probe()
        except BaseException:
            self.close()
            raise

    def _probe(self) -> None:
        """Have the kernel set up an overlay on this file system, mounted nowhere.

        NotSupported names what is in the way now, not at the first container's start.
        """
        name = f"probe.{next(self._serial)}"
        place = f"{self.root}/staging/{name}"
        if len(os.fsencode(place)) > _VALUE_LIMIT - len("/lower"):
            return  # fsconfig(2) could not be told; the runtime has other ways to mount it
        os.mkdir(place, 0o700)
        try:
            for part in ("lower", "upper", "work"):
                os.mkdir(f"{place}/{part}", 0o700)
            context = fsopen("overlay")
            try:
                for part in ("lower", "upper", "work"):
                    fsconfig_string(context, f"{part}dir", f"{place}/{part}")
                fsconfig_create(context)
            finally:
                os.close(context)
        except KernelError as error:
            if error.errno == ENODEV:
                raise NotSupported(
                    "this kernel has no overlay file system: load its module, or use the storage "
                    "driver vfs"
                ) from error
            if error.errno == EINVAL:
                raise NotSupported(
                    f"overlay cannot write on the file system of {self.root}: move the data root, "
                    f"or use the storage driver vfs ({error})"
                ) from error
            if error.errno != EPERM:
                raise
            # Who may not mount may still look at what there is.
        finally:
            self._trash.put(self._staging_fd, name)

    def create_container(
        self,
        name: str,
        chain: Sequence[str],
        system: Sequence[str] = (),
        empty: Sequence[str] = (),
    ) -> None:
        with self._making(name, chain) as fd:
            top = digests.hexadecimal(chain[-1])
            make_pair(fd, "", os.stat(f"{top}/diff", dir_fd=self._layers_fd))
            for file in empty:
                make_empty(f"upper/{file}", fd)
            for directory in system:
                self._check_system(directory)
                make_pair(fd, directory.replace("/", "%"), os.stat(directory))

    def mounts(self, name: str, *, disposable: bool = False) -> tuple[Mount, ...]:
        top = self._top(name)
        writable = f"{self.root}/rw/{name}"
        lowers = {"/": self._lower(top)} | {path: path for path in self._system(name)}
        recipe = []
        for destination, lower in lowers.items():
            suffix = "" if destination == "/" else destination.replace("/", "%")
            if disposable:
                forget_volatile(f"{writable}/work{suffix}")
            more = ("volatile",) if disposable else ()
            recipe.append(overlay(destination, lower, writable, suffix, more))
        return tuple(recipe)

    def image_mount(self, chain: Sequence[str]) -> Mount:
        self._require_layer(chain[-1])
        top = digests.hexadecimal(chain[-1])
        paths = self._lower_paths(top)
        if len(paths) == 1:
            return Mount(destination="/", type="bind", source=paths[0], options=("bind", "ro"))
        # Without an upper directory it takes two lower ones.
        words = (f"lowerdir={self._lower(top)}", *OPTIONS)
        return Mount(destination="/", type="overlay", source="overlay", options=("ro", *words))

    def changes(self, name: str, marks: Collection[bytes] = ()) -> list[Change]:
        from sampan.storage.archive.diff import Change, changes_in_upper

        with ExitStack() as stack:
            upper, lower, system = self._opened(name, stack)
            found = changes_in_upper(upper, lower, marks)
            for path, nested, below in system:
                inner = changes_in_upper(nested, [below])
                if inner:
                    found.append(Change(path, "C"))
                found += [Change(path + b"/" + change.path, change.kind) for change in inner]
        return sorted(found)

    def diff(self, name: str, out: Output, marks: Collection[bytes] = ()) -> Written:
        from sampan.storage.archive.diff import write_upper

        with ExitStack() as stack:
            upper, lower, system = self._opened(name, stack)
            nested = [(path, fd) for path, fd, _ in system]
            return write_upper(upper, out, lower=lower, nested=nested, marks=marks)

    def size(self, name: str, marks: Collection[bytes] = ()) -> int:
        with ExitStack() as stack:
            upper, _, system = self._opened(name, stack)
            return files_size(upper, marks) + sum(files_size(nested) for _, nested, _ in system)

    def graph(self, name: str) -> dict[str, str]:
        writable = f"{self.root}/rw/{name}"
        return {
            "LowerDir": ":".join(self._lower_paths(self._top(name))),
            "MergedDir": f"{writable}/merged",
            "UpperDir": f"{writable}/upper",
            "WorkDir": f"{writable}/work",
        }

    def _opened(
        self, name: str, stack: ExitStack
    ) -> tuple[int, list[int], list[tuple[bytes, int, int]]]:
        """The upper directory, the layers below it the nearest first, and for each directory of
        this machine its path, upper and lower: as descriptors, which ``stack`` closes."""

        def opened(path: str) -> int:
            fd = os.open(path, _DIRECTORY)
            stack.callback(os.close, fd)
            return fd

        top = self._top(name)
        writable = f"{self.root}/rw/{name}"
        upper = opened(f"{writable}/upper")
        lower = [opened(path) for path in self._lower_paths(top)]
        system = []
        for directory in self._system(name):
            nested = opened(f"{writable}/upper{directory.replace('/', '%')}")
            system.append((os.fsencode(directory[1:]), nested, opened(directory)))
        return upper, lower, system

    # For overlay2 and overlay

    @abstractmethod
    def _lower(self, top: str) -> str:
        """The value of ``lowerdir``: the layer with this hex name and all that is below it."""

    @abstractmethod
    def _lower_paths(self, top: str) -> list[str]:
        """The same as full paths, the top layer first."""

    def _check_system(self, directory: str) -> None:
        if directory != os.path.normpath(directory) or not directory.startswith("/"):
            raise InvalidArgument(f'system directory "{directory}" is not a clean absolute path')
        if any(character in directory for character in ":,%\\"):
            raise InvalidArgument(
                f'system directory "{directory}": overlay cannot take a path with one of : , % \\'
            )
        if f"{self.root}/".startswith(f"{directory.rstrip('/')}/"):
            raise InvalidArgument(
                f'system directory "{directory}" holds the data root {self.root}; move the data '
                "root elsewhere"
            )

    def _system(self, name: str) -> list[str]:
        """The directories of this machine a container has, those above others first."""
        found = os.listdir(f"{self.root}/rw/{name}")
        return sorted(e[5:].replace("%", "/") for e in found if e.startswith("upper%"))
