"""How many queries a second the resolver answers, with none lost.

    python bench/dns.py [--rate N] [--seconds N] [--names N]

Queries are sent at an even rate from a container's network namespace, on a network of so many
containers; every one must be answered, and rightly. Then the most
it can: as many as come back, one window of 64 at a time. Prints the latency, and the process's
memory (PSS) and processor time.
"""

from __future__ import annotations

import argparse
import os
import select
import socket
import statistics
import struct
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.network.resolver.place import Place, endpoint, question

_TARGET = 5000
_SO_RCVBUFFORCE = 33  # socket(7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rate", type=int, default=_TARGET)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--names", type=int, default=500)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sampan-bench-dns-") as directory:
        os.chmod(directory, 0o711)
        place = Place(Path(directory))
        try:
            _measure(place, options.rate, options.seconds, options.names)
        finally:
            place.close()


def _measure(place: Place, rate: int, seconds: int, names: int) -> None:
    hosts = [f"10.9.{number >> 8}.{number & 255}" for number in range(names)]
    print(f"{os.uname().release}, {os.cpu_count()} processors, {names} names")
    print(f"idle         PSS {pss(place.pid):5.1f} MB")
    place.serve(*(endpoint(f"c{number}", host) for number, host in enumerate(hosts)), servers=[])
    print(f"serving      PSS {pss(place.pid):5.1f} MB")
    packets = [question(f"c{number}") for number in range(names)]
    with place.socket() as sock:
        begin = cpu(place.pid)
        lost, times = even(sock, packets, rate, rate * seconds)
        used = (cpu(place.pid) - begin) / seconds * 100
        found = sorted(times)
        print(
            f"{rate} queries/s for {seconds} s: lost {lost}, "
            f"p50 {statistics.median(found) * 1e3:.2f} ms, "
            f"p99 {found[len(found) * 99 // 100] * 1e3:.2f} ms, {used:.0f} % of a processor"
        )
        most = _most(sock, packets, seconds)
    print(f"at most      {most:.0f} queries/s")
    print(f"after        PSS {pss(place.pid):5.1f} MB")
    if lost:
        sys.exit(f"bench/dns.py: {lost} queries were not answered")


def even(
    sock: socket.socket, packets: list[bytes], rate: int, count: int
) -> tuple[int, list[float]]:
    """Queries lost, and the times of the others. IDs come again after 65,536 queries."""
    sock.setblocking(False)
    # Who asks is not scheduled either where others work: what it loses itself is nobody's fault.
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 23)
    sent: dict[int, float] = {}
    times: list[float] = []
    start = time.perf_counter()
    number = 0
    while number < count or (sent and time.perf_counter() - start < count / rate + 2):
        now = time.perf_counter()
        while number < count and start + number / rate <= now:
            ident = number & 0xFFFF
            sock.send(struct.pack(">H", ident) + packets[number % len(packets)][2:])
            sent[ident] = time.perf_counter()
            number += 1
        pause = start + number / rate - time.perf_counter() if number < count else 0.1
        if select.select([sock], [], [], max(0.0, pause))[0]:
            _collect(sock, sent, times)
    return count - len(times), times


def _collect(sock: socket.socket, sent: dict[int, float], times: list[float]) -> None:
    while True:
        try:
            answer = sock.recv(512)
        except BlockingIOError:
            return
        begin = sent.pop(int.from_bytes(answer[:2], "big"))
        if answer[3] & 15 or answer[7] != 1:
            sys.exit(f"bench/dns.py: a wrong answer: {answer!r}")
        times.append(time.perf_counter() - begin)


def _most(sock: socket.socket, packets: list[bytes], seconds: int) -> float:
    sock.setblocking(True)
    sock.settimeout(2)
    count = 0
    start = time.perf_counter()
    for number in range(64):
        sock.send(packets[number % len(packets)])
    while (now := time.perf_counter()) < start + seconds:
        sock.recv(512)
        sock.send(packets[count % len(packets)])
        count += 1
    for _ in range(64):
        sock.recv(512)
    return count / (now - start)


def pss(pid: int) -> float:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return int(text.split("\nPss:")[1].split()[0]) / 1024


def cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
