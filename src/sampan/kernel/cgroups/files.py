"""A group's directory in one hierarchy: its files, read and written whole.

Cgroup files take one value per write(2), and the kernel answers a bad one with an errno and nothing
else, so every error here names the value, the file and the group. cgroups(7): a cgroup file system
holds no symbolic links, so paths below its mount cannot be redirected.
"""

from __future__ import annotations

import os
from errno import (
    EACCES,
    EBUSY,
    EINVAL,
    ENODEV,
    ENOENT,
    ENOSPC,
    ENXIO,
    EOPNOTSUPP,
    ERANGE,
)

from sampan.errors import InvalidArgument, KernelError, NotSupported

__all__ = ["Directory", "flat", "nested"]

_REFUSALS = frozenset({EACCES, EBUSY, EINVAL, ENODEV, ENOSPC, ENXIO, EOPNOTSUPP, ERANGE})
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW


class Directory:
    """One directory of a cgroup file system: ``path`` on disk, ``group`` as errors name it."""

    __slots__ = ("group", "path")

    def __init__(self, path: str, group: str) -> None:
        self.path = path
        self.group = group

    def __repr__(self) -> str:
        return f"Directory({self.path!r})"

    def below(self, name: str) -> Directory:
        """The sub-group's directory."""
        return Directory(f"{self.path}/{name}", f"{self.group.rstrip('/')}/{name}")

    def open(self, file: str, flags: int = os.O_RDONLY) -> int:
        """A descriptor of ``file``; the caller closes it."""
        try:
            return os.open(f"{self.path}/{file}", flags | _FLAGS)
        except OSError as error:
            raise KernelError("open", error.errno or 0, self.name(file)) from None

    def read(self, file: str) -> str:
        """The text of ``file``."""
        fd = self.open(file)
        try:
            parts = []
            while part := os.read(fd, 65536):
                parts.append(part)
        except OSError as error:
            raise KernelError("read", error.errno or 0, self.name(file)) from None
        finally:
            os.close(fd)
        return b"".join(parts).decode()

    def find(self, file: str) -> str | None:
        """The text of ``file``; None where the kernel has no such file or no value for it."""
        try:
            return self.read(file)
        except KernelError as error:
            if error.errno in (ENOENT, EOPNOTSUPP, ENODEV):
                return None
            raise

    def number(self, file: str) -> int | None:
        """The one number in ``file``; None for ``max`` and where there is no such file."""
        text = self.find(file)
        if text is None:
            return None
        text = text.strip()
        return None if text == "max" else int(text)

    def has(self, file: str) -> bool:
        """Is there such a file?"""
        return os.access(f"{self.path}/{file}", os.F_OK)

    def files(self) -> list[str]:
        """The names of its files and sub-groups, sorted; none if the group is gone."""
        try:
            return sorted(os.listdir(self.path))
        except FileNotFoundError:
            return []

    def exists(self) -> bool:
        """Is there such a group in this hierarchy?"""
        return os.path.isdir(self.path)

    def write(self, file: str, *values: str) -> None:
        """Write each value with a write(2) of its own, as these files want it."""
        fd = self.open(file, os.O_WRONLY)
        value = ""
        try:
            for value in values:
                os.write(fd, value.encode())
        except OSError as error:
            raise KernelError(
                f'write "{value.strip()}" to', error.errno or 0, self.name(file)
            ) from None
        finally:
            os.close(fd)

    def set(self, resource: str, file: str, value: object, hint: str = "") -> None:
        """Write a limit; ``resource`` is its name and value as the caller asked for it.

        ``NotSupported``: this kernel has no such file. ``InvalidArgument``: the kernel refuses the
        value.
        """
        try:
            self.write(file, str(value))
        except KernelError as error:
            if error.errno == ENOENT and not self.has(file):
                raise NotSupported(
                    f"{resource}: this machine's kernel has no file {self.name(file)}"
                ) from error
            if error.errno in _REFUSALS:
                raise InvalidArgument(f"{resource}: {error}{hint}") from error
            raise KernelError(f"{resource}: {error.call}", error.errno or 0, error.target) from None

    def settle(self, settings: list[tuple[str, str, object]]) -> None:
        """Set files whose values bind each other, (resource, file, value) each.

        A quota is checked against the period in force and a burst against the quota in force, so
        which goes first depends on what stood there before. What the kernel refuses is offered
        again after the others; when a round moves nothing, the refusal stands.
        """
        while settings:
            refused: list[tuple[str, str, object]] = []
            first: InvalidArgument | None = None
            for setting in settings:
                try:
                    self.set(*setting)
                except InvalidArgument as error:
                    refused.append(setting)
                    first = first or error
            if first is not None and len(refused) == len(settings):
                raise first
            settings = refused

    def processes(self) -> list[int]:
        """The processes that are in this very group (not in its sub-groups)."""
        text = self.find("cgroup.procs")
        # A process of a pid namespace we cannot see into reads as 0.
        return [] if text is None else [int(line) for line in text.split() if line != "0"]

    def children(self) -> list[Directory]:
        """The sub-groups, one level down."""
        try:
            # Two links and one for each sub-directory: kernfs keeps the count.
            if os.stat(self.path).st_nlink <= 2:
                return []
            with os.scandir(self.path) as entries:
                return [self.below(entry.name) for entry in entries if entry.is_dir()]
        except FileNotFoundError:
            return []

    def subtree(self) -> list[Directory]:
        """Every group below this one and this one, parents after their children."""
        found: list[Directory] = []
        for child in self.children():
            found += child.subtree()
        return [*found, self]

    def name(self, file: str) -> str:
        """How errors call ``file``: ``memory.max of /sampan/x``."""
        return f"{file} of {self.group}"


def flat(text: str | None) -> dict[str, int]:
    """A flat keyed file (``key number`` lines) as a mapping."""
    result: dict[str, int] = {}
    for line in (text or "").splitlines():
        key, _, value = line.partition(" ")
        if value.isdigit():
            result[key] = int(value)
    return result


def nested(text: str | None) -> dict[str, dict[str, str]]:
    """A nested keyed file (``key name=value name=value`` lines) as a mapping of mappings."""
    result: dict[str, dict[str, str]] = {}
    for line in (text or "").splitlines():
        key, *pairs = line.split()
        result[key] = dict(pair.partition("=")[::2] for pair in pairs)
    return result
