"""What a daemon's containers have left on this machine, once there are none.

``Before`` looks at everything that a container is made of while there is no container, and ``left``
says what is there beside that later: rows of any table, files of any name below the two roots,
cgroups in any hierarchy, mounts in any mount namespace that a process of ours has, processes,
namespaces, descriptors of the daemon, session keyrings.

A process that nobody knows of is found because this one is its subreaper (prctl(2),
PR_SET_CHILD_SUBREAPER): whatever the daemon, a zygote or a monitor leaves behind becomes its child.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING

from sampan.kernel import cgroups
from sampan.kernel.processes import set_child_subreaper

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from tests.daemon_fixture import Daemon

__all__ = ["Before", "Findings", "groups", "is_resolver", "names"]

Findings = dict[str, set[str]]

_GROWS = ("events", "lock", "sampan.db-wal", "sampan.db-shm")
"""Of the data root: what is written to without a container, or is there while it is open."""


def _warm(daemon: Daemon) -> None:
    """Have the daemon make what it makes once: a container's life, and a volume's."""
    container = daemon.run("true", HostConfig={"Binds": ["/data"]})
    daemon.wait(container)
    assert daemon.delete(f"/containers/{container}", force=1, v=1).status == 204


class Before:
    """Taken of a daemon without a container; until ``close`` what it orphans is adopted."""

    def __init__(self, daemon: Daemon) -> None:
        set_child_subreaper()
        self._daemon = daemon
        self._others = set(_children(os.getpid())) - {daemon.pid}
        _warm(daemon)
        deadline = time.monotonic() + 60
        before = self._look(())
        while True:  # until it has deleted the bytes of what it removed
            time.sleep(0.7)
            now = self._look(())
            if now == before:
                break
            assert time.monotonic() < deadline, now
            before = now
        self._before = before
        self._descriptors = _descriptors(daemon)

    def left(self, ids: Collection[str]) -> Findings:
        """What is there and was not; ``ids`` are those of the containers there were."""
        found = {
            what: which - self._before.get(what, set()) for what, which in self._look(ids).items()
        }
        if len(now := _descriptors(self._daemon)) > len(self._descriptors):
            found["descriptors"] = now - self._descriptors
        return {what: which for what, which in found.items() if which}

    def wait(self, ids: Collection[str], seconds: float = 60) -> Findings:
        """What is left when nothing is, or when the time is over."""
        deadline = time.monotonic() + seconds
        while (left := self.left(ids)) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left

    def processes(self) -> dict[int, str]:
        """The daemon and every process that comes of it or of a predecessor, with their names.

        Those adopted that have ended are reaped here.
        """
        for pid in set(_children(os.getpid())) - self._others - {self._daemon.pid}:
            if _state(pid) == "Z":
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
        found: dict[int, str] = {}
        waiting = set(_children(os.getpid())) - self._others
        while waiting:
            pid = waiting.pop()
            if pid not in found and _state(pid) not in ("Z", ""):
                found[pid] = _name(pid)
                waiting |= set(_children(pid))
        return found

    def _look(self, ids: Collection[str]) -> Findings:
        daemon, ours = self._daemon, self.processes()
        return {
            "rows": set(_rows(daemon)),
            "files of the data root": set(_files(daemon.data_root, _GROWS)),
            "files of the exec root": set(_files(daemon.exec_root, ())),
            "cgroups": groups(daemon),
            "mounts": set(_mounts(daemon, ours)),
            "processes": _strangers(daemon, ours),
            "namespaces": set(_namespaces(ours)),
            "keyrings": set(_keyrings(ids)),
        }

    @staticmethod
    def close() -> None:
        """Adopt no more."""
        set_child_subreaper(False)


def names(directory: Path) -> set[str]:
    return set(os.listdir(directory)) if directory.is_dir() else set()


def groups(daemon: Daemon) -> set[str]:
    """The cgroups of the daemon's containers, in any hierarchy."""
    found: set[str] = set()
    for mount in cgroups.detect().mounts.values():
        top = Path(f"{mount}{daemon.cgroup}")
        if top.is_dir():
            found |= {entry.name for entry in top.iterdir() if entry.is_dir()}
    return found


def _rows(daemon: Daemon) -> Iterator[str]:
    with contextlib.closing(
        sqlite3.connect(f"file:{daemon.data_root}/sampan.db?mode=ro", uri=True)
    ) as database:
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            for number, row in enumerate(database.execute(f"SELECT * FROM {table}")):
                yield f"{table}: {number if table == 'layers' else row[:3]}"


def _files(root: Path, apart: Collection[str]) -> Iterator[str]:
    """Every path below, but for those that begin with one of the names ``apart``.

    Layers are counted: the ``host`` image's is another when this machine's /etc changes, as it does
    where somebody installs a package meanwhile.
    """
    for place, directories, files in os.walk(root):
        if place == str(root):
            directories[:] = [name for name in directories if name not in apart]
        if os.path.basename(place) in ("layers", "l"):
            yield from (f"{place}: {number}" for number in range(len(directories)))
            directories.clear()
        for name in directories + files:
            if place != str(root) or name not in apart:
                yield os.path.relpath(f"{place}/{name}", root)


def is_resolver(pid: int) -> bool:
    """Whether it is the process that answers containers' questions for names."""
    try:
        return b"sampan.network.resolver" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _children(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):  # it has just ended
        for task in os.listdir(f"/proc/{pid}/task"):
            text = Path(f"/proc/{pid}/task/{task}/children").read_text()
            yield from map(int, text.split())


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _strangers(daemon: Daemon, ours: dict[int, str]) -> set[str]:
    """All but the daemon, its zygote, and the pair that waits there. A resolver ends when there is
    nobody to serve."""
    known = {daemon.pid}
    for zygote in daemon.zygotes():
        if is_resolver(zygote):
            continue
        known.add(zygote)
        for monitor in _children(zygote):
            makers = [pid for pid in _children(monitor) if _name(pid) == "sampan-monitor"]
            if makers:
                known |= {monitor, *makers}
    return {f"{pid} {name}" for pid, name in ours.items() if pid not in known}


def _mounts(daemon: Daemon, ours: dict[int, str]) -> Iterator[str]:
    for pid in (os.getpid(), *ours):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
                if str(daemon.root) in line.split()[4]:
                    yield line.split()[4]


def _namespaces(ours: dict[int, str]) -> Iterator[str]:
    """Those other than this process's that one of ours is in or holds, or that are mounted."""
    own = {os.readlink(f"/proc/self/ns/{kind}") for kind in os.listdir("/proc/self/ns")}
    kinds = {name.partition(":[")[0] for name in own}
    for pid, name in ours.items():
        for place in ("ns", "fd"):
            with contextlib.suppress(OSError):
                for entry in os.listdir(f"/proc/{pid}/{place}"):
                    target = os.readlink(f"/proc/{pid}/{place}/{entry}")
                    if target.partition(":[")[0] in kinds and target not in own:
                        yield f"{name}: {target}"


def _keyrings(ids: Collection[str]) -> Iterator[str]:
    wanted = set(ids)
    for line in Path("/proc/keys").read_text().splitlines():
        fields = line.split()
        # "i": it is invalid, and waits for the kernel's collector.
        if fields[-2].rstrip(":") in wanted and "i" not in fields[1] and "D" not in fields[1]:
            yield fields[-2]


def _descriptors(daemon: Daemon) -> set[str]:
    found = set()
    place = f"/proc/{daemon.pid}/fd"
    for entry in os.listdir(place):
        with contextlib.suppress(OSError):
            found.add(f"{entry} {os.readlink(f'{place}/{entry}')}")
    return found
