"""nftables by its own messages: tables, chains, sets and rules, changed in one transaction.

After nft(8) and the kernel's Documentation/netlink/specs/nftables.yaml. Functions give messages;
``commit`` sends them as one batch, which the kernel applies as a whole or not at all. What stands
in rules is ``nft_rules``'s. Numbers in attributes are in network order.
"""

from __future__ import annotations

import struct
from errno import ENOENT
from typing import TYPE_CHECKING, NamedTuple

from sampan.errors import InvalidArgument, KernelError
from sampan.kernel.nft_rules import VALUE_TYPES, Verdict, data_value, data_verdict, text, u32
from sampan.kernel.nlmsg import (
    NETLINK_NETFILTER,
    NLM_F_ACK,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLMSG_ERROR,
    Message,
    Socket,
    attribute,
    attributes,
    failed,
    nested,
    senders,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "FAMILIES",
    "HOOKS",
    "Hook",
    "Watch",
    "add_elements",
    "commit",
    "delete_elements",
    "delete_table",
    "has_table",
    "new_chain",
    "new_rule",
    "new_set",
    "new_table",
    "pack_key",
    "span",
    "tables",
]

FAMILIES = {"inet": 1, "ip": 2, "bridge": 7, "ip6": 10}
HOOKS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}

_SUBSYSTEM = 10
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
(_NEWTABLE, _GETTABLE, _DELTABLE, _NEWCHAIN, _NEWRULE, _NEWSET, _NEWSETELEM, _DELSETELEM) = (
    0, 1, 2, 3, 6, 9, 12, 14,
)  # fmt: skip
_CALLS = {
    _NEWTABLE: "NEWTABLE", _GETTABLE: "GETTABLE", _DELTABLE: "DELTABLE", _NEWCHAIN: "NEWCHAIN",
    _NEWRULE: "NEWRULE", _NEWSET: "NEWSET", _NEWSETELEM: "NEWSETELEM", _DELSETELEM: "DELSETELEM",
}  # fmt: skip
_NAME = 1
_NEWGEN, _GENERATION_PID, _GENERATION_NAME = 15, 2, 3
_DELETIONS = (_DELTABLE, 5, 8, 11, _DELSETELEM)  # of tables, chains, rules, sets, elements
_GROUP = 7  # NFNLGRP_NFTABLES
_LIST_ELEMENT = 1
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_TYPE = 1, 3, 4, 5, 7
_HOOK_NUMBER, _HOOK_PRIORITY = 1, 2
_RULE_TABLE, _RULE_CHAIN, _RULE_EXPRESSIONS = 1, 2, 4
_SET_TABLE, _SET_NAME, _SET_FLAGS, _SET_KEY_TYPE, _SET_KEY_LENGTH = 1, 2, 3, 4, 5
_SET_DATA_TYPE, _SET_DATA_LENGTH, _SET_DESCRIPTION, _SET_ID = 6, 7, 9, 10
_SET_USER_DATA = 13
# For nft(8) only, which prints by it: type 0 (byte order of the key), 4 bytes, 1 (the machine's).
_KEY_IN_HOST_ORDER = struct.pack("=BBI", 0, 4, 1)
_HOST_ORDER = ("ifname", "mark")
_DESCRIPTION_CONCAT, _FIELD_LENGTH = 2, 1
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS = 1, 2, 3
_KEY, _DATA, _ELEMENT_FLAGS = 1, 2, 3
_FLAG_INTERVAL, _FLAG_MAP, _FLAG_CONCAT = 0x4, 0x8, 0x80
_INTERVAL_END = 1
_VERDICT_TYPE = 0xFFFFFF00
_CHUNK = 400  # elements of one message: an attribute's length is 16 bits
_ROOM = 1 << 22


class Hook(NamedTuple):
    """Where a base chain sits: ``kind`` is filter, nat or route; lower priorities come first."""

    kind: str
    hook: str
    priority: int


Value = bytes | Verdict


def _message(kind: int, family: str, body: bytes, flags: int, target: str) -> Message:
    header = struct.pack("=BBH", FAMILIES[family], 0, 0)
    call = f"nftables {_CALLS[kind]}"
    return Message(_SUBSYSTEM << 8 | kind, header + body, flags, call=call, target=target)


def new_table(family: str, name: str, *, exclusive: bool = False) -> Message:
    """The table, made if it is not there; ``EEXIST`` if it is, where it is to be new."""
    flags = NLM_F_CREATE | (NLM_F_EXCL if exclusive else 0)
    return _message(_NEWTABLE, family, attribute(_NAME, text(name)), flags, name)


def delete_table(family: str, name: str) -> Message:
    """The table with all that is in it; ``ENOENT`` if it is not there."""
    return _message(_DELTABLE, family, attribute(_NAME, text(name)), 0, name)


