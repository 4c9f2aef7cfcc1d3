"""The registry's metrics for Prometheus, at an address of their own."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sampan.daemon.prometheus import Histogram, head, metric, process, serve

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

    def observe(self, method: str, kind: str, status: int, seconds: float) -> None:
        key = (method, kind, status)
        self._requests[key] = self._requests.get(key, 0) + 1
        if status < 400:
            self._seconds.setdefault((method, kind), Histogram()).observe(seconds)

    def server(self) -> Server:
        """Serves ``/metrics``."""
        return serve(self.lines)

    def lines(self) -> Iterator[str]:
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
        for what, text, query in _GAUGES:
            row = self._place.database.row(query)
            assert row is not None
            yield from metric(f"sampan_registry_{what}", "gauge", text, {"": row[0]})
        for one in self.more() if self.more is not None else ():
            yield from metric(f"sampan_registry_cache_{one.name}", one.kind, one.text, one.values)
        yield from process(self._started)
