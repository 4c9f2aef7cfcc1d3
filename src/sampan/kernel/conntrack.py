"""Flows that the kernel tracks: found and forgotten, by ctnetlink's own messages.

After the kernel's Documentation/netlink/specs/conntrack.yaml and conntrack(8). A flow is two
tuples: as its first packet came, and as its answers come, by which one sees how it is translated.
Numbers are in network order.
"""

from __future__ import annotations

import struct
from errno import ENOENT
from typing import TYPE_CHECKING, NamedTuple

from sampan.kernel.nlmsg import (
    NETLINK_NETFILTER,
    Message,
    Socket,
    attribute,
    attributes,
    nested,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Flow", "Way", "flows", "forget", "open_socket"]

_SUBSYSTEM = 1
_GET, _DELETE = 1, 2
_ORIGINAL, _REPLY, _ID, _ZONE, _FILTER = 1, 2, 12, 18, 25
_TUPLE_ADDRESSES, _TUPLE_PROTOCOL = 1, 2
_SOURCE = {2: 1, 10: 3}  # by address family
_TARGET = {2: 2, 10: 4}
_NUMBER, _SOURCE_PORT, _TARGET_PORT = 1, 2, 3
_FILTER_ORIGINAL = 1
_BY_PROTOCOL = 1 << 3


class Way(NamedTuple):
    """One direction of a flow; addresses are packed."""

    source: bytes
    source_port: int
    target: bytes
    target_port: int


class Flow(NamedTuple):
    """``original`` is what was sent, ``reply`` what is expected back; ``key`` is the kernel's."""

    family: int
    original: Way
    reply: Way
    key: bytes


def _head(family: int) -> bytes:
    return struct.pack("=BBH", family, 0, 0)


def _way(body: bytes, family: int) -> Way | None:
    """None for what has no ports."""
    parts = attributes(body)
    ends = attributes(parts.get(_TUPLE_ADDRESSES, b""))
    ports = attributes(parts.get(_TUPLE_PROTOCOL, b""))
    try:
        return Way(
            ends[_SOURCE[family]],
            int.from_bytes(ports[_SOURCE_PORT], "big"),
            ends[_TARGET[family]],
            int.from_bytes(ports[_TARGET_PORT], "big"),
        )
    except KeyError:
        return None


def flows(socket: Socket, family: int, protocol: int) -> list[Flow]:
    """The flows of one protocol. The kernel picks them where it can (Linux 5.8), and we in any
    case. Raises KernelError."""
    wanted = nested(_TUPLE_PROTOCOL, attribute(_NUMBER, bytes((protocol,))))
    body = _head(family) + nested(_ORIGINAL, wanted)
    body += nested(_FILTER, attribute(_FILTER_ORIGINAL, struct.pack("=I", _BY_PROTOCOL)))
    ask = Message(_SUBSYSTEM << 8 | _GET, body, call="conntrack GET", target=f"protocol {protocol}")
    found = []
    for _, answer in socket.ask(ask, dump=True):
        parts = attributes(answer, 4)
        kind = attributes(attributes(parts.get(_ORIGINAL, b"")).get(_TUPLE_PROTOCOL, b""))
        if answer[0] != family or kind.get(_NUMBER) != bytes((protocol,)):
            continue
        original = _way(parts[_ORIGINAL], family)
        reply = _way(parts.get(_REPLY, b""), family)
        if original is not None and reply is not None:
            key = attribute(_ORIGINAL | 0x8000, parts[_ORIGINAL])
            key += b"".join(attribute(one, parts[one]) for one in (_ID, _ZONE) if one in parts)
            found.append(Flow(family, original, reply, key))
    return found


def forget(socket: Socket, gone: Sequence[Flow]) -> None:
    """Have the kernel know these flows no more: their next packet begins another. Raises
    KernelError."""
    socket.batch(
        [
            Message(
                _SUBSYSTEM << 8 | _DELETE,
                _head(one.family) + one.key,
                call="conntrack DELETE",
                ignore=(ENOENT,),
            )
            for one in gone
        ]
    )


def open_socket() -> Socket:
    return Socket(NETLINK_NETFILTER)
