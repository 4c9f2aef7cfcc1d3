"""What all drivers made of plain directories have in common.

    <data root>/<driver>/layers/<hex of the chain ID>/diff     the layer's tree
                        /layers/<hex>/name                     a file that holds <hex>
                        /layers/<hex>/parent                   symlink: ../<hex of the parent>
                        /rw/<container>/                       what the container writes
                        /rw/<container>/top                    hard link of its top layer's name
                        /rw/<container>/layer%<hex>            the same of a layer held for it
                        /staging/<hex>.<n>/                    layers in the making
                        /trash/                                renamed away, deleted later

A layer exists from the rename(2) that puts its finished directory in place, a container from the
link(2) of ``top``, the last thing made in its directory, until the rename that takes either away.
So a kill at any instruction leaves it whole or absent; what is in ``staging`` and ``trash``, or in
``rw`` without ``top``, when a driver is opened belonged to a process that died.

Making a container is on the path of every start. It makes directories and one link: on a full
block group of ext4 a new directory is put elsewhere in 30 microseconds where a new file or symbolic
link searches for an inode for 400.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import threading
from abc import ABC, abstractmethod
from contextlib import contextmanager
from errno import EEXIST, EMLINK, ENOTEMPTY
from typing import TYPE_CHECKING

from sampan.errors import AlreadyExists, InvalidArgument, KernelError, NotFound, NotSupported
from sampan.oci import digest as digests
from sampan.storage.drivers.base import Staging, Usage
from sampan.storage.drivers.removal import Trash
from sampan.storage.drivers.trees import tree_usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["DirectoryDriver"]

_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_HELD = "layer%"


def open_directory(parent: int, name: str, *, make: bool = False) -> int:
    """Open a directory below a descriptor; with ``make``, create it (0700) if it is missing."""
    if make:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            pass
    return os.open(name, _DIRECTORY, dir_fd=parent)


def _close(staging: Staging) -> None:
    for fd in (staging.fd, *staging.lower):
        os.close(fd)


class DirectoryDriver(ABC):
    """Base of the drivers: layers as directories, atomic by rename."""

    name = ""
    loose = False

    def __init__(self, data_root: str) -> None:
        if any(character in data_root for character in ":,\\\n"):
            raise InvalidArgument(
                f'data root "{data_root}": overlay cannot take a path with a colon, a comma, a '
                "backslash or a newline in it"
            )
        self.root = os.path.abspath(f"{data_root}/{self.name}")
        os.makedirs(data_root, 0o700, exist_ok=True)
        try:
            # Nobody may pass: a layer holds set-user-ID programs of whatever age.
            os.mkdir(self.root, 0o700)
        except FileExistsError:
            pass
        self._root_fd = os.open(self.root, _DIRECTORY)
        self._layers_fd = open_directory(self._root_fd, "layers", make=True)
        self._rw_fd = open_directory(self._root_fd, "rw", make=True)
        self._staging_fd = open_directory(self._root_fd, "staging", make=True)
        self._trash = Trash(self._root_fd, "trash")
        self._serial = itertools.count()
        self._lock = threading.Lock()
        self._parents: dict[str, str | None] = {}
        for name in os.listdir(self._staging_fd):
            self._trash.put(self._staging_fd, name)
        for name in os.listdir(self._layers_fd):
            self._parents[name] = self._read_parent(name)
        for name in os.listdir(self._rw_fd):
            if not os.path.exists(f"{self.root}/rw/{name}/top"):
                self._trash.put(self._rw_fd, name)

    def close(self) -> None:
        self._trash.close()
        for fd in (self._staging_fd, self._rw_fd, self._layers_fd, self._root_fd):
            os.close(fd)

    def collect(self) -> None:
        self._trash.empty()

    # Layers

    def prepare_layer(self, chain_id: str, parent: str | None) -> Staging:
        name = f"{digests.hexadecimal(chain_id)}.{next(self._serial)}"
        if parent is not None:
            self._require_layer(parent)
        os.mkdir(name, 0o700, dir_fd=self._staging_fd)
        outer = os.open(name, _DIRECTORY, dir_fd=self._staging_fd)
        fd = -1
        try:
            os.mkdir("diff", 0o755, dir_fd=outer)
            os.chmod("diff", 0o755, dir_fd=outer)
            if parent is not None:
                os.symlink(f"../{digests.hexadecimal(parent)}", "parent", dir_fd=outer)
            fd = os.open("diff", _DIRECTORY, dir_fd=outer)
            if parent is not None:
                below = self._open_layer(parent)
                try:
                    self._seed_layer(below, fd)
                finally:
                    os.close(below)
        except BaseException:
            if fd >= 0:
                os.close(fd)
            self._trash.put(self._staging_fd, name)
            raise
        finally:
            os.close(outer)
        return Staging(chain_id, parent, name, fd, self._open_lower(parent))

    def attach_layer(self, staging: Staging, chain_id: str, parent: str | None) -> Staging:
        if not self.loose:
            raise NotSupported(f"driver {self.name}: a layer is made of what is below it")
        if parent is None:
            return staging._replace(chain_id=chain_id)
        self._require_layer(parent)
        os.symlink(
            f"../{digests.hexadecimal(parent)}",
            f"{staging.name}/parent",
            dir_fd=self._staging_fd,
        )
        return staging._replace(chain_id=chain_id, parent=parent, lower=self._open_lower(parent))

    def seed_root(self, staging: Staging) -> None:
        """The attributes of a root that its layer does not list."""
        if staging.parent is not None:
            below = self._open_layer(staging.parent)
            try:
                self._seed_layer(below, staging.fd)
            finally:
                os.close(below)

    def commit_layer(self, staging: Staging) -> None:
        _close(staging)
        target = digests.hexadecimal(staging.chain_id)
        try:
            self._write_name(f"{staging.name}/name", target)
            with self._lock:
                self._place_layer(staging.name, target)
                self._parents[target] = (
                    None if staging.parent is None else digests.hexadecimal(staging.parent)
                )
        except BaseException:
            self._trash.put(self._staging_fd, staging.name)
            raise

    def discard_layer(self, staging: Staging) -> None:
        _close(staging)
        self._trash.put(self._staging_fd, staging.name)

    def has_layer(self, chain_id: str) -> bool:
        return digests.hexadecimal(chain_id) in self._parents

    def layers(self) -> list[str]:
        return [f"sha256:{name}" for name in list(self._parents)]

    def layer_usage(self, chain_id: str) -> Usage:
        fd = self._open_layer(chain_id)
        try:
            return tree_usage(fd)
        finally:
            os.close(fd)

    def claim_layer(self, chain_id: str) -> int | None:
        # Sessions hold a shared lock on the topmost layer's directory (sampan.sdk.images), and who
        # makes a container does until it stands on it.
        try:
            fd = os.open(digests.hexadecimal(chain_id), _DIRECTORY, dir_fd=self._layers_fd)
        except FileNotFoundError:
            return os.dup(self._layers_fd)  # Nobody can use it.
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The caller looked before that. A link may be one of a container in the trash.
            if os.stat("name", dir_fd=fd).st_nlink == 1 or chain_id not in self.held():
                free, fd = fd, -1
                return free
        except BlockingIOError:
            return None
        finally:
            if fd >= 0:
                os.close(fd)
        return None

    @contextmanager
    def _kept(self, chain_id: str) -> Iterator[str]:
        """A layer's hex name; it is not removed meanwhile. NotFound."""
        layer = digests.hexadecimal(chain_id)
        self._require_layer(chain_id)
        fd = -1
        try:
            try:
                fd = os.open(layer, _DIRECTORY, dir_fd=self._layers_fd)
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                there = os.stat(layer, dir_fd=self._layers_fd)
            except (BlockingIOError, FileNotFoundError) as error:
                raise NotFound(f"layer {chain_id} is being removed") from error
            if not os.path.samestat(os.fstat(fd), there):
                raise NotFound(f"layer {chain_id} was removed just now")
            yield layer
        finally:
            if fd >= 0:
                os.close(fd)

    def remove_layer(self, chain_id: str) -> None:
        name = digests.hexadecimal(chain_id)
        with self._lock:
            self._parents.pop(name, None)
            self._trash.put(self._layers_fd, name)

    def layer_path(self, chain_id: str) -> str:
        """The directory that holds the layer's tree."""
        return f"{self.root}/layers/{digests.hexadecimal(chain_id)}/diff"

    # Containers

    def containers(self) -> dict[str, str]:
        found = {}
        for name in os.listdir(self._rw_fd):
            try:
                found[name] = "sha256:" + self._top(name)
            except NotFound:
                continue  # being made, or removed just now
        return found

    def hold_layer(self, name: str, chain_id: str) -> None:
        with self._kept(chain_id) as layer:
            fd = os.open(self._checked(name), _DIRECTORY, dir_fd=self._rw_fd)
            try:
                self._link_name(layer, fd, f"{_HELD}{layer}")
            except FileExistsError:
                pass
            finally:
                os.close(fd)

    def held(self) -> set[str]:
        found = set(self.containers().values())
        for name in os.listdir(self._rw_fd):
            try:
                entries = os.listdir(f"{self.root}/rw/{name}")
            except FileNotFoundError:
                continue  # removed just now
            found.update(f"sha256:{e[len(_HELD) :]}" for e in entries if e.startswith(_HELD))
        return found

    def usage(self, name: str) -> Usage:
        self._top(name)
        fd = os.open(name, _DIRECTORY, dir_fd=self._rw_fd)
        try:
            return tree_usage(fd)
        finally:
            os.close(fd)

    def remove_container(self, name: str) -> None:
        self._trash.put(self._rw_fd, self._checked(name))

    # For the drivers

    @abstractmethod
    def _seed_layer(self, below: int, fd: int) -> None:
        """Fill a new layer's directory from its parent's before anything is unpacked into it."""

    def _open_lower(self, parent: str | None) -> tuple[int, ...]:
        """Descriptors of the layers below, where a new layer's directory does not show them."""
        return ()

    def _place_layer(self, staged: str, target: str) -> None:
        try:
            os.rename(staged, target, src_dir_fd=self._staging_fd, dst_dir_fd=self._layers_fd)
        except OSError as error:
            if error.errno in (EEXIST, ENOTEMPTY):
                raise AlreadyExists(f"layer sha256:{target} exists") from error
            raise KernelError("rename", error.errno or 0, target) from error

    def _open_layer(self, chain_id: str) -> int:
        try:
            return os.open(
                f"{digests.hexadecimal(chain_id)}/diff", _DIRECTORY, dir_fd=self._layers_fd
            )
        except FileNotFoundError as error:
            raise NotFound(f"layer {chain_id} is not unpacked by driver {self.name}") from error

    def _require_layer(self, chain_id: str) -> None:
        if not self.has_layer(chain_id):
            raise NotFound(f"layer {chain_id} is not unpacked by driver {self.name}")

    def _read_parent(self, name: str) -> str | None:
        try:
            return os.readlink(f"{name}/parent", dir_fd=self._layers_fd).rpartition("/")[2]
        except FileNotFoundError:
            return None

    def _ancestry(self, top: str) -> list[str]:
        """Hex names from the top layer down to the lowest."""
        names: list[str] = []
        at: str | None = top
        while at is not None:
            names.append(at)
            try:
                at = self._parents[at]
            except KeyError:
                raise NotFound(f"layer sha256:{at} is not unpacked by driver {self.name}") from None
        return names

    def _checked(self, name: str) -> str:
        if not name or "/" in name or name in (".", ".."):
            raise InvalidArgument(f'"{name}" cannot be the name of a container\'s directory')
        return name

    def _top(self, name: str) -> str:
        """Hex name of the top layer below a container."""
        try:
            fd = os.open(f"{self._checked(name)}/top", _FILE, dir_fd=self._rw_fd)
        except FileNotFoundError as error:
            raise NotFound(f"container {name} has no root file system") from error
        try:
            return os.read(fd, 64).decode("ascii")
        finally:
            os.close(fd)

    @contextmanager
    def _making(self, name: str, chain: Sequence[str]) -> Iterator[int]:
        """A container's directory, in which it is made; what makes it one comes last."""
        if not chain:
            raise InvalidArgument(f"container {name}: a root file system needs at least one layer")
        with self._kept(chain[-1]) as top:
            try:
                os.mkdir(self._checked(name), 0o700, dir_fd=self._rw_fd)
            except FileExistsError as error:
                raise AlreadyExists(f"container {name} has a root file system already") from error
            fd = os.open(name, _DIRECTORY, dir_fd=self._rw_fd)
            try:
                yield fd
                try:
                    self._link_name(top, fd, "top")
                except OSError as error:
                    raise KernelError("linkat", error.errno or 0, f"layers/{top}/name") from error
            except BaseException:
                self._trash.put(self._rw_fd, name)
                raise
            finally:
                os.close(fd)

    def _link_name(self, layer: str, fd: int, name: str) -> None:
        try:
            os.link(f"{layer}/name", name, src_dir_fd=self._layers_fd, dst_dir_fd=fd)
        except OSError as error:
            if error.errno != EMLINK:
                raise
            self._replace_name(layer)
            os.link(f"{layer}/name", name, src_dir_fd=self._layers_fd, dst_dir_fd=fd)

    def _replace_name(self, top: str) -> None:
        """A file with as many links as the file system allows (ext4: 65,000) gives way to a new."""
        fresh = f"{top}.{next(self._serial)}"
        self._write_name(fresh, top)
        os.rename(fresh, f"{top}/name", src_dir_fd=self._staging_fd, dst_dir_fd=self._layers_fd)

    def _write_name(self, place: str, name: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(place, flags, 0o400, dir_fd=self._staging_fd), "wb") as file:
            file.write(name.encode())
