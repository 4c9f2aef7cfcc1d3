"""How much a repository may hold: ``[[quota]]`` of the policy.

A repository holds its blobs, each once and whole, however many repositories share it, and its
manifests. ``repositories.bytes`` counts that, by triggers, in whatever transaction changes it, so
it is exact at every commit; whether something fits is decided in the transaction that stores it.
What is over the quota already, since that was lowered, stays, and nothing is added.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from sampan.registry.server.errors import Denied

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sampan.registry.server.database.base import Transaction
    from sampan.registry.server.place import Place

__all__ = ["check_coming", "check_room", "within"]


@contextmanager
def within(connection: Transaction, place: Place, repository: int, name: str) -> Iterator[None]:
    """What is done inside may not bring the repository over its quota. Raises Denied."""
    limit = place.policy.quota(name)
    if limit is None:
        yield
        return
    before = _used(connection, repository)
    yield
    after = _used(connection, repository)
    if after > limit and after > before:
        raise _denied(name, limit, before, after - before)


def check_room(place: Place, name: str, more: int) -> None:
    """Whether ``more`` bytes would fit, as far as is known now. Raises Denied."""
    limit = place.policy.quota(name)
    if limit is None:
        return
    row = place.database.row("SELECT bytes FROM repositories WHERE name = ?", (name,))
    used = row[0] if row is not None else 0
    if used + more > limit:
        raise _denied(name, limit, used, more)


def check_coming(place: Place, name: str, coming: int) -> None:
    """An upload has to fit into what is free, but all that is ``coming`` into the whole quota: else
    a disk could be filled with uploads that never end. Raises Denied.
    """
    limit = place.policy.quota(name)
    if limit is not None and coming > limit:
        raise Denied(
            f"uploads to {name} that are under way have {coming} bytes, its quota is {limit}: "
            "finish some, or cancel them",
            {"quota": limit, "coming": coming},
        )


def _used(connection: Transaction, repository: int) -> int:
    row = connection.execute("SELECT bytes FROM repositories WHERE id = ?", (repository,))
    return int(row.fetchone()[0])


def _denied(name: str, limit: int, used: int, more: int) -> Denied:
    return Denied(
        f"{name} holds {used} of the {limit} bytes of its quota: {more} more do not fit; delete "
        "what is not needed, or ask for a larger quota",
        {"quota": limit, "used": used},
    )
