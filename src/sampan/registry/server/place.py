"""A registry's directory: its database, its storage, its clock, and who may serve it.

One process serves a root: it holds ``flock(2)`` on ``lock``. Others (``sampan registry gc``) may
open it meanwhile, and take the server's time. Of a shared database there are any number of servers,
which all go by its clock, and have a root for what they spool only.
"""

from __future__ import annotations

import fcntl
import os
import time
from typing import TYPE_CHECKING

from sampan.errors import Conflict
from sampan.registry.server.access.tokens import read_key
from sampan.registry.server.backends import Where, open_database, open_storage
from sampan.registry.server.clock import Clock
from sampan.registry.server.policy.policy import Policy
from sampan.registry.server.settings import settle
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
        self.upstream = _upstream(self.root)
        """The address of the registry that this is a cache of, or nothing."""
        self.policy = Policy()
        """What becomes of what is stored; may be replaced at any time."""
        try:
            os.makedirs(self.root, 0o700, exist_ok=True)
            path = os.path.join(self.root, "lock")
            self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise explain(error, "open", self.root, "while opening the registry") from error
        try:
            served = not where.database and not self._claim()
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
        self.clock = Clock(self._time(served))
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

    def _time(self, served: bool) -> float:
        if self.database.shared:
            return self.database.now()
        noted = dict(self.database.rows("SELECT name, value FROM facts"))
        if served and noted:
            # Beside a server its time counts, not the wall's, which may have been set since it
            # started. The monotonic clock is one for all processes.
            return float(noted["clock"] + time.monotonic() - noted["monotonic"])
        return max(self.database.now(), float(noted.get("clock", 0.0)))

    def note_time(self) -> None:
        """For the server: let others know the time, or know theirs."""
        if self.database.shared:
            self.clock.follow(self.database.now())
        now = [("clock", self.clock.now()), ("monotonic", time.monotonic())]
        self.database.write(
            lambda connection: connection.executemany(
                "INSERT INTO facts VALUES (?, ?) "
                "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                now,
            ),
            durable=False,
        )

    def token_key(self) -> bytes:
        """What tokens are signed with: the root's, or one for all servers."""
        if self.database.shared:
            return bytes.fromhex(settle(self.database, "token key", os.urandom(32).hex()))
        return read_key(self.root)

    def check(self) -> None:
        """Rows and bytes could be stored. Raises what says why not."""
        self.note_time()
        self.storage.check()

    def close(self) -> None:
        self.database.close()
        self.storage.close()
        os.close(self._lock)


def _upstream(root: str) -> str:
    try:
        with open(os.path.join(root, "upstream"), encoding="utf-8") as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise explain(error, "open", root, "while opening the registry") from error
