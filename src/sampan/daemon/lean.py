"""Smaller than its imports: what a daemon that stays for months does without.

``asyncio`` imports ``ssl`` when it is there, and with it OpenSSL (2 MB of heap in each daemon), for
TLS on its own connections, of which the daemon has none; ``msgspec`` imports ``typing_extensions``
when it is there (1 MB) for annotations that Python 3.11 has itself. Both are written for their
absence. Whoever needs these modules afterwards imports them as always; asyncio stays without TLS.

``inspect`` and what it takes along (1 MB), ``locale`` and a few others are imported by those we
need, for functions that a daemon never calls, or calls when it writes a traceback. They get a
stand-in, which imports the module when something in it is asked for.
"""

from __future__ import annotations

import gc
import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sampan.kernel.footprint import give_back

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

__all__ = ["IMPORTS", "Lean", "settle"]


class _Later(ModuleType):
    """A module's stand-in: has nothing of its own, and asks the module, which is then imported."""

    def __getattr__(self, attribute: str) -> Any:
        name = self.__name__
        if sys.modules.get(name) is self:
            del sys.modules[name]
        # By the import system, whose locks make a second thread wait for the first.
        return getattr(importlib.import_module(name), attribute)


class Lean:
    """Inside the ``with``, modules that are not loaded yet are not there (``without``), or are only
    loaded when something in them is used (``later``)."""

    def __init__(self, without: Iterable[str], later: Iterable[str]) -> None:
        self._without = tuple(without)
        self._later = tuple(later)
        self._placed: dict[str, ModuleType | None] = {}

    def __enter__(self) -> None:
        # None is the import system's own way to say "not there" (its reference, sys.modules).
        placed: dict[str, ModuleType | None] = dict.fromkeys(self._without)
        placed.update((name, _Later(name)) for name in self._later)
        self._placed = {name: one for name, one in placed.items() if name not in sys.modules}
        sys.modules.update(self._placed)  # type: ignore[arg-type]  # typeshed knows modules only

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name, one in self._placed.items():
            if sys.modules.get(name) is one:
                del sys.modules[name]


IMPORTS = Lean(
    without=("ssl", "typing_extensions"),
    later=("asyncio.sslproto", "inspect", "locale", "msgspec.inspect"),
)


def settle() -> None:
    """After the start: give back what it alone needed, and keep the collector off the rest."""
    gc.collect()
    gc.freeze()
    give_back()