def new_chain(family: str, table: str, name: str, hook: Hook | None = None) -> Message:
    """A chain; with a hook a base chain, whose policy is accept."""
    body = attribute(_CHAIN_TABLE, text(table)) + attribute(_CHAIN_NAME, text(name))
    if hook is not None:
        number = attribute(_HOOK_NUMBER, u32(HOOKS[hook.hook]))
        priority = attribute(_HOOK_PRIORITY, struct.pack(">i", hook.priority))
        body += nested(_CHAIN_HOOK, number, priority)
        body += attribute(_CHAIN_POLICY, u32(1)) + attribute(_CHAIN_TYPE, text(hook.kind))
    return _message(_NEWCHAIN, family, body, NLM_F_CREATE, f"{table} {name}")


def new_rule(family: str, table: str, chain: str, *expressions: bytes) -> Message:
    """A rule at the end of ``chain``, of ``nft_rules``' expressions."""
    body = attribute(_RULE_TABLE, text(table)) + attribute(_RULE_CHAIN, text(chain))
    elements = (attribute(_LIST_ELEMENT | 0x8000, one) for one in expressions)
    body += nested(_RULE_EXPRESSIONS, *elements)
    return _message(_NEWRULE, family, body, NLM_F_CREATE | NLM_F_APPEND, f"{table} {chain}")


def _type(types: Sequence[str]) -> tuple[int, int]:
    """(the number nft(8) reads the type from, bytes in a register)."""
    number = length = 0
    for one in types:
        kind, size = VALUE_TYPES[one]
        number = number << 6 | kind
        length += size if len(types) == 1 else (size + 3) & ~3
    return number, length


def new_set(
    family: str,
    table: str,
    name: str,
    key: Sequence[str],
    value: Sequence[str] = (),
    *,
    interval: bool = False,
    number: int = 1,
) -> Message:
    """A set of ``key``, types of ``VALUE_TYPES``, several for a concatenation; with ``value`` a map
    to that, ``("verdict",)`` included. ``number`` tells the sets of one transaction apart."""
    kind, length = _type(key)
    flags = (_FLAG_INTERVAL if interval else 0) | (_FLAG_MAP if value else 0)
    body = attribute(_SET_TABLE, text(table)) + attribute(_SET_NAME, text(name))
    body += attribute(_SET_KEY_TYPE, u32(kind)) + attribute(_SET_KEY_LENGTH, u32(length))
    body += attribute(_SET_ID, u32(number))
    if tuple(value) == ("verdict",):
        body += attribute(_SET_DATA_TYPE, u32(_VERDICT_TYPE)) + attribute(_SET_DATA_LENGTH, u32(0))
    elif value:
        data_kind, data_length = _type(value)
        body += attribute(_SET_DATA_TYPE, u32(data_kind))
        body += attribute(_SET_DATA_LENGTH, u32(data_length))
    if interval and len(key) > 1:
        flags |= _FLAG_CONCAT
        fields = (
            nested(_LIST_ELEMENT, attribute(_FIELD_LENGTH, u32(VALUE_TYPES[one][1]))) for one in key
        )
        body += nested(_SET_DESCRIPTION, nested(_DESCRIPTION_CONCAT, *fields))
    body += attribute(_SET_FLAGS, u32(flags))
    if key[0] in _HOST_ORDER and len(key) == 1:
        body += attribute(_SET_USER_DATA, _KEY_IN_HOST_ORDER)
    return _message(_NEWSET, family, body, NLM_F_CREATE, f"{table} {name}")


def pack_key(*fields: bytes) -> bytes:
    """A concatenation of fields, as registers hold it."""
    if len(fields) == 1:
        return fields[0]
    return b"".join(field + bytes(-len(field) % 4) for field in fields)


def _element(key: bytes, value: Value | None, ends: bool) -> bytes:
    body = nested(_KEY, data_value(key))
    if isinstance(value, Verdict):
        body += nested(_DATA, data_verdict(value))
    elif value is not None:
        body += nested(_DATA, data_value(value))
    if ends:
        body += attribute(_ELEMENT_FLAGS, u32(_INTERVAL_END))
    return nested(_LIST_ELEMENT, body)


def _elements(
    kind: int,
    family: str,
    table: str,
    name: str,
    pairs: Iterable[tuple[bytes, Value | None]],
    *,
    interval: bool,
) -> list[Message]:
    packed = []
    for key, value in pairs:
        if interval:
            # (first, behind the last) in one key: the second is not in the set.
            half = len(key) // 2
            packed.append(_element(key[:half], value, False))
            packed.append(_element(key[half:], None, True))
        else:
            packed.append(_element(key, value, False))
    head = attribute(_LIST_TABLE, text(table)) + attribute(_LIST_SET, text(name))
    flags = NLM_F_CREATE if kind == _NEWSETELEM else 0
    return [
        _message(
            kind,
            family,
            head + nested(_LIST_ELEMENTS, *packed[start : start + _CHUNK]),
            flags,
            f"{table} {name}",
        )
        for start in range(0, len(packed), _CHUNK)
    ]


