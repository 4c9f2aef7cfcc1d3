"""``checkpoint`` and ``restore``: known by name, and not done."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from sampan.errors import NotSupported

if TYPE_CHECKING:
    from sampan.runtime.command.context import Context
    from sampan.runtime.command.options import Parsed

__all__ = ["run"]


def run(_: Context, parsed: Parsed) -> NoReturn:
    raise NotSupported(f"{parsed.command} is not supported: there is no checkpoint and restore")
