"""``overlay``: the predecessor of overlay2, for one lower directory only (Linux 3.18 to 3.19).

Each layer is the whole tree: its parent's files as hard links, and what the layer brings. So an
image costs an inode per directory and layer where overlay2 costs none (``bench/layers.py`` prints
both), and in exchange a mount needs one lower directory however many layers there are.

A hard link shares its inode with the parent: unpacking must replace a file, never open one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.storage.drivers.overlaid import OverlaidDriver
from sampan.storage.drivers.trees import clone_tree

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sampan.storage.archive.applied import WhiteoutStyle

__all__ = ["Overlay"]


class Overlay(OverlaidDriver):
    name = "overlay"
    whiteouts: WhiteoutStyle = "direct"

    def layer_graph(self, chain: Sequence[str]) -> dict[str, str]:
        return {"RootDir": self.layer_path(chain[-1])} if chain else {}

    def _seed_layer(self, below: int, fd: int) -> None:
        clone_tree(below, fd, link=True)

    def _lower(self, top: str) -> str:
        return f"{self.root}/layers/{top}/diff"

    def _lower_paths(self, top: str) -> list[str]:
        return [self._lower(top)]
