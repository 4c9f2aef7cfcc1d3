"""Prometheus metrics, in its text format (version 0.0.4), under the names dockerd gives them.

Loaded only with ``metrics-addr``. The counts are a dozen numbers and two histograms, which need no
library: prometheus-client would be 3 MB of the daemon (docs/decisions/0010-metrics.md).
"""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING

from sampan import __version__
from sampan.api.docker.versions import strip_version
from sampan.daemon.prometheus import Histogram, head, metric, process, quoted, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sampan.api.http.server import Server
    from sampan.engine.core import Engine
    from sampan.engine.events import Event

__all__ = ["Metrics"]

_ACTION = re.compile(r"/containers/(?:(create)|[^/]+/(start|changes))\Z")
_STATES = ("running", "paused", "stopped")


class Metrics:
    """``observe`` is told of each request, ``heard`` of each event."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._actions: dict[str, Histogram] = {
            name: Histogram() for name in ("changes", "commit", "create", "delete", "start")
        }
        self._requests: dict[tuple[str, int], int] = {}
        self._events = 0
        self._started = time.time()
        engine.events.tap(self.heard)

    def observe(self, method: str, path: str, status: int, seconds: float) -> None:
        """An API request was answered."""
        known = (method, status)
        self._requests[known] = self._requests.get(known, 0) + 1
        if status >= 400:
            return
        bare = strip_version(path)
        match = _ACTION.match(bare)
        action = (match[1] or match[2]) if match else ""
        if method == "DELETE" and bare.startswith("/containers/"):
            action = "delete"
        elif bare == "/commit":
            action = "commit"
        if action:
            self._actions[action].observe(seconds)

    def heard(self, event: Event) -> None:
        self._events += 1

    def server(self) -> Server:
        """Serves ``/metrics``."""
        return serve(self.lines)

    # -- the text ----------------------------------------------------------------------------------

    def lines(self) -> Iterator[str]:
        """Every metric."""
        engine = self._engine
        statuses = [live.record.state.status for live in engine.registry]
        running, paused = statuses.count("running"), statuses.count("paused")
        states = dict(
            zip(_STATES, (running, paused, len(statuses) - running - paused), strict=True)
        )
        yield from metric(
            "engine_daemon_container_states_containers",
            "gauge",
            "Containers by state.",
            {f'state="{name}"': count for name, count in states.items()},
        )
        name = "engine_daemon_container_actions_seconds"
        yield from head(name, "histogram", "Seconds a container's action took.")
        for action, histogram in self._actions.items():
            yield from histogram.lines(name, f'action="{action}"')
        system = os.uname()
        labels = {
            "architecture": system.machine,
            "daemon_id": engine.identity,
            "graphdriver": engine.driver.name,
            "kernel": system.release,
            "os_type": "linux",
            "version": __version__,
        }
        pairs = ",".join(f'{name}="{quoted(value)}"' for name, value in labels.items())
        yield from metric("engine_daemon_engine_info", "gauge", "This engine.", {pairs: 1})
        cpus = os.cpu_count() or 1
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        plain = (
            ("engine_daemon_engine_cpus_cpus", "gauge", "CPUs of this machine.", cpus),
            ("engine_daemon_engine_memory_bytes", "gauge", "Memory of this machine.", memory),
            ("engine_daemon_events_total", "counter", "Events published.", self._events),
            ("engine_daemon_health_checks_total", "counter", "Health checks run.",
             engine.checks.ended),
            ("engine_daemon_health_checks_failed_total", "counter", "Health checks that failed.",
             engine.checks.failed),
            ("engine_daemon_events_subscribers_total", "gauge", "Listeners to events.",
             sum(1 for _ in engine.events)),
        )  # fmt: skip
        for name, kind, text, value in plain:
            yield from metric(name, kind, text, {"": value})
        yield from metric(
            "sampan_api_requests_total",
            "counter",
            "API requests answered.",
            {
                f'method="{method}",status="{status}"': count
                for (method, status), count in sorted(self._requests.items())
            },
        )
        yield from process(self._started)
