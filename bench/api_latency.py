"""What a container's life costs through the API: create, start, wait, remove, by a raw client.

    python bench/api_latency.py [--host unix:///run/sampan/sampan.sock] [--image host] [-n 100]

The client is a socket and four prepared requests, so that what is measured is the daemon, the
runtime and the kernel. Medians and p99 in milliseconds, a step a line. ``bench/start.py`` compares
with other engines.
"""

from __future__ import annotations

import argparse
import itertools
import json
import socket
import statistics
import time


class Client:
    """HTTP/1.1 over a Unix socket, one request at a time, answers with a length or in chunks."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(path)
        self._buffer = b""

    def send(self, method: str, path: str, body: bytes = b"") -> None:
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        if body:
            head += "Content-Type: application/json\r\n"
        self._socket.sendall(head.encode() + b"\r\n" + body)

    def head(self) -> bytes:
        """The answer's header."""
        while b"\r\n\r\n" not in self._buffer:
            self._fill()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return head.lower()

    def rest(self, head: bytes) -> bytes:
        """The answer's body."""
        if b"transfer-encoding: chunked" in head:
            body = b""
            while True:
                while b"\r\n" not in self._buffer:
                    self._fill()
                size, _, self._buffer = self._buffer.partition(b"\r\n")
                body += self._take(int(size, 16))
                self._take(2)
                if size == b"0":
                    return body
        _, found, tail = head.partition(b"content-length: ")
        return self._take(int(tail.split(b"\r\n")[0])) if found else b""

    def request(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        self.send(method, path, body)
        head = self.head()
        return int(head.split()[1]), self.rest(head)

    def _fill(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise SystemExit("the daemon closed the connection")
        self._buffer += data

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._fill()
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data


def life(client: Client, body: bytes) -> list[float]:
    """Seconds of create, start, wait and remove."""
    moments = [time.perf_counter()]
    status, answer = client.request("POST", "/v1.51/containers/create", body)
    if status != 201:
        raise SystemExit(f"create: {status} {answer.decode()}")
    container = json.loads(answer)["Id"]
    moments.append(time.perf_counter())
    for method, path, expected in (
        ("POST", f"/v1.51/containers/{container}/start", 204),
        ("POST", f"/v1.51/containers/{container}/wait", 200),
        ("DELETE", f"/v1.51/containers/{container}", 204),
    ):
        status, answer = client.request(method, path)
        if status != expected:
            raise SystemExit(f"{method} {path}: {status} {answer.decode()}")
        moments.append(time.perf_counter())
    return [after - before for before, after in itertools.pairwise(moments)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--host", default="unix:///run/sampan/sampan.sock")
    parser.add_argument("--image", default="host")
    parser.add_argument("-n", type=int, default=100)
    parser.add_argument("command", nargs="*", default=["/bin/true"])
    given = parser.parse_args()
    client = Client(given.host.removeprefix("unix://"))
    body = json.dumps(
        {"Image": given.image, "Cmd": given.command, "HostConfig": {"NetworkMode": "none"}}
    ).encode()
    for _ in range(5):
        life(client, body)
    runs = [life(client, body) for _ in range(given.n)]
    steps = [*zip(*runs, strict=True), [sum(run) for run in runs]]
    for name, values in zip(("create", "start", "wait", "remove", "all"), steps, strict=True):
        ordered = sorted(values)
        p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
        print(f"{name:8} {statistics.median(values) * 1e3:7.2f} ms   p99 {p99 * 1e3:7.2f} ms")


if __name__ == "__main__":
    main()
