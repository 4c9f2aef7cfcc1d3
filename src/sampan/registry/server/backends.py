"""Where a registry's rows and bytes are, by how it was told, and that the two belong together.

A collection deletes what no row names, so a bucket with another registry's database would be
emptied. The database has a name for its bucket, and the bucket has that name in it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from sampan.errors import Conflict, InvalidArgument
from sampan.registry.server.database.sqlite import SqliteDatabase
from sampan.registry.server.settings import setting, settle
from sampan.registry.server.storage.local import LocalStorage

if TYPE_CHECKING:
    from sampan.registry.server.database.base import Database
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
    if where.database:
        from sampan.registry.server.database.postgres import is_there

        return is_there(where.database)
    return os.path.exists(os.path.join(where.root, "registry.db"))


def open_database(where: Where) -> Database:
    if where.database:
        if not where.storage:
            raise InvalidArgument(
                "--database is for several servers, which reach blobs in a bucket only: give "
                "--storage"
            )
        from sampan.registry.server.database.postgres import PostgresDatabase

        return PostgresDatabase(where.database)
    return SqliteDatabase(os.path.join(where.root, "registry.db"))


def open_storage(where: Where, database: Database) -> Storage:
    """Raises Conflict where the database's blobs are elsewhere."""
    if not where.storage:
        if setting(database, _BUCKET):
            raise Conflict(
                f"the blobs of the registry in {where.root} are in a bucket: say which by --storage"
            )
        return LocalStorage(where.root)
    from sampan.registry.server.storage.bucket import parse
    from sampan.registry.server.storage.s3 import S3Storage

    address = parse(where.storage)
    if not setting(database, _BUCKET) and database.row("SELECT 1 FROM blobs LIMIT 1"):
        raise Conflict(
            f"the registry in {where.root} has blobs of its own: it cannot go on in {address}"
        )
    storage = S3Storage(address, os.path.join(where.root, "spool"))
    try:
        name = settle(database, _BUCKET, os.urandom(16).hex())
        if storage.belong(name) != name:
            raise Conflict(
                f"{address} is another registry's: a collection would delete what that has there; "
                "use an empty bucket, another prefix, or that registry's database"
            )
    except BaseException:
        storage.close()
        raise
    return storage
