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
from sampan.registry.server.clock import Clock
from sampan.registry.server.database import Database
from sampan.registry.server.storage.local import LocalStorage
from sampan.storage.failures import explain

if TYPE_CHECKING:
    from sampan.registry.server.storage.base import Storage

__all__ = ["LEASE_SECONDS", "Place"]

LEASE_SECONDS = 3600.0
"""How long a blob stays that no manifest uses."""


class Place:
    """``serving``: be the one who serves it. Raises Conflict where somebody does."""

    def __init__(self, root: str, *, serving: bool, lease: float = LEASE_SECONDS) -> None:
        self.root = os.path.abspath(root)
        self.lease = lease
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
            self.storage: Storage = LocalStorage(self.root)
            self.database = Database(os.path.join(self.root, "registry.db"))
        except BaseException:
            os.close(self._lock)
            raise
        row = self.database.row("SELECT value FROM facts WHERE name = 'clock'")
        noted = float(row[0]) if row else 0.0
        # Beside a server its time counts, not the wall's, which may have been set since it started.
        self.clock = Clock(noted if served and noted else max(time.time(), noted))
        if not serving and not served:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _claim(self) -> bool:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def note_time(self) -> None:
        """Let those beside us know the time."""
        now = self.clock.now()
        self.database.submit(
            lambda connection: (
                connection.execute(
                    "INSERT INTO facts VALUES ('clock', ?) "
                    "ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)",
                    (now,),
                ).rowcount
            ),
            durable=False,
        )

    def close(self) -> None:
        self.database.close()
        os.close(self._lock)