def add_elements(
    family: str,
    table: str,
    name: str,
    pairs: Iterable[tuple[bytes, Value | None]],
    *,
    interval: bool = False,
) -> list[Message]:
    """(key, value) pairs for a map, (key, None) for a set; of an interval set the key is the first
    address and the one behind the last, one after the other (``span``)."""
    return _elements(_NEWSETELEM, family, table, name, pairs, interval=interval)


def delete_elements(
    family: str,
    table: str,
    name: str,
    pairs: Iterable[tuple[bytes, Value | None]],
    *,
    interval: bool = False,
) -> list[Message]:
    """The same elements again; ``ENOENT`` if one is not there."""
    return _elements(_DELSETELEM, family, table, name, pairs, interval=interval)


def span(first: bytes, prefix: int) -> bytes:
    """An interval set's key for a subnet. Raises InvalidArgument for one that reaches the end of
    the address space."""
    size = 1 << (len(first) * 8 - prefix)
    end = int.from_bytes(first, "big") + size
    if end >> (len(first) * 8):
        raise InvalidArgument("a subnet at the end of the address space")
    return first + end.to_bytes(len(first), "big")


def commit(messages: Sequence[Message], by: Socket | None = None) -> None:
    """Apply all of the messages, or none: raises the first one's KernelError. ``by``: a socket of
    the caller's, by which it is known whose change that was."""
    frame = struct.pack(">BBH", 0, 0, _SUBSYSTEM)
    begin = Message(_BATCH_BEGIN, frame, call="nftables BATCH").pack(1, 0)
    end = Message(_BATCH_END, frame, call="nftables BATCH").pack(len(messages) + 2, 0)
    last = len(messages) - 1
    parts = [
        one.pack(number + 2, NLM_F_ACK if number == last else 0)
        for number, one in enumerate(messages)
    ]
    data = begin + b"".join(parts) + end
    if by is not None:
        by.skip()  # what an earlier change that was refused left
        by.make_room(_ROOM)
        _send(by, messages, data)
        return
    with Socket(NETLINK_NETFILTER) as socket:
        socket.make_room(_ROOM)
        _send(socket, messages, data)


def _send(socket: Socket, messages: Sequence[Message], data: bytes) -> None:
    first: KernelError | None = None
    for kind, _, sequence, content in socket.exchange(data, "nftables BATCH"):
        if kind != NLMSG_ERROR:
            continue
        index = sequence - 2
        if not 0 <= index < len(messages):
            # The frame's own: the whole batch was refused.
            failure = failed(Message(0, b"", call="nftables BATCH"), content)
            raise first or failure or KernelError("nftables BATCH", 0, "")
        failure = failed(messages[index], content)
        first = first or failure
        if index == len(messages) - 1:
            break
    if first is not None:
        raise first


class Watch:
    """Hears of what others delete of the table ``name``; ``own`` is the port of who may."""

    def __init__(self, name: str, own: int) -> None:
        self._name = text(name)
        self._own = own
        self._deleted = False
        self._socket = Socket(NETLINK_NETFILTER)
        try:
            self._socket.make_room(_ROOM)
            self._socket.subscribe(_GROUP)
        except KernelError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def read(self) -> list[str]:
        """Who has deleted something since, a name and a PID for each transaction; "?" where the
        kernel had more to tell than there was room for."""
        found = []
        try:
            for data in self._socket.waiting():
                for kind, port, body in senders(data):
                    if port != self._own and kind >> 8 == _SUBSYSTEM:
                        found += self._heard(kind & 0xFF, body)
        except KernelError:
            found.append("?")
        return found

    def _heard(self, kind: int, body: bytes) -> list[str]:
        if kind == _NEWGEN:  # the end of a transaction
            deleted, self._deleted = self._deleted, False
            values = attributes(body, 4)
            name = values.get(_GENERATION_NAME, b"").rstrip(b"\0").decode(errors="replace")
            pid = int.from_bytes(values.get(_GENERATION_PID, b""), "big")
            return [f"{name} (PID {pid})"] if deleted else []
        if kind in _DELETIONS and attributes(body, 4).get(_NAME) == self._name:
            self._deleted = True
        return []


def has_table(family: str, name: str) -> bool:
    """Whether there is a table of that name."""
    with Socket(NETLINK_NETFILTER) as socket:
        try:
            socket.ask(_message(_GETTABLE, family, attribute(_NAME, text(name)), 0, name))
        except KernelError as error:
            if error.errno == ENOENT:
                return False
            raise
        return True


def tables(family: str) -> set[str]:
    """The names of the tables there are."""
    with Socket(NETLINK_NETFILTER) as socket:
        message = _message(_GETTABLE, family, b"", 0, "")
        return {
            attributes(body, 4)[_NAME].rstrip(b"\0").decode()
            for _, body in socket.ask(message, dump=True)
        }
