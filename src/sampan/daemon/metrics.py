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
from sampan.api.http.messages import Response
from sampan.api.http.server import Server
from sampan.engine.log import log

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sampan.api.http.connection import Answer
    from sampan.api.http.messages import HttpError, Request
    from sampan.engine.core import Engine
    from sampan.engine.events import Event

__all__ = ["Metrics"]

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ACTION = re.compile(r"/containers/(?:(create)|[^/]+/(start|changes))\Z")
_STATES = ("running", "paused", "stopped")


class _Histogram:
    def __init__(self) -> None:
        self.counts = [0] * (len(_BUCKETS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        place = next((n for n, edge in enumerate(_BUCKETS) if seconds <= edge), len(_BUCKETS))
        self.counts[place] += 1
        self.sum += seconds

    def lines(self, name: str, label: str) -> Iterator[str]:
        total = 0
        for edge, count in zip((*map(str, _BUCKETS), "+Inf"), self.counts, strict=True):
            total += count
            yield f'{name}_bucket{{{label},le="{edge}"}} {total}'
        yield f"{name}_sum{{{label}}} {self.sum}"
        yield f"{name}_count{{{label}}} {total}"


class Metrics:
    """``observe`` is told of each request, ``heard`` of each event."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._actions: dict[str, _Histogram] = {
            name: _Histogram() for name in ("changes", "commit", "create", "delete", "start")
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

        async def handle(request: Request) -> Answer:
            if request.path != "/metrics" or request.method not in ("GET", "HEAD"):
                return Response(404, b"metrics are at /metrics\n", "text/plain; charset=utf-8")
            text = "\n".join(self.lines()) + "\n"
            return Response(200, text.encode(), "text/plain; version=0.0.4; charset=utf-8")

        def refuse(error: HttpError) -> Response:
            return Response(error.status, f"{error.message}\n".encode(), "text/plain")

        def report(error: BaseException) -> None:
            log.error("a metrics request crashed", error=repr(error))

        return Server(handle, refuse, report, fields={})

    # -- the text ----------------------------------------------------------------------------------

    def lines(self) -> Iterator[str]:
        """Every metric."""
        engine = self._engine
        statuses = [live.record.state.status for live in engine.registry]
        running, paused = statuses.count("running"), statuses.count("paused")
        states = dict(
            zip(_STATES, (running, paused, len(statuses) - running - paused), strict=True)
        )
        yield from _metric(
            "engine_daemon_container_states_containers",
            "gauge",
            "Containers by state.",
            {f'state="{name}"': count for name, count in states.items()},
        )
        name = "engine_daemon_container_actions_seconds"
        yield from _head(name, "histogram", "Seconds a container's action took.")
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
        pairs = ",".join(f'{name}="{_quoted(value)}"' for name, value in labels.items())
        yield from _metric("engine_daemon_engine_info", "gauge", "This engine.", {pairs: 1})
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
            yield from _metric(name, kind, text, {"": value})
        yield from _metric(
            "sampan_api_requests_total",
            "counter",
            "API requests answered.",
            {
                f'method="{method}",status="{status}"': count
                for (method, status), count in sorted(self._requests.items())
            },
        )
        yield from self._process()

    def _process(self) -> Iterator[str]:
        times = os.times()
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = file.read().split()
        page = os.sysconf("SC_PAGE_SIZE")
        for name, kind, text, value in (
            ("process_cpu_seconds_total", "counter", "CPU time.", times.user + times.system),
            ("process_open_fds", "gauge", "Open descriptors.", len(os.listdir("/proc/self/fd"))),
            ("process_resident_memory_bytes", "gauge", "Resident set.", int(pages[1]) * page),
            ("process_virtual_memory_bytes", "gauge", "Address space.", int(pages[0]) * page),
            ("process_start_time_seconds", "gauge", "Since the epoch.", self._started),
        ):
            yield from _metric(name, kind, text, {"": value})


def _quoted(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def _metric(name: str, kind: str, text: str, values: Mapping[str, float]) -> Iterator[str]:
    yield from _head(name, kind, text)
    for labels, value in values.items():
        yield f"{name}{{{labels}}} {value}" if labels else f"{name} {value}"
