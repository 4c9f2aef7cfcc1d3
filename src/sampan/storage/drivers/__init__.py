"""Snapshot drivers: how layers and containers' writable roots are kept on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    from sampan.storage.drivers.base import SnapshotDriver

__all__ = ["DRIVERS", "open_driver"]

DRIVERS = ("overlay2", "overlay", "vfs")


def open_driver(name: str, data_root: str) -> SnapshotDriver:
    """Open, or begin, the directory ``<data root>/<name>`` with its driver."""
    if name == "overlay2":
        from sampan.storage.drivers.overlay2 import Overlay2

        return Overlay2(data_root)
    if name == "overlay":
        from sampan.storage.drivers.overlay import Overlay

        return Overlay(data_root)
    if name == "vfs":
        from sampan.storage.drivers.vfs import Vfs

        return Vfs(data_root)
    raise InvalidArgument(f'storage driver "{name}" is not one of {", ".join(DRIVERS)}')
