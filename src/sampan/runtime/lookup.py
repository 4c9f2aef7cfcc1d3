"""Finding a process's program, inside the container and as its user.

After execvp(3) and Go's habit that callers know: a name with a slash is a path, another is looked
up in the container's own ``PATH``. What execve(2) would refuse is told apart here, at ``create``:
missing (exit status 127) or there and not executable (126).
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from sampan.errors import CommandNotExecutable, CommandNotFound, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sampan.errors import SampanError

__all__ = ["explain", "find"]


def find(name: str, environment: Mapping[str, str]) -> str:
    """The path to execute for ``name``; raises CommandNotFound or CommandNotExecutable."""
    if "/" in name:
        reason = _refusal(name)
        if reason is None:
            return name
        if reason in ("no such file", "not a directory on the way"):
            raise CommandNotFound(f'exec: "{name}": no such file in the container')
        raise CommandNotExecutable(f'exec: "{name}": {reason}')
    search = environment.get("PATH", "")
    seen = None
    for directory in search.split(":"):
        path = os.path.join(directory or ".", name)
        reason = _refusal(path)
        if reason is None:
            return path
        if seen is None and reason not in ("no such file", "not a directory on the way"):
            seen = (path, reason)
    if seen is not None:
        raise CommandNotExecutable(f'exec: "{name}": {seen[0]}: {seen[1]}')
    where = search or "not set"
    raise CommandNotFound(f'exec: "{name}": executable file not found in $PATH ({where})')


def explain(path: str, error: OSError) -> SampanError:
    """The error for an execve(2) of ``path`` that failed though ``find`` had nothing against it."""
    if error.errno == errno.ENOENT:
        if os.path.exists(path):
            return CommandNotExecutable(f'exec: "{path}": its interpreter is not in the container')
        return CommandNotFound(f'exec: "{path}": no such file in the container')
    if error.errno == errno.ENOEXEC:
        return CommandNotExecutable(
            f'exec: "{path}": exec format error: not a program for this machine'
        )
    if error.errno == errno.E2BIG:
        return InvalidArgument(f'exec: "{path}": the arguments and environment are too long')
    return CommandNotExecutable(f'exec: "{path}": {os.strerror(error.errno or 0)}')


def _refusal(path: str) -> str | None:
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "no such file"
    except NotADirectoryError:
        return "not a directory on the way"
    except OSError as error:
        return f"{error.strerror}"
    if stat.S_ISDIR(mode):
        return "is a directory"
    if not stat.S_ISREG(mode):
        return "not a regular file"
    if not os.access(path, os.X_OK, effective_ids=True):
        return "permission denied: not executable by the container's user"
    return _missing_interpreter(path)


def _missing_interpreter(path: str) -> str | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None  # executable and not readable is no fault
    try:
        head = os.read(fd, 256)
    finally:
        os.close(fd)
    if head[:2] != b"#!":
        return None
    words = head[2:].split(b"\n", 1)[0].split()
    if words and not os.path.exists(words[0]):
        return f"its interpreter {os.fsdecode(words[0])} is not in the container"
    return None
