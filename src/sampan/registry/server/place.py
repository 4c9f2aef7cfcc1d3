"""A registry's directory: its database, its storage, its clock, and who may serve it.

One process serves a root: it holds ``flock(2)`` on ``lock``. Others (``sampan registry gc``) may
open it meanwhile, and take the server's time.
"""

from __future__ import annotations

import fcntl
import os
import time
from typing import TYPE_CHECKING

from sampan.errors import Conflict
from sampan.registry.server.backends import Where, open_database, open_storage
from sampan.registry.server.clock import Clock
from sampan.registry.server.policy.policy import Policy
from sampan.storage.failures import explain

if TYPE_CHECKING:
    from sampan.registry.server.database.base import Database
    from sampan.registry.server.storage.base import Storage

__all__ = ["LEASE_SECONDS", "Place"]

LEASE_SECONDS = 3600.0
"""How long a blob stays that no manifest uses."""


class Place:
    """``serving``: be the one who serves it. Raises Conflict where somebody does."""

    def __init__(self, where: Where, *, serving: bool, lease: float = LEASE_SECONDS) -> None:
        self.root = os.path.abspath(where.root)
        self.lease = lease
        self.redirect = True
        """Clients may be sent to where a blob's bytes are."""
        self.policy = Policy()
        """What becomes of what is stored; may be replaced at any time."""
        try:
            os.makedirs(self.root, 0o700, exist_ok=True)
            path = os.path.join(self.root, "lock")
            self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise explain(error, "open", self.root, "while opening the registry") from error
        try:
            served = not self._claim()
            if served and serving:
                raise Conflict(f"{self.root} is served by another process already")
            self.database: Database = open_database(where)
            try:
                self.storage: Storage = open_storage(where, self.database)
            except BaseException:
                self.database.close()
                raise
        except BaseException:
            os.close(self._lock)
            raise
        noted = dict(self.database.rows("SELECT name, value FROM facts"))
        start = max(time.time(), noted.get("clock", 0.0))
        if served and noted:
            # Beside a server its time counts, not the wall's, which may have been set since it
            # started. The monotonic clock is one for all processes.
            start = noted["clock"] + time.monotonic() - noted["monotonic"]
        self.clock = Clock(start)
        if serving:
            self.note_time()
        elif not served:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _claim(self) -> bool:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def note_time(self) -> None:
        """For the server: let others know the time."""
        now = [("clock", self.clock.now()), ("monotonic", time.monotonic())]
        self.database.write(
            lambda connection: connection.executemany(
                "INSERT INTO facts VALUES (?, ?) "
                "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                now,
            ),
            durable=False,
        )

    def check(self) -> None:
        """Rows and bytes could be stored. Raises what says why not."""
        self.note_time()
        self.storage.check()

    def close(self) -> None:
        self.database.close()
        self.storage.close()
        os.close(self._lock)
