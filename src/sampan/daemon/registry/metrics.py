"""The registry's metrics for Prometheus, at an address of their own.

What is counted in the database is counted by a thread: of many tags that takes a while, and clients
do not wait for it. Who asks meanwhile gets the same count. Where the database does not answer, its
numbers are left out, and ``sampan_registry_counted`` is 0.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from typing import TYPE_CHECKING

from sampan.daemon.prometheus import Histogram, head, metric, process, serve
from sampan.engine.log import log
from sampan.errors import SampanError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sampan.api.http.server import Server
    from sampan.registry.cache.counts import Count
    from sampan.registry.server.place import Place

__all__ = ["Metrics"]

_GAUGES = (
    ("repositories", "Repositories.", "SELECT count(*) FROM repositories"),
    ("tags", "Tags.", "SELECT count(*) FROM tags"),
    ("manifests", "Manifests.", "SELECT count(*) FROM manifests"),
    ("blobs", "Blobs.", "SELECT count(*) FROM blobs WHERE key IS NOT NULL"),
    ("blob_bytes", "Bytes of blobs.", "SELECT total(size) FROM blobs WHERE key IS NOT NULL"),
    ("blobs_lost", "Blobs in quarantine.", "SELECT count(*) FROM blobs WHERE key IS NULL"),
    ("uploads", "Uploads under way.", "SELECT count(*) FROM uploads"),
    ("trash", "Deleted blobs whose bytes are still there.", "SELECT count(*) FROM trash"),
)


class Metrics:
    """``observe`` is told of each request."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._requests: dict[tuple[str, str, int], int] = {}
        self._seconds: dict[tuple[str, str], Histogram] = {}
        self._started = time.time()
        self.more: Callable[[], Iterator[Count]] | None = None
        """A cache's."""
        self._counts: dict[str, float] = {}
        self._counting: asyncio.Task[dict[str, float]] | None = None

    def observe(self, method: str, kind: str, status: int, seconds: float) -> None:
        key = (method, kind, status)
        self._requests[key] = self._requests.get(key, 0) + 1
        if status < 400:
            self._seconds.setdefault((method, kind), Histogram()).observe(seconds)

    def server(self) -> Server:
        """Serves ``/metrics``."""
        return serve(self._lines, self._look)

    async def _look(self) -> None:
        if self._counting is None or self._counting.done():
            work = asyncio.to_thread(self._count)
            self._counting = asyncio.get_running_loop().create_task(work)
        # Whoever asked first may be gone before it is done.
        self._counts = await asyncio.shield(self._counting)

    def _count(self) -> dict[str, float]:
        database = self._place.database
        try:
            return {query: row[0] for *_, query in _GAUGES if (row := database.row(query))}
        except (SampanError, sqlite3.Error) as error:
            log.error("the database cannot be counted", error=error)
            return {}

    def _lines(self) -> Iterator[str]:
        """Every metric."""
        yield from metric(
            "sampan_registry_requests_total",
            "counter",
            "Requests answered; 499: the client was gone before.",
            {
                f'method="{method}",kind="{kind}",status="{status}"': count
                for (method, kind, status), count in sorted(self._requests.items())
            },
        )
        name = "sampan_registry_request_seconds"
        yield from head(name, "histogram", "Seconds until a request was answered.")
        for (method, kind), histogram in sorted(self._seconds.items()):
            yield from histogram.lines(name, f'method="{method}",kind="{kind}"')
        counts = self._counts
        counted = {"": float(bool(counts))}
        yield from metric("sampan_registry_counted", "gauge", "The database answered.", counted)
        for what, text, query in _GAUGES:
            if query in counts:
                yield from metric(f"sampan_registry_{what}", "gauge", text, {"": counts[query]})
        for one in self.more() if self.more is not None else ():
            yield from metric(f"sampan_registry_cache_{one.name}", one.kind, one.text, one.values)
        yield from process(self._started)
