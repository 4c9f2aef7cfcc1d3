"""Accounts from an htpasswd file (htpasswd(1), with -B): one ``name:bcrypt`` a line.

bcrypt is slow by intention, and every request of a client with Basic authentication brings its
password: one that was right is remembered, by a keyed hash and as long as its line stays as it is.
For a name that nobody has as much time is spent as for one that somebody has.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import threading
from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Accounts", "read_accounts"]

_BCRYPT = re.compile(rb"\$2[aby]\$(0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{53}")
_REMEMBERED = 1000
_LONGEST = 72
"""Bytes of a password that bcrypt looks at; more are refused, not cut."""


class Accounts:
    """``lines`` are hashes by name."""

    def __init__(self, lines: Mapping[str, bytes]) -> None:
        self._lines = dict(lines)
        self._key = os.urandom(32)
        self._known: dict[bytes, None] = {}
        self._lock = threading.Lock()
        self._dummy = next(iter(self._lines.values()), b"")

    def remembers(self, name: str, password: str) -> bool:
        """The password was right before: told at once."""
        return self._mark(name, password) in self._known

    def check(self, name: str, password: str) -> bool:
        """Whether the password is right. Takes a tenth of a second and more."""
        import bcrypt

        line = self._lines.get(name)
        secret = password.encode()
        if len(secret) > _LONGEST or b"\0" in secret:
            return False
        if line is None:
            if self._dummy:
                bcrypt.checkpw(secret, self._dummy)
            return False
        if not bcrypt.checkpw(secret, line):
            return False
        with self._lock:
            while len(self._known) >= _REMEMBERED:
                del self._known[next(iter(self._known))]
            self._known[self._mark(name, password)] = None
        return True

    def stamp(self, name: str) -> str:
        """Changes with the account's password; empty where there is no such account."""
        line = self._lines.get(name)
        return "" if line is None else hashlib.sha256(line).hexdigest()[:16]

    def _mark(self, name: str, password: str) -> bytes:
        text = f"{name}\0{password}".encode()
        return hmac.digest(self._key, text + self._lines.get(name, b""), "sha256")


def read_accounts(path: str) -> Accounts:
    """Raises InvalidArgument for a file that cannot be read, or a line that is no such account."""
    try:
        with open(path, "rb") as file:
            text = file.read()
    except OSError as error:
        raise InvalidArgument(f"--htpasswd {path}: {error.strerror}") from error
    lines: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith(b"#"):
            continue
        name, _, hashed = line.strip().partition(b":")
        if not name or not _BCRYPT.fullmatch(hashed):
            raise InvalidArgument(
                f"--htpasswd {path}: line {number} is not NAME:BCRYPT; make it with "
                "sampan registry account, or htpasswd -B"
            )
        lines[name.decode("utf-8", "replace")] = hashed
    return Accounts(lines)
