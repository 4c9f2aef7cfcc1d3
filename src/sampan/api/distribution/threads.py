"""Threads for what blocks, by what it waits for.

A bucket or a disk that is slow holds the threads of those who wait for it, and no others: uploads
that hang leave pulls alone, and neither keeps anybody from rows, which is all that a manifest, a
list or a look-up needs. The event loop itself waits for nothing.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from sampan.api.http import files

__all__ = ["THREADS", "Threads"]

THREADS = 32
"""Of each kind; they are made when they are needed."""


class Threads:
    """``rows``: the database, and nothing behind it. ``uploads``: an upload's lock and its bytes on
    their way into the storage. ``blobs``: reading what is there.
    """

    def __init__(self) -> None:
        self.rows = ThreadPoolExecutor(THREADS, thread_name_prefix="rows")
        self.uploads = ThreadPoolExecutor(THREADS, thread_name_prefix="uploads")
        self.blobs = ThreadPoolExecutor(THREADS, thread_name_prefix="blobs")

    def shutdown(self, seconds: float) -> bool:
        """Whether all have ended in time: who waits for a bucket cannot be told to stop."""
        ending = threading.Thread(target=self._end, daemon=True)
        ending.start()
        ending.join(seconds)
        return not ending.is_alive()

    def _end(self) -> None:
        """Uploads first: what their ends write are rows."""
        for pool in (self.uploads, self.blobs, self.rows):
            pool.shutdown()
        files.settle()
