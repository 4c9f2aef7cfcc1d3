"""registry account: who may use a registry, in the file of ``serve --htpasswd``.

What htpasswd(1) of Apache's tools does with -B, for machines that have not got it: one
``name:bcrypt`` a line. All of the file is replaced at once, or nothing.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from sampan.cli.commands.common import read
from sampan.cli.flags import Flag
from sampan.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from sampan.cli.client import Client

__all__ = ["account"]

_ROUNDS = 10
_LONGEST = 72
"""Bytes that bcrypt looks at."""


def account(client: Client, argv: list[str]) -> int:
    """``registry account``"""
    flags = read(
        "registry account",
        "[OPTIONS] FILE NAME",
        "Add an account to a registry's file of accounts, or give it another password",
        [
            Flag("password-stdin", "bool", "Read the password from standard input"),
            Flag("rm", "bool", "Remove the account"),
        ],
        argv,
        least=2,
        most=2,
    )
    if flags is None:
        return 0
    path, name = flags.arguments
    if not name or name[0] == "#" or ":" in name or name != name.strip() or not name.isprintable():
        raise InvalidArgument(f'"{name}" is not an account\'s name: no colon, no space at its ends')
    if flags.flag("rm") and flags.flag("password-stdin"):
        raise InvalidArgument("--rm needs no password")
    path = os.path.realpath(path)
    lines = _lines(path)
    others = [line for line in lines if line.partition(b":")[0].strip() != name.encode()]
    if flags.flag("rm"):
        if others == lines:
            raise NotFound(f"{path} has no account {name}")
        _replace(path, others)
        print(f"Removed: {name}")
    else:
        _replace(path, [*others, _line(name, _password(flags.flag("password-stdin")))])
        print(f"{'Added' if others == lines else 'Changed'}: {name}")
    print("A registry that is serving reads the file anew on SIGHUP.", file=sys.stderr)
    return 0


def _lines(path: str) -> list[bytes]:
    try:
        with open(path, "rb") as file:
            return file.read().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InvalidArgument(f"{path}: {error.strerror}") from error


def _password(piped: bool) -> bytes:
    if piped:
        text = sys.stdin.readline().rstrip("\r\n")
    elif sys.stdin.isatty():
        import getpass

        text = getpass.getpass("Password: ")
        if text != getpass.getpass("Once more: "):
            raise InvalidArgument("these are two passwords")
    else:
        raise InvalidArgument("there is no terminal to ask: give the password by --password-stdin")
    password = text.encode()
    if not password or b"\0" in password:
        raise InvalidArgument("a password is needed")
    if len(password) > _LONGEST:
        raise InvalidArgument(f"the password is longer than the {_LONGEST} bytes bcrypt looks at")
    return password


def _line(name: str, password: bytes) -> bytes:
    import bcrypt

    hashed: bytes = bcrypt.hashpw(password, bcrypt.gensalt(_ROUNDS))
    return name.encode() + b":" + hashed


def _replace(path: str, lines: list[bytes]) -> None:
    """With the mode that the file had; a new one is its owner's alone. Raises InvalidArgument."""
    import tempfile

    temporary = ""
    try:
        descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".accounts-")
        with open(descriptor, "wb") as file:
            if os.path.exists(path):
                known = os.stat(path)
                os.fchown(descriptor, known.st_uid, known.st_gid)
                os.fchmod(descriptor, known.st_mode & 0o777)
            file.write(b"".join(line + b"\n" for line in lines))
            file.flush()
            os.fsync(descriptor)
        os.rename(temporary, path)
    except OSError as error:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
        raise InvalidArgument(f"{path}: {error.strerror}") from error
