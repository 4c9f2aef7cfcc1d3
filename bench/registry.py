"""Our registry and Debian's docker-registry, side by side: the same clients, the same bytes.

    python -m bench.registry [--rounds N] [--megabytes N] [--uploads N] [--bucket]

Push and pull of one blob (curl; a pull is the mean of three), a blob pulled by 64 clients at once,
with the same bytes through a thread a client that does nothing but sendfile(2) beside it, requests
for a manifest (wrk), and our memory while many uploads run (``--upload-megabytes``, one round).
Medians of the rounds, turn by turn. Targets: push and pull 1.0 of theirs, 64 clients 0.9 of bare
sendfile, requests 0.5 of theirs, memory under 200 MB while 32 of 1 GB come in.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.registry.registries import Registry, image_of
from tests.registry.server.buckets import ENVIRONMENT, Bucket
from tests.registry.server.house import House

CLIENTS = 64
_PULLS = 3
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def timed(work: Callable[[], object]) -> float:
    before = time.perf_counter()
    work()
    return time.perf_counter() - before


def curl(*words: str) -> str:
    return subprocess.run(
        ["curl", "-sS", "--fail", *words], check=True, capture_output=True, text=True
    ).stdout


class Subject:
    """A registry by its address."""

    def __init__(self, address: str) -> None:
        self.base = f"http://{address}"

    def push(self, file: Path, digest: str, repository: str) -> None:
        begun = curl("-X", "POST", "-D", "-", f"{self.base}/v2/{repository}/blobs/uploads/")
        (where,) = (
            line.split(": ", 1)[1].strip()
            for line in begun.splitlines()
            if line.lower().startswith("location:")
        )
        where = where if where.startswith("http") else self.base + where
        joint = "&" if "?" in where else "?"
        curl("-T", str(file), f"{where}{joint}digest={digest}")

    def pull(self, digest: str, repository: str, times: int) -> None:
        for _ in range(times):
            curl("-o", "/dev/null", f"{self.base}/v2/{repository}/blobs/{digest}")

    def many(self, digest: str, repository: str) -> None:
        at_once(f"{self.base}/v2/{repository}/blobs/{digest}")

    def requests(self, path: str) -> float:
        done = subprocess.run(
            ["wrk", "-t2", "-c32", "-d5s", "-H", f"Accept: {MANIFEST}", self.base + path],
            check=True,
            capture_output=True,
            text=True,
        )
        if "Non-2xx" in done.stdout:
            raise SystemExit(f"{self.base}{path}: refused: {done.stdout}")
        (line,) = (line for line in done.stdout.splitlines() if line.startswith("Requests/sec"))
        return float(line.split()[1])


def at_once(url: str) -> None:
    clients = [
        subprocess.Popen(["curl", "-sS", "--fail", "-o", "/dev/null", url]) for _ in range(CLIENTS)
    ]
    for client in clients:
        if client.wait():
            raise SystemExit(f"curl {url}: {client.returncode}")


def bare(file: Path) -> str:
    """A server that answers everything with the file, by sendfile alone; its URL."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    size = file.stat().st_size

    def answer(sock: socket.socket) -> None:
        with sock, file.open("rb") as source:
            sock.recv(65536)
            sock.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
            offset = 0
            while offset < size:
                offset += os.sendfile(sock.fileno(), source.fileno(), offset, size - offset)

    def serve() -> None:
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=answer, args=(sock,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}/"


def memory(house: House) -> str:
    """The process's peak (VmHWM)."""
    assert house.process is not None
    text = Path(f"/proc/{house.process.pid}/status").read_text()
    return next(line.split(":")[1].strip() for line in text.splitlines() if "VmHWM" in line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--uploads", type=int, default=32, help="at once, for memory")
    parser.add_argument("--upload-megabytes", type=int, default=100, help="each of those")
    parser.add_argument("--only-uploads", action="store_true")
    parser.add_argument("--bucket", action="store_true", help="uploads only, to an S3 server")
    given = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="registry-bench-", dir="/var/tmp"))
    if given.bucket:
        try:
            uploads_to_a_bucket(given, place)
        finally:
            shutil.rmtree(place)
        return
    theirs = Registry(_made(place / "theirs"))
    house = House(place / "ours").start()
    try:
        if not given.only_uploads:
            addresses = {"theirs": theirs.address, "ours": house.address}
            compare(given, place, {name: Subject(one) for name, one in addresses.items()})
            subjects: dict[str, Any] = {"theirs": theirs, "ours": house}
            requests(given, subjects)
            print(f"our peak memory so far: {memory(house)}")
        uploads(given, place, house)
    finally:
        house.close()
        theirs.close()
        shutil.rmtree(place)


