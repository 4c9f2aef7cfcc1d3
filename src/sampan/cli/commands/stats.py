"""``stats`` and ``top``: what containers use, and the processes in them."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from sampan.cli.commands.common import FORMAT, path, read, report, together
from sampan.cli.flags import Flag
from sampan.cli.output import aligned, binary_size, print_rows, short_id, size
from sampan.errors import SampanError

if TYPE_CHECKING:
    from sampan.cli.client import Client

__all__ = ["stats", "top"]

_PERIOD = 1.0  # seconds between two drawings
_COLUMNS = [
    ("CONTAINER ID", "ID"),
    ("NAME", "Name"),
    ("CPU %", "CPUPerc"),
    ("MEM USAGE / LIMIT", "MemUsage"),
    ("MEM %", "MemPerc"),
    ("NET I/O", "NetIO"),
    ("BLOCK I/O", "BlockIO"),
    ("PIDS", "PIDs"),
]
_HEADINGS = {"Container": "CONTAINER"}
Sample = dict[str, Any]


def top(client: Client, argv: list[str]) -> int:
    """Print the processes of a container as ps(1) does."""
    flags = read(
        "top",
        "CONTAINER [ps OPTIONS]",
        "Show the processes of a container",
        [],
        argv,
        least=1,
        interspersed=False,
    )
    if flags is None:
        return 0
    name, *arguments = flags.arguments
    query: dict[str, object] = {"ps_args": " ".join(arguments)}
    found = client.call("GET", path("/containers/{}/top", name), query)
    lines = [found.get("Titles") or [], *(found.get("Processes") or [])]
    print("\n".join(aligned(["\t".join(line) for line in lines], minimum=20)))
    return 0


def stats(client: Client, argv: list[str]) -> int:
    """Print what containers use: once, or again and again until interrupted."""
    flags = read(
        "stats",
        "[OPTIONS] [CONTAINER...]",
        "Show what containers use, again and again",
        [
            Flag("all", "bool", "Those that do not run too", short="a"),
            FORMAT,
            Flag("no-stream", "bool", "Once, not again and again"),
            Flag("no-trunc", "bool", "Whole IDs"),
        ],
        argv,
    )
    if flags is None:
        return 0
    layout = flags.text("format") or client.settings.preference("statsFormat")
    full, everything = flags.flag("no-trunc"), flags.flag("all")
    named = flags.arguments
    once = flags.flag("no-stream")
    before: dict[str, Sample] = {}
    while True:
        names = named or _listed(client, everything)
        samples = _samples(client, names, one_shot=not once)
        failed = [error for error in samples if isinstance(error, SampanError)]
        if named and (once or not before):
            for error in failed:
                report(error)
            if failed:
                return 1
        rows = []
        for name, sample in zip(names, samples, strict=True):
            if isinstance(sample, dict):
                rows.append(_row(name, sample, before.get(name), full))
                before[name] = sample
        if not once and sys.stdout.isatty():
            sys.stdout.write("\x1b[H\x1b[2J")
        print_rows(rows, _COLUMNS, layout, headings=_HEADINGS)
        sys.stdout.flush()
        if once or (named and not rows):
            return 0
        time.sleep(_PERIOD)


def _listed(client: Client, everything: bool) -> list[str]:
    query: dict[str, object] = {"all": "1" if everything else None}
    return [str(found["Id"]) for found in client.call("GET", "/containers/json", query)]


def _samples(client: Client, names: list[str], *, one_shot: bool) -> list[object]:
    """Each container's figures, or the error it gave. Two samples apart unless ``one_shot``."""
    query: dict[str, object] = {"stream": "0", "one-shot": "1" if one_shot else None}

    def one(name: str) -> object:
        return client.call("GET", path("/containers/{}/stats", name), query)

    return list(together(client, names, one))


def _row(name: str, sample: Sample, before: Sample | None, full: bool) -> dict[str, Any]:
    used, limit = _memory(sample)
    received, sent = _network(sample)
    read_, written = _block(sample)
    identity = str(sample.get("id") or name)
    percent = _cpu(sample, before)
    return {
        "Container": name if full else short_id(name),
        "ID": identity if full else short_id(identity),
        "Name": str(sample.get("name") or "--").removeprefix("/"),
        "CPUPerc": f"{percent:.2f}%",
        "MemUsage": f"{binary_size(used)} / {binary_size(limit)}",
        "MemPerc": f"{100 * used / limit if limit else 0:.2f}%",
        "NetIO": f"{size(received)} / {size(sent)}",
        "BlockIO": f"{size(read_)} / {size(written)}",
        "PIDs": str((sample.get("pids_stats") or {}).get("current") or 0),
    }


def _cpu(sample: Sample, before: Sample | None) -> float:
    """Of one CPU's time, in percent: 200 is two CPUs at full speed."""
    now = sample.get("cpu_stats") or {}
    then = sample.get("precpu_stats") or {}
    if not then.get("system_cpu_usage") and before is not None:
        then = before.get("cpu_stats") or {}
    if not then.get("system_cpu_usage"):
        return 0.0
    used = _total(now) - _total(then)
    passed = (now.get("system_cpu_usage") or 0) - (then.get("system_cpu_usage") or 0)
    count = now.get("online_cpus") or len(_usage(now).get("percpu_usage") or [0])
    return 100.0 * used / passed * count if used > 0 and passed > 0 else 0.0


def _usage(cpu: Sample) -> Sample:
    usage: Sample = cpu.get("cpu_usage") or {}
    return usage


def _total(cpu: Sample) -> int:
    return int(_usage(cpu).get("total_usage") or 0)


def _memory(sample: Sample) -> tuple[float, float]:
    """What is used, without what the kernel can have back at once (Docker's figure); the limit."""
    memory = sample.get("memory_stats") or {}
    used, details = memory.get("usage") or 0, memory.get("stats") or {}
    idle = details.get("total_inactive_file", details.get("inactive_file", 0))
    return float(used - idle if 0 < idle < used else used), float(memory.get("limit") or 0)


def _network(sample: Sample) -> tuple[int, int]:
    links = list((sample.get("networks") or {}).values())
    return sum(link["rx_bytes"] for link in links), sum(link["tx_bytes"] for link in links)


def _block(sample: Sample) -> tuple[int, int]:
    totals = {"r": 0, "w": 0}
    for entry in (sample.get("blkio_stats") or {}).get("io_service_bytes_recursive") or []:
        operation = str(entry.get("op") or " ")[0].lower()
        if operation in totals:
            totals[operation] += int(entry.get("value") or 0)
    return totals["r"], totals["w"]
