"""Accounts for tests."""

from __future__ import annotations

import base64
from pathlib import Path

__all__ = ["basic", "htpasswd"]


def htpasswd(path: Path, **passwords: str) -> None:
    """A file as htpasswd -B writes it, with the least work."""
    import bcrypt

    lines = [
        b"%b:%b\n" % (name.encode(), bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)))
        for name, password in passwords.items()
    ]
    path.write_bytes(b"".join(lines))


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()
