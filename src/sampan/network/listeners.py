"""Which process of the machine has a port: for an error's words, when it is too late.

After proc_pid_net(5): the tables of sockets name an inode, and a process's descriptors lead to it.
"""

from __future__ import annotations

import os

__all__ = ["listener"]

_LISTENS = {"tcp": "0A", "udp": "07"}


def listener(protocol: str, port: int) -> str:
    """``nginx (PID 123)``, or "" where nobody is found: processes of other users, or of other
    namespaces of processes, do not show what they have open."""
    inodes = _inodes(protocol, port)
    if not inodes:
        return ""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for pid in os.listdir("/proc"):
        if pid.isdigit() and _has(pid, wanted):
            return f"{_name(pid)} (PID {pid})"
    return ""


def _inodes(protocol: str, port: int) -> set[str]:
    found = set()
    state = _LISTENS.get(protocol)
    if state is None:
        return set()
    for table in (protocol, f"{protocol}6"):
        try:
            with open(f"/proc/net/{table}", encoding="ascii") as file:
                lines = file.read().splitlines()[1:]
        except OSError:
            continue  # a kernel without that family
        for line in lines:
            words = line.split()
            if words[3] == state and int(words[1].rpartition(":")[2], 16) == port:
                found.add(words[9])
    return found


def _has(pid: str, wanted: set[str]) -> bool:
    directory = f"/proc/{pid}/fd"
    try:
        names = os.listdir(directory)
    except OSError:
        return False  # it is gone, or not ours to look at
    for name in names:
        try:
            if os.readlink(f"{directory}/{name}") in wanted:
                return True
        except OSError:
            continue  # closed meanwhile
    return False


def _name(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "a process"
