"""A thread that makes unpacked layers durable: syncfs(2), and then the rows say so.

An image has thousands of files, so they are not synced one by one as they are unpacked. Until the
file system was synced a layer's row carries the boot ID of the machine (``layers``).
"""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING

from sampan.errors import SampanError
from sampan.kernel.syscalls import syscall

if TYPE_CHECKING:
    from sampan.storage.database import Database

__all__ = ["Synchroniser"]

log = logging.getLogger(__name__)


class Synchroniser:
    """Makes all layers that wait durable with one syncfs(2), on a thread of its own."""

    def __init__(self, database: Database, driver: str, directory: str) -> None:
        self._database = database
        self._driver = driver
        self._directory = directory
        self._wanted = threading.Event()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """There is a layer that waits."""
        with self._lock:
            self._wanted.set()
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(
                    target=self._work, name="sampan-syncfs", daemon=True
                )
                self._thread.start()

    def close(self) -> None:
        """Let go at once: what is not durable keeps its boot ID, and waits for the next opening.

        A syncfs(2) under way may take seconds on a busy disk; its thread ends by itself.
        """
        with self._lock:
            self._closing.set()
            self._wanted.set()

    def _work(self) -> None:
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            while True:
                self._wanted.wait()
                self._wanted.clear()
                try:
                    self._synchronise(fd)
                except SampanError as error:
                    # The rows keep their boot ID: after a crash these layers are unpacked again.
                    log.warning("layers could not be made durable: %s", error)
                if self._closing.is_set():
                    return
        finally:
            os.close(fd)

    def _synchronise(self, fd: int) -> None:
        with self._lock:
            if self._closing.is_set():
                return
            waiting = self._database.rows(
                "SELECT chain_id FROM layers WHERE driver = ? AND boot_id IS NOT NULL",
                (self._driver,),
            )
        if not waiting:
            return
        syscall("syncfs", fd, target=self._directory)
        # Under the lock: the database is closed only after close() was.
        with self._lock:
            if self._closing.is_set():
                return
            with self._database.transaction() as connection:
                connection.executemany(
                    "UPDATE layers SET boot_id = NULL WHERE driver = ? AND chain_id = ?",
                    [(self._driver, row[0]) for row in waiting],
                )
