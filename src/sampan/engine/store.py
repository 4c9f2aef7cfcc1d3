"""Containers on disk: one row each in the database's table ``containers``.

``config`` is what create decided, ``state`` what happened since; both are JSON. A row is committed
before anybody is told of the change it holds. A directory without a row is left over from a create
or a remove that was interrupted; ``sampan.engine.recovery`` sweeps it.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import msgspec

from sampan.engine.container import ContainerRecord, State
from sampan.errors import AlreadyExists, Corrupt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sampan.storage.database import Database

__all__ = ["ContainerStore"]

_encode = msgspec.json.Encoder().encode
_record = msgspec.json.Decoder(ContainerRecord)
_state = msgspec.json.Decoder(State)
_BLANK = State()


class ContainerStore:
    """Rows of ``containers``; every method commits before it returns."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, record: ContainerRecord) -> None:
        """Raises AlreadyExists when the name or the ID has a row."""
        config = _encode(msgspec.structs.replace(record, state=_BLANK))
        try:
            self._database.execute(
                "INSERT INTO containers (id, name, created, config, state) VALUES (?, ?, ?, ?, ?)",
                (record.id, record.name, record.created / 1e9, config, _encode(record.state)),
            )
        except sqlite3.IntegrityError as error:
            raise AlreadyExists(f'the container name "/{record.name}" is already in use') from error

    def put_state(self, record: ContainerRecord, *, ending: bool = False) -> None:
        """``ending``: it is for who ends a container, which goes on a full disk too."""
        query = "UPDATE containers SET state = ? WHERE id = ?"
        parameters = (_encode(record.state), record.id)
        if ending:
            self._database.release(lambda: self._database.execute(query, parameters))
        else:
            self._database.execute(query, parameters)

    def put(self, record: ContainerRecord) -> None:
        """Name and configuration, after a rename. Raises AlreadyExists."""
        config = _encode(msgspec.structs.replace(record, state=_BLANK))
        try:
            self._database.execute(
                "UPDATE containers SET name = ?, config = ? WHERE id = ?",
                (record.name, config, record.id),
            )
        except sqlite3.IntegrityError as error:
            raise AlreadyExists(f'the container name "/{record.name}" is already in use') from error

    def remove(self, container_id: str) -> None:
        self._database.execute("DELETE FROM containers WHERE id = ?", (container_id,))

    def load(self) -> Iterator[ContainerRecord]:
        """Every container, oldest first. Raises Corrupt."""
        rows = self._database.rows("SELECT id, config, state FROM containers ORDER BY created")
        for container_id, config, state in rows:
            try:
                record = _record.decode(config)
                yield msgspec.structs.replace(record, state=_state.decode(state))
            except msgspec.DecodeError as error:
                raise Corrupt(
                    f"container {container_id}: its row cannot be read: {error}"
                ) from error
