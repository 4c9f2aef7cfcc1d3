"""Where a registry's rows and bytes are, by how it was told, and that the two belong together.

A collection deletes what no row names, so a bucket with another registry's database would be
emptied. The database has a name for its bucket, and the bucket has that name in it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from sampan.errors import Conflict, NotSupported
from sampan.registry.server.database.sqlite import SqliteDatabase
from sampan.registry.server.storage.local import LocalStorage

if TYPE_CHECKING:
    from sampan.registry.server.database.base import Database, Transaction
    from sampan.registry.server.storage.base import Storage

__all__ = ["Where", "exists", "open_database", "open_storage"]

_BUCKET = "bucket"


class Where(msgspec.Struct, frozen=True):
    """``storage`` and ``database`` are empty for those in the directory ``root``."""

    root: str
    storage: str = ""
    database: str = ""


def exists(where: Where) -> bool:
    """There is a registry already."""
    return os.path.exists(os.path.join(where.root, "registry.db"))


def open_database(where: Where) -> Database:
    if where.database:
        raise NotSupported("a database other than the root's SQLite is not there yet")
    return SqliteDatabase(os.path.join(where.root, "registry.db"))


def open_storage(where: Where, database: Database) -> Storage:
    """Raises Conflict where the database's blobs are elsewhere."""
    if not where.storage:
        if _setting(database, _BUCKET):
            raise Conflict(
                f"the blobs of the registry in {where.root} are in a bucket: say which by --storage"
            )
        return LocalStorage(where.root)
    from sampan.registry.server.storage.bucket import parse
    from sampan.registry.server.storage.s3 import S3Storage

    address = parse(where.storage)
    if not _setting(database, _BUCKET) and database.row("SELECT 1 FROM blobs LIMIT 1"):
        raise Conflict(
            f"the registry in {where.root} has blobs of its own: it cannot go on in {address}"
        )
    storage = S3Storage(address, os.path.join(where.root, "spool"))
    try:
        name = _name(database)
        if storage.belong(name) != name:
            raise Conflict(
                f"{address} is another registry's: a collection would delete what that has there; "
                "use an empty bucket, another prefix, or that registry's database"
            )
    except BaseException:
        storage.close()
        raise
    return storage


def _setting(database: Database, name: str) -> str:
    row = database.row("SELECT value FROM settings WHERE name = ?", (name,))
    return str(row[0]) if row is not None else ""


def _name(database: Database) -> str:
    """Of the database's bucket, the same for all who ask."""
    fresh = os.urandom(16).hex()

    def settle(connection: Transaction) -> str:
        connection.execute(
            "INSERT OR IGNORE INTO settings (name, value) VALUES (?, ?)", (_BUCKET, fresh)
        )
        row = connection.execute("SELECT value FROM settings WHERE name = ?", (_BUCKET,))
        return str(row.fetchone()[0])

    return database.write(settle)
