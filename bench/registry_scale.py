"""A registry that grows: 100,000 tags in one repository, 10,000 repositories.

    python -m bench.registry_scale [--tags N] [--repositories N] [--chart FILE.svg]

At each power of ten: how long lists, search, a push of one more and a collection take, in a real
server over HTTP (medians of five; collections once, beside the server, their start included). The
curve is drawn into FILE.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.registry.registries import OCI_MANIFEST, sha256
from tests.registry.server.house import House

_AT_ONCE = 100
_CLIENTS = 8
_COLOURS = ("#2458a8", "#b5361f", "#2f7d32", "#8a4fb5", "#b57a1f", "#4a5a63", "#1f9a9a")
Curve = dict[str, list[tuple[int, float]]]


class Client:
    """One connection that stays."""

    def __init__(self, house: House) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", house.port, timeout=600)

    def ask(self, method: str, path: str, body: bytes = b"", **fields: str) -> Any:
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        self._connection.request(method, path, body, headers)
        response = self._connection.getresponse()
        data = response.read()
        if response.status >= 400:
            raise SystemExit(f"{method} {path}: {response.status}: {data!r}")
        return response.headers, data

    def pages(self, path: str) -> int:
        """Follow a list to its end; how many pages it had."""
        count = 0
        while path:
            headers, _ = self.ask("GET", path)
            count += 1
            link = headers.get("Link", "")
            path = link.partition(">")[0].removeprefix("<") if "next" in link else ""
        return count


def milliseconds(work: Callable[[], object], times: int = 5) -> float:
    found = []
    for _ in range(times):
        before = time.perf_counter()
        work()
        found.append((time.perf_counter() - before) * 1000)
    return statistics.median(found)


class Growth:
    def __init__(self, place: Path) -> None:
        self.house = House(place / "root", "--collect-every", "999h").start()
        self.client = Client(self.house)
        self.manifest = self.house.image("grow/tags", b"one layer for everybody")
        self.curves: tuple[Curve, Curve] = ({}, {})

    def document(self, number: int) -> bytes:
        return json.dumps(self.manifest | {"annotations": {"number": str(number)}}).encode()

    def tags(self, begin: int, end: int) -> None:
        for first in range(begin, end, _AT_ONCE):
            data = self.document(first)
            names = [f"1.{n // 100}.{n % 100}" for n in range(first, min(end, first + _AT_ONCE))]
            query = "&".join(f"tag={name}" for name in names)
            path = f"/v2/grow/tags/manifests/{sha256(data)}?{query}"
            self.client.ask("PUT", path, data, Content_Type=OCI_MANIFEST)

    def repositories(self, begin: int, end: int) -> None:
        def work(first: int) -> None:
            client = Client(self.house)
            for number in range(first, end, _CLIENTS):
                name = f"many/{number % 97}/repository-{number}"
                for blob in (self.manifest["config"], *self.manifest["layers"]):
                    query = f"mount={blob['digest']}&from=grow/tags"
                    client.ask("POST", f"/v2/{name}/blobs/uploads/?{query}")
                path = f"/v2/{name}/manifests/v1"
                client.ask("PUT", path, self.document(number), Content_Type=OCI_MANIFEST)

        with ThreadPoolExecutor(_CLIENTS) as pool:
            list(pool.map(work, range(begin, min(end, begin + _CLIENTS))))

    def measure(self, which: int, count: int, works: dict[str, Callable[[], object]]) -> None:
        for name, work in works.items():
            once = name.startswith("collection")
            took = milliseconds(work, 1 if once else 5)
            self.curves[which].setdefault(name, []).append((count, took))
            print(f"{count:7} {name:34} {took:9.1f} ms", flush=True)

    def of_tags(self, count: int) -> None:
        client = self.client
        middle = f"1.{count // 200}.50"
        data = self.document(-count)
        put = f"/v2/grow/tags/manifests/{sha256(data)}?tag=newest"
        self.measure(
            0,
            count,
            {
                "all tags, in pages of 1000": lambda: client.pages(
                    "/v2/grow/tags/tags/list?n=1000"
                ),
                "100 tags from the middle": lambda: client.ask(
                    "GET", f"/v2/grow/tags/tags/list?n=100&last={middle}"
                ),
                "100 newest versions": lambda: client.ask(
                    "GET", "/api/v1/repositories/grow/tags/tags?n=100"
                ),
                "a manifest by its tag": lambda: client.ask("GET", "/v2/grow/tags/manifests/1.0.1"),
                "one more push": lambda: client.ask("PUT", put, data, Content_Type=OCI_MANIFEST),
                "collection, with its start": lambda: self.house.tool("gc"),
            },
        )

    def of_repositories(self, count: int) -> None:
        client = self.client
        self.measure(
            1,
            count,
            {
                "the catalog, in pages of 1000": lambda: client.pages("/v2/_catalog?n=1000"),
                "search for one": lambda: client.ask("GET", f"/v1/search?q=repository-{count - 1}"),
                "search for all, 25 shown": lambda: client.ask("GET", "/v1/search?q=repository"),
                "a manifest by its tag": lambda: client.ask(
                    "GET", f"/v2/many/{(count - 1) % 97}/repository-{count - 1}/manifests/v1"
                ),
                "one more push": lambda: client.ask(
                    "PUT",
                    "/v2/many/0/repository-0/manifests/again",
                    self.document(0),
                    Content_Type=OCI_MANIFEST,
                ),
                "collection, with its start": lambda: self.house.tool("gc"),
            },
        )


def chart(curves: tuple[Curve, Curve]) -> str:
    """Both sides on logarithmic scales, one line a thing that was done."""
    parts = []
    top, height, width = 46, 300, 300
    low, high = 0.1, 10_000.0

    def y(value: float) -> float:
        share = (math.log10(max(value, low)) - math.log10(low)) / math.log10(high / low)
        return top + height * (1 - share)

    for side, (curve, title) in enumerate(zip(curves, ("tags", "repositories"), strict=True)):
        left = 70 + side * 400
        counts = [count for count, _ in next(iter(curve.values()))]
        span = math.log10(counts[-1] / counts[0]) or 1.0

        def x(count: int, left: int = left, span: float = span, first: int = counts[0]) -> float:
            return left + width * math.log10(count / first) / span

        parts.append(f'<text x="{left}" y="{top - 14}" font-weight="bold">{title}</text>')
        value = low
        while value <= high:
            parts.append(
                f'<line x1="{left}" x2="{left + width}" y1="{y(value):.1f}" y2="{y(value):.1f}" '
                f'stroke="#ddd"/><text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end">'
                f"{value:g} ms</text>"
            )
            value *= 10
        for count in counts:
            parts.append(
                f'<text x="{x(count):.1f}" y="{top + height + 18}" text-anchor="middle">'
                f"{count:,}</text>"
            )
        for number, (name, points) in enumerate(curve.items()):
            colour = _COLOURS[number % len(_COLOURS)]
            line = " ".join(f"{x(count):.1f},{y(took):.1f}" for count, took in points)
            parts.append(
                f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>'
            )
            place = top + height + 44 + 17 * number
            parts.append(
                f'<rect x="{left}" y="{place - 8}" width="12" height="4" fill="{colour}"/>'
                f'<text x="{left + 18}" y="{place}">{name}: {points[-1][1]:.3g} ms</text>'
            )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="800" height="500" font-size="12" '
        'font-family="sans-serif"><rect width="800" height="500" fill="white"/>'
        f"{''.join(parts)}</svg>\n"
    )


def steps(most: int, least: int) -> list[int]:
    found = [least]
    while found[-1] * 10 < most:
        found.append(found[-1] * 10)
    return [one for one in found if one < most] + [most]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tags", type=int, default=100_000)
    parser.add_argument("--repositories", type=int, default=10_000)
    parser.add_argument("--chart", type=Path, help="where to draw the curve (SVG)")
    chosen = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="registry-scale-", dir="/var/tmp"))
    growth = None
    try:
        growth = Growth(place)
        for grow, measure, counts in (
            (growth.tags, growth.of_tags, steps(chosen.tags, 100)),
            (growth.repositories, growth.of_repositories, steps(chosen.repositories, 10)),
        ):
            there = 0
            for count in counts:
                before = time.perf_counter()
                grow(there, count)
                rate = (count - there) / (time.perf_counter() - before)
                print(f"{count:7} reached, {rate:.0f} a second", flush=True)
                there = count
                measure(count)
        print(f"database: {(growth.house.root / 'registry.db').stat().st_size >> 20} MB")
        if chosen.chart is not None:
            chosen.chart.write_text(chart(growth.curves), encoding="utf-8")
    finally:
        if growth is not None:
            growth.house.close()
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
