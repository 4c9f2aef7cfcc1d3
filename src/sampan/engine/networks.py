"""The networks that every engine has: their names, IDs and drivers, and which one is a container's.

``none`` and ``host`` are what they say. ``bridge`` is what a container gets that asks for nothing;
this version isolates it as ``none`` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sampan.engine.container import ContainerRecord
    from sampan.engine.core import Engine

__all__ = ["DRIVERS", "network_id", "network_of", "publish"]

DRIVERS = {"bridge": "bridge", "host": "host", "none": "null"}


def network_id(engine: Engine, name: str) -> str:
    """64 digits: the engine's, then the name's."""
    return engine.identity.replace("-", "") + name.encode().hex().ljust(32, "0")


def network_of(record: ContainerRecord) -> str:
    """Its network's name; ``container:ID`` where it uses another container's."""
    mode = record.host_config.network_mode
    return "bridge" if mode in ("", "default", "bridge") else mode


def publish(engine: Engine, record: ContainerRecord, action: str) -> None:
    """``connect`` and ``disconnect``: the events of a container's network around its runs."""
    name = network_of(record)
    if name in DRIVERS:
        attributes = {"container": record.id, "name": name, "type": DRIVERS[name]}
        engine.events.publish("network", action, network_id(engine, name), attributes)
