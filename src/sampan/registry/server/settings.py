"""What a registry settles once, for good and for all its servers: texts by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sampan.registry.server.database.base import Database, Transaction

__all__ = ["setting", "settle"]


def setting(database: Database, name: str) -> str:
    """Empty where it is not settled."""
    row = database.row("SELECT value FROM settings WHERE name = ?", (name,))
    return str(row[0]) if row is not None else ""


def settle(database: Database, name: str, value: str) -> str:
    """What it is: ``value``, if it was not settled before."""

    def work(connection: Transaction) -> str:
        connection.execute(
            "INSERT OR IGNORE INTO settings (name, value) VALUES (?, ?)", (name, value)
        )
        found = connection.execute("SELECT value FROM settings WHERE name = ?", (name,))
        return str(found.fetchone()[0])

    return database.write(work)
