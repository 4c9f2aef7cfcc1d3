"""The text format of Prometheus (version 0.0.4), as far as our processes need it.

The counts are a dozen numbers and a few histograms, which need no library (docs/decisions/0010).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sampan.api.http.messages import Response
from sampan.api.http.server import Server
from sampan.engine.log import log

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from sampan.api.http.messages import HttpError, Request
    from sampan.api.http.stream import Answer

__all__ = ["Histogram", "head", "metric", "process", "quoted", "serve"]

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Histogram:
    """How many took how long, in seconds."""

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


def quoted(value: str) -> str:
    """A label's value between its quotes."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def metric(name: str, kind: str, text: str, values: Mapping[str, float]) -> Iterator[str]:
    yield from head(name, kind, text)
    for labels, value in values.items():
        yield f"{name}{{{labels}}} {value}" if labels else f"{name} {value}"


def process(started: float) -> Iterator[str]:
    """This process's own; it started at ``started``, in seconds since the epoch."""
    times = os.times()
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = file.read().split()
    page = os.sysconf("SC_PAGE_SIZE")
    for name, kind, text, value in (
        ("process_cpu_seconds_total", "counter", "CPU time.", times.user + times.system),
        ("process_open_fds", "gauge", "Open descriptors.", len(os.listdir("/proc/self/fd"))),
        ("process_resident_memory_bytes", "gauge", "Resident set.", int(pages[1]) * page),
        ("process_virtual_memory_bytes", "gauge", "Address space.", int(pages[0]) * page),
        ("process_start_time_seconds", "gauge", "Since the epoch.", started),
    ):
        yield from metric(name, kind, text, {"": value})


def serve(
    lines: Callable[[], Iterator[str]], before: Callable[[], Awaitable[None]] | None = None
) -> Server:
    """A server of ``/metrics``, which are ``lines`` at that moment.

    They are made on the event loop; ``before`` is awaited first, for what has to be looked up.
    """

    async def handle(request: Request) -> Answer:
        if request.path != "/metrics" or request.method not in ("GET", "HEAD"):
            return Response(404, b"metrics are at /metrics\n", "text/plain; charset=utf-8")
        if before is not None:
            await before()
        text = "\n".join(lines()) + "\n"
        return Response(200, text.encode(), "text/plain; version=0.0.4; charset=utf-8")

    def refuse(error: HttpError) -> Response:
        return Response(error.status, f"{error.message}\n".encode(), "text/plain")

    def report(error: BaseException) -> None:
        log.error("a metrics request crashed", error=repr(error))

    return Server(handle, refuse, report, fields={})
