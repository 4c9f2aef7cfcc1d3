"""The one tree of errors: what was wrong, on which object, and what to do about it.

An error carries its HTTP status (Docker Engine API) and its exit code (Docker's command line:
125 the engine failed, 126 the command cannot be executed, 127 the command was not found), so that
each door maps it once. Nobody catches ``Exception`` to go on.

    SampanError                 500  125
    ├── InvalidArgument         400  125   the request is malformed or contradicts itself
    │   ├── CommandNotFound     400  127   the command is not in the image
    │   └── CommandNotExecutable 400 126   it is there and cannot be executed
    ├── Unauthenticated         401  125
    ├── PermissionDenied        403  125
    ├── NotFound                404  125
    ├── Conflict                409  125   the object is in a state that forbids it
    │   └── AlreadyExists       409  125   the name or ID is taken
    ├── NotModified             304    0   already as asked
    ├── NotSupported            501  125   a thing we name and do not do
    ├── Unavailable             503  125   a part that should answer does not
    ├── Corrupt                 500  125   bytes are not what their digest or format says
    └── KernelError             500  125   a system call failed (also an OSError)
"""

from __future__ import annotations

import errno as _errno
import os

__all__ = [
    "AlreadyExists",
    "CommandNotExecutable",
    "CommandNotFound",
    "Conflict",
    "Corrupt",
    "InvalidArgument",
    "KernelError",
    "NotFound",
    "NotModified",
    "NotSupported",
    "PermissionDenied",
    "SampanError",
    "Unauthenticated",
    "Unavailable",
    "by_name",
]


class SampanError(Exception):
    """Base of every error this project raises on purpose."""

    status = 500
    exit_code = 125

    @property
    def message(self) -> str:
        """The sentence for the user, without the class's name."""
        return str(self)


class InvalidArgument(SampanError):
    """The request is malformed, or contradicts itself."""

    status = 400


class CommandNotFound(InvalidArgument):
    """The container's command does not exist in its root file system."""

    exit_code = 127


class CommandNotExecutable(InvalidArgument):
    """The container's command exists and may not, or cannot, be executed."""

    exit_code = 126


class Unauthenticated(SampanError):
    """Credentials are missing or wrong."""

    status = 401


class PermissionDenied(SampanError):
    """The caller may not do this."""

    status = 403


class NotFound(SampanError):
    """No such object."""

    status = 404


class Conflict(SampanError):
    """The object's state forbids the operation."""

    status = 409


class AlreadyExists(Conflict):
    """The name or ID is in use."""


class NotModified(SampanError):
    """The object is already as asked."""

    status = 304
    exit_code = 0


class NotSupported(SampanError):
    """Something we know by name and do not do."""

    status = 501


class Unavailable(SampanError):
    """A process or service that should answer does not."""

    status = 503


class Corrupt(SampanError):
    """Bytes are not what their digest or their format says."""


class KernelError(SampanError, OSError):
    """A system call failed: which call, on what, and the errno's name.

    It is an ``OSError`` too, so ``error.errno`` is there; it never turns into one of the
    ``FileNotFoundError`` family, so compare ``errno``.
    """

    def __init__(self, call: str, number: int, target: str = "") -> None:
        OSError.__init__(self, number, os.strerror(number))
        self.call = call
        self.target = target

    def __str__(self) -> str:
        number = self.errno or 0
        name = _errno.errorcode.get(number, str(number))
        on = f" {self.target}" if self.target else ""
        return f"{self.call}{on}: {name} ({os.strerror(number)})"


def by_name(name: str, message: str) -> SampanError:
    """Rebuild an error that crossed a process border as its class's name and its message.

    A ``KernelError`` comes back as a plain ``SampanError``: its message already says the call.
    """
    kind = _BY_NAME.get(name, SampanError)
    return kind(message)


def _tree(root: type[SampanError]) -> dict[str, type[SampanError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        if child is not KernelError:
            found |= _tree(child)
    return found


_BY_NAME = _tree(SampanError)
