"""What the older iptables has in the kernel, read only: a table's entries and a chain's policy.

After include/uapi/linux/netfilter_ipv4/ip_tables.h and x_tables.h. Tables of iptables-nft are
nftables' and not here. A table that is not there is not asked for: the kernel would load it.
"""

from __future__ import annotations

import _socket
import struct

from sampan.kernel.syscalls import buffer, syscall

__all__ = ["forward_policy_drops"]

_NAMES = "/proc/net/ip_tables_names"
_GET_INFO, _GET_ENTRIES = 64, 65  # IPT_SO_*
_INFO = struct.Struct("=32sI5I5III")  # struct ipt_getinfo
_HEAD = struct.Struct("=32sI4x")  # struct ipt_get_entries
_FORWARD = 2  # NF_INET_FORWARD
_OFFSETS = struct.Struct("=88xH")  # of struct ipt_entry: target_offset
_VERDICT = struct.Struct("=32xi")  # of struct xt_standard_target
_DROP = -1  # -NF_DROP - 1


def forward_policy_drops(names: tuple[bytes, ...]) -> bool:
    """Whether the table ``filter`` drops what is forwarded and no rule has one of ``names`` in it.

    False where there is no such table in this network namespace. Raises KernelError.
    """
    try:
        with open(_NAMES, encoding="ascii") as file:
            if "filter" not in file.read().split():
                return False
    except OSError:
        return False
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, 255)
    try:
        fields = _INFO.unpack(_ask(sock.fileno(), _GET_INFO, b"filter".ljust(_INFO.size, b"\0")))
        size, underflow = fields[13], fields[7 + _FORWARD]
        request = _HEAD.pack(b"filter", size) + bytes(size)
        entries = _ask(sock.fileno(), _GET_ENTRIES, request)[_HEAD.size :]
    finally:
        sock.close()
    (target,) = _OFFSETS.unpack_from(entries, underflow)
    (verdict,) = _VERDICT.unpack_from(entries, underflow + target)
    return verdict == _DROP and not any(name in entries for name in names)


def _ask(fd: int, option: int, request: bytes) -> bytes:
    data = buffer(request)
    length = buffer(struct.pack("=I", len(request)))
    syscall("getsockopt", fd, 0, option, data, length, target="ip_tables filter")
    return data.raw[: len(request)]
