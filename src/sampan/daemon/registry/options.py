"""What ``sampan registry serve`` was told, checked."""

from __future__ import annotations

import os
import re

import msgspec

from sampan.errors import InvalidArgument

__all__ = ["DEFAULT_LISTEN", "Listen", "Options", "default_root", "parse_listen"]

DEFAULT_LISTEN = "127.0.0.1:5000"
_LISTEN = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]*)):([0-9]{1,5})")


class Listen(msgspec.Struct, frozen=True):
    """``host`` is empty for every address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds. ``drain`` is for requests that are under way when the server is told to
    stop, ``collect`` between two collections (0: never), ``lease`` how long a blob stays that no
    manifest uses, ``upload`` how long an upload that nothing comes for.
    """

    root: str
    listen: tuple[Listen, ...]
    drain: float = 30.0
    collect: float = 900.0
    lease: float = 3600.0
    upload: float = 24 * 3600.0
    log_level: str = "info"
    log_format: str = "text"


def default_root() -> str:
    """Where the engine's own data root is, for root and for a user."""
    if os.geteuid() == 0:
        return "/var/lib/sampan/registry"
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return f"{data}/sampan/registry"


def parse_listen(text: str) -> Listen:
    """``HOST:PORT``, ``[::1]:PORT`` or ``:PORT``. Raises InvalidArgument."""
    match = _LISTEN.fullmatch(text)
    if match is None or int(match[3]) > 65535:
        raise InvalidArgument(f"--listen {text}: expected HOST:PORT, such as {DEFAULT_LISTEN}")
    return Listen(match[1] or match[2] or "", int(match[3]))
