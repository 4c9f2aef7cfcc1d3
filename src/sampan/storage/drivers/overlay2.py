"""``overlay2``: a directory per layer, each holding only what its layer adds; all are lowers.

The kernel takes up to 500 lower directories (``OVL_MAX_STACK``), but the data of mount(2) is one
page: 4,096 bytes. So each layer has a symbolic link with a short name, ``<data root>/l/<name>``,
and with the usual data root some 160 layers fit; fsconfig(2) with ``lowerdir+`` has no such limit.

The links are derived: a missing one is made, a dangling one removed, when the driver is opened.
"""

from __future__ import annotations

import os
from base64 import b32encode
from typing import TYPE_CHECKING

from sampan.oci import digest as digests
from sampan.storage.drivers.overlaid import OverlaidDriver
from sampan.storage.drivers.pairs import copy_root_attributes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sampan.storage.archive.applied import WhiteoutStyle

__all__ = ["Overlay2"]

_SHORTEST = 4


class Overlay2(OverlaidDriver):
    name = "overlay2"
    whiteouts: WhiteoutStyle = "overlay"
    loose = True

    def __init__(self, data_root: str) -> None:
        super().__init__(data_root)
        self._links = f"{os.path.abspath(data_root)}/l"
        try:
            os.mkdir(self._links, 0o700)
        except FileExistsError:
            pass
        self._short: dict[str, str] = {}
        for link in os.listdir(self._links):
            name = os.readlink(f"{self._links}/{link}").split("/")[-2]
            if name in self._parents and name not in self._short:
                self._short[name] = link
            else:
                os.unlink(f"{self._links}/{link}")
        for name in self._parents:
            if name not in self._short:
                self._link(name)

    def remove_layer(self, chain_id: str) -> None:
        super().remove_layer(chain_id)
        with self._lock:
            link = self._short.pop(chain_id.partition(":")[2], None)
            if link is not None:
                os.unlink(f"{self._links}/{link}")

    def layer_graph(self, chain: Sequence[str]) -> dict[str, str]:
        paths = [self.layer_path(chain_id) for chain_id in reversed(chain)]
        if not paths:
            return {}
        outer = os.path.dirname(paths[0])
        graph = {
            "MergedDir": f"{outer}/merged",
            "UpperDir": paths[0],
            "WorkDir": f"{outer}/work",
        }
        return {"LowerDir": ":".join(paths[1:]), **graph} if paths[1:] else graph

    def _seed_layer(self, below: int, fd: int) -> None:
        # A layer that does not mention its root keeps the attributes of the one below.
        copy_root_attributes(os.fstat(below), ".", fd)

    def _open_lower(self, parent: str | None) -> tuple[int, ...]:
        if parent is None:
            return ()
        opened: list[int] = []
        try:
            for name in self._ancestry(digests.hexadecimal(parent)):
                opened.append(self._open_layer(f"sha256:{name}"))
        except BaseException:
            for fd in opened:
                os.close(fd)
            raise
        return tuple(opened)

    def _place_layer(self, staged: str, target: str) -> None:
        super()._place_layer(staged, target)
        self._link(target)

    def _lower(self, top: str) -> str:
        return ":".join(f"{self._links}/{self._short[name]}" for name in self._ancestry(top))

    def _lower_paths(self, top: str) -> list[str]:
        return [f"{self.root}/layers/{name}/diff" for name in self._ancestry(top)]

    def _link(self, name: str) -> None:
        # Base 32 of a hash: short, and the same on every machine unless the beginning is taken.
        text = b32encode(bytes.fromhex(name)).decode().lower()
        for length in range(_SHORTEST, len(text)):
            try:
                target = f"../{self.name}/layers/{name}/diff"
                os.symlink(target, f"{self._links}/{text[:length]}")
            except FileExistsError:
                continue
            self._short[name] = text[:length]
            return
