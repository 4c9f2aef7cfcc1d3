"""What of the project is on the machine: mounts, cgroups, interfaces and processes.

A run of tests compares what was there before its first test with what is there after its last.
Several runs may go on at once: what tells by its name, its directory or its ancestors that it is
another run's does not count. An interface tells nothing, so whoever starts several runs looks at
the interfaces itself (``APART``).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["APART", "belong_to_us", "interfaces", "ours"]

APART = "SAMPAN_TESTS_APART"
"""Set for runs side by side whose starter compares the interfaces."""

_base: list[Path] = []
_errors: set[str] = set()


def belong_to_us(*directories: Path) -> None:
    """Where this run's files are, as against another's."""
    _base.extend(directories)
    _errors.add(_errors_of("/proc/self"))


def ours() -> set[str]:
    """A line for each thing of the project that may be this run's."""
    found = _mounts() | _cgroups() | _processes()
    return found if os.environ.get(APART) else found | interfaces()


def interfaces() -> set[str]:
    """A line for each of the project's interfaces in this network namespace."""
    net = Path("/sys/class/net")
    names = [path.name for path in net.iterdir()] if net.exists() else []
    return {f"interface {name}" for name in names if name.startswith(("sp", "sampan", "vsp"))}


def _mounts() -> set[str]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        places = [line.split()[4] for line in file]
    return {
        f"mount {p}" for p in places if ("sampan" in p or "pytest" in p) and not _is_anothers(p)
    }


def _is_anothers(text: str) -> bool:
    """Whether a name tells that it belongs to another run of tests on this machine."""
    directory = re.search(r"/pytest-of-[^/]+/pytest-(\d+)/", text)
    if directory is not None:
        return bool(_base) and directory[0] not in f"{_base[0]}/"
    group = re.search(r"sampan-test-(\d+)-", text)
    return group is not None and int(group[1]) != os.getpid()


def _cgroups() -> set[str]:
    found: set[str] = set()
    level = ["/sys/fs/cgroup"]
    for _ in range(3):
        below: list[str] = []
        for parent in level:
            try:
                with os.scandir(parent) as entries:
                    below += [entry.path for entry in entries if entry.is_dir()]
            except FileNotFoundError:
                continue  # another's, removed while we looked
        names = {path for path in below if "sampan" in os.path.basename(path)}
        found |= {f"cgroup {path}" for path in names if not _is_anothers(path)}
        level = below
    return found


def _processes() -> set[str]:
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes().split(b"\0")
            name = (path / "comm").read_text().strip()
            state = (path / "stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        first = [os.path.basename(word).decode(errors="replace") for word in command[:2]]
        ours = name.startswith("sampan") or any(word.startswith("sampan") for word in first)
        if ours and state != "Z" and _is_of_this_run(path.name):
            found.add(f"process {path.name}: {name}")
    return found


def _is_of_this_run(pid: str) -> bool:
    """Whether it descends from us, or writes where this run's processes do, whoever adopted it."""
    errors = _errors_of(f"/proc/{pid}")
    if errors in _errors or any(errors.startswith(f"{base}/") for base in _base):
        return True
    while pid not in ("0", "1"):
        if pid == str(os.getpid()):
            return True
        try:
            pid = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
        except (FileNotFoundError, ProcessLookupError):
            return False
    return False


def _errors_of(process: str) -> str:
    """Where its standard error goes: a daemon's log, for what it started too."""
    try:
        return os.readlink(f"{process}/fd/2")
    except OSError:
        return ""
