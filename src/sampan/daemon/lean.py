"""Smaller than its imports: what a daemon that stays for months does without.

``asyncio`` imports ``ssl`` when it is there, and with it OpenSSL (2 MB of heap in each daemon), for
TLS on its own connections, of which the daemon has none; ``msgspec`` imports ``typing_extensions``
when it is there (1 MB) for annotations that Python 3.11 has itself. Both are written for their
absence. Whoever needs these modules afterwards imports them as always; asyncio stays without TLS.
"""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING

from sampan.kernel.memory import trim_heap

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["OPTIONAL", "Without", "settle"]


class Without:
    """Inside the ``with``, modules that are not loaded yet cannot be imported by these names."""

    def __init__(self, *names: str) -> None:
        self._names = names
        self._hidden: list[str] = []

    def __enter__(self) -> None:
        self._hidden = [name for name in self._names if name not in sys.modules]
        for name in self._hidden:
            # The import system's own way to say "not there" (the import reference, sys.modules).
            sys.modules[name] = None  # type: ignore[assignment]  # typeshed knows modules only

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name in self._hidden:
            del sys.modules[name]


OPTIONAL = Without("ssl", "typing_extensions")


def settle() -> None:
    """After the start: give back what it alone needed, and keep the collector off the rest."""
    gc.collect()
    gc.freeze()
    trim_heap()
