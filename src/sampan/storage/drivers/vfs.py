"""``vfs``: no union file system at all; each layer and each container is a full copy.

Slow and large, and it works on any file system with no mount but a bind: the fallback, and the
oracle the other drivers are compared with. On a file system that can share extents the copies
share their data (``trees.clone_tree``).
"""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from sampan.errors import NotSupported
from sampan.oci.runtime import Mount
from sampan.storage.archive.diff import changes_between, size_between, write_difference
from sampan.storage.drivers.directory import DirectoryDriver
from sampan.storage.drivers.pairs import make_empty
from sampan.storage.drivers.trees import clone_tree

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sampan.storage.archive.applied import WhiteoutStyle
    from sampan.storage.archive.diff import Change
    from sampan.storage.archive.writer import Output, Written

__all__ = ["Vfs"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Vfs(DirectoryDriver):
    name = "vfs"
    whiteouts: WhiteoutStyle = "direct"

    def create_container(
        self,
        name: str,
        chain: Sequence[str],
        system: Sequence[str] = (),
        empty: Sequence[str] = (),
    ) -> None:
        if system:
            raise NotSupported(
                f"storage driver vfs cannot lay a writable layer over {', '.join(system)} of this "
                "machine: the host image needs the overlay2 or the overlay driver"
            )
        with self._making(name, chain) as fd:
            os.mkdir("fs", 0o755, dir_fd=fd)
            source = self._open_layer(chain[-1])
            try:
                target = os.open("fs", _DIRECTORY, dir_fd=fd)
                try:
                    clone_tree(source, target, link=False)
                finally:
                    os.close(target)
            finally:
                os.close(source)
            for file in empty:
                with suppress(FileExistsError):  # the image's own
                    make_empty(f"fs/{file}", fd)

    def mounts(self, name: str, *, disposable: bool = False) -> tuple[Mount, ...]:
        self._top(name)
        source = f"{self.root}/rw/{name}/fs"
        return (Mount(destination="/", type="bind", source=source, options=("bind",)),)

    def image_mount(self, chain: Sequence[str]) -> Mount:
        self._require_layer(chain[-1])
        source = self.layer_path(chain[-1])
        return Mount(destination="/", type="bind", source=source, options=("bind", "ro"))

    def changes(self, name: str, marks: Collection[bytes] = ()) -> list[Change]:
        with ExitStack() as stack:
            return changes_between(*self._opened(name, stack), marks)

    def diff(self, name: str, out: Output, marks: Collection[bytes] = ()) -> Written:
        with ExitStack() as stack:
            return write_difference(*self._opened(name, stack), out, marks=marks)

    def size(self, name: str, marks: Collection[bytes] = ()) -> int:
        with ExitStack() as stack:
            return size_between(*self._opened(name, stack), marks)

    def graph(self, name: str) -> dict[str, str]:
        return {"RootDir": f"{self.root}/rw/{name}/fs"}

    def layer_graph(self, chain: Sequence[str]) -> dict[str, str]:
        return {"RootDir": self.layer_path(chain[-1])} if chain else {}

    def _opened(self, name: str, stack: ExitStack) -> tuple[int, int]:
        """Descriptors of the top layer's tree and of the container's, which ``stack`` closes."""
        old = self._open_layer("sha256:" + self._top(name))
        stack.callback(os.close, old)
        new = os.open(f"{name}/fs", _DIRECTORY, dir_fd=self._rw_fd)
        stack.callback(os.close, new)
        return old, new

    def _seed_layer(self, below: int, fd: int) -> None:
        clone_tree(below, fd, link=False)
