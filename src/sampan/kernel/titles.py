"""What ps(1) shows of a process in the place of its arguments: proc_pid_cmdline(5).

PR_SET_MM of prctl(2) would need CAP_SYS_RESOURCE, which machines of others often lack, so the
arguments are overwritten where they lie, on the stack of the process that was executed. Its forks
have them at the same place.
"""

from __future__ import annotations

import os

from sampan.kernel.processes import stat_fields
from sampan.kernel.syscalls import syscall

__all__ = ["find_arguments", "set_process_title"]

_arguments: tuple[int, int] | None = None


def find_arguments() -> None:
    """Look up where this process's arguments lie, for ``set_process_title`` in forks of it, whose
    own /proc may be anything."""
    global _arguments  # noqa: PLW0603 - the place is the process's, and its forks'
    fields = stat_fields(os.getpid())
    _arguments = int(fields[45]), int(fields[46])


def set_process_title(title: str) -> None:
    """Have this process shown as ``title``, cut to the length of its arguments.

    A last byte that is not NUL makes the kernel show the text before the first NUL and nothing
    else. Does nothing without ``find_arguments``.
    """
    if _arguments is None:
        return
    start, size = _arguments[0], min(_arguments[1] - _arguments[0], 4096)
    if size < 2:
        return
    text = os.fsencode(title)[: size - 2]
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        os.write(writer, text + bytes(size - 1 - len(text)) + b"+")
        syscall("read", reader, start, size, target="the arguments")
    finally:
        os.close(reader)
        os.close(writer)