def _made(place: Path) -> Path:
    place.mkdir()
    return place


def compare(given: argparse.Namespace, place: Path, subjects: dict[str, Subject]) -> None:
    times: dict[tuple[str, str], list[float]] = {}
    sendfile = []
    for turn in range(given.rounds):
        file = place / "blob"
        file.write_bytes(os.urandom(given.megabytes << 20))
        digest = f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
        repository = f"bench/{turn}"
        for name, one in subjects.items():
            for what, work in (
                ("push", partial(one.push, file, digest, repository)),
                ("pull", partial(one.pull, digest, repository, _PULLS)),
                ("64 pulls", partial(one.many, digest, repository)),
            ):
                took = timed(work) / (_PULLS if what == "pull" else 1)
                times.setdefault((what, name), []).append(took)
        url = bare(file)
        sendfile.append(timed(partial(at_once, url)))
    for what in ("push", "pull", "64 pulls"):
        ours, other = (statistics.median(times[what, name]) for name in ("ours", "theirs"))
        print(f"{what:10} ours {ours:7.3f} s  theirs {other:7.3f} s  ratio {ours / other:.2f}")
    many, plain = statistics.median(times["64 pulls", "ours"]), statistics.median(sendfile)
    print(f"bare sendfile, 64 clients {plain:.3f} s: we reach {plain / many:.2f} of it [0.9]")


def requests(given: argparse.Namespace, subjects: dict[str, Any]) -> None:
    manifest, blobs = image_of([b"layer"])
    rates: dict[str, list[float]] = {"theirs": [], "ours": []}
    for one in subjects.values():
        for data in blobs.values():
            one.put_blob("bench/rate", data)
        one.put_manifest("bench/rate", "v", manifest, MANIFEST)
    for _ in range(min(given.rounds, 3)):
        for name, one in subjects.items():
            rates[name].append(Subject(one.address).requests("/v2/bench/rate/manifests/v"))
    ours, other = (statistics.median(rates[name]) for name in ("ours", "theirs"))
    print(f"manifest GET  ours {ours:.0f}/s  theirs {other:.0f}/s  ratio {ours / other:.2f} [0.5]")


def uploads(given: argparse.Namespace, place: Path, house: House) -> None:
    """Streamed, all at once."""
    file = place / "blob"
    piece = os.urandom(1 << 20)
    with file.open("wb") as out:
        for _ in range(given.upload_megabytes):
            out.write(piece)
    begun = [house.begin(f"bench/up{n}") for n in range(given.uploads)]
    patch = ["curl", "-sS", "--fail", "-X", "PATCH", "-T", str(file), "-o", "/dev/null"]
    clients = [subprocess.Popen([*patch, f"http://{house.address}{where}"]) for where in begun]
    for client in clients:
        if client.wait():
            raise SystemExit(f"an upload failed: curl: {client.returncode}")
    for where in begun:
        house.request("DELETE", where)
    print(
        f"{given.uploads} uploads of {given.upload_megabytes} MB at once: peak {memory(house)} "
        "[200 MB]"
    )


def uploads_to_a_bucket(given: argparse.Namespace, place: Path) -> None:
    os.environ.update(ENVIRONMENT)
    with contextlib.closing(Bucket(place / "buckets")) as bucket:
        house = House(place / "ours")
        house.where = (*house.where, "--storage", bucket.address("bench"))
        with contextlib.closing(house.start()):
            uploads(given, place, house)


if __name__ == "__main__":
    main()
