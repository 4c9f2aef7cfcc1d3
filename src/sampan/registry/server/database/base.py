"""What a database does for a registry. ``tests/registry/server/database`` is the suite that each
one passes.

SQL is written once, as SQLite understands it (``?`` and ``?1`` are parameters). Writers are alone:
what a transaction has read stays true until it is committed, with any number of processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future
    from contextlib import AbstractContextManager

__all__ = ["Database", "Matching", "Rows", "Transaction"]

T = TypeVar("T")


class Rows(Protocol):
    """What a statement gave."""

    @property
    def rowcount(self) -> int: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


class Transaction(Protocol):
    """What a closure that writes is handed."""

    def execute(self, query: str, parameters: Sequence[Any] = (), /) -> Rows: ...

    def executemany(self, query: str, parameters: Iterable[Sequence[Any]], /) -> Rows: ...


class Matching(NamedTuple):
    """How rows ``f`` of the table ``found`` are held against words, by ``?1``.

    ``condition`` and ``rank`` (the smaller the better) are SQL, ``text`` makes the parameter: every
    word, or a word that begins so.
    """

    condition: str
    rank: str
    text: Callable[[Sequence[str]], str]


class Database(Protocol):
    """Every method may be called by any thread, and blocks unless it says otherwise."""

    matching: Matching

    shared: bool
    """Other servers may be writing to it. Reads of such a one may wait for the network."""

    def rows(self, query: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Every row of a query."""
        ...

    def row(self, query: str, parameters: Sequence[object] = ()) -> tuple[Any, ...] | None:
        """The first row of a query, or None."""
        ...

    def write(self, work: Callable[[Transaction], T], *, durable: bool = True) -> T:
        """Run ``work`` in a transaction; its result, when that is committed.

        What it raises comes out here, and nothing of it is done. What is not ``durable`` may be
        lost with the machine's power, never with this process.
        """
        ...

    def submit(self, work: Callable[[Transaction], T], *, durable: bool = True) -> Future[T]:
        """The same without waiting."""
        ...

    def now(self) -> float:
        """The time of the machine it is on, in seconds since the epoch."""
        ...

    def alone(self, name: str, *, wait: bool = False) -> AbstractContextManager[bool]:
        """Among the servers of a shared database; whether nobody else is, unless we ``wait``."""
        ...

    def problems(self) -> Iterator[str]:
        """What the database itself finds wrong with its rows."""
        ...

    def close(self) -> None:
        """Finish what is queued."""
        ...
