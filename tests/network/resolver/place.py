"""The resolver's process between two network namespaces: the machine's, and a container's."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sampan.kernel.netns import Inside
from sampan.network.resolver import client

if TYPE_CHECKING:
    from collections.abc import Callable

    Reply = Callable[[bytes], bytes | list[bytes] | None]

A, PTR, MX, AAAA, ANY = 1, 12, 15, 28, 255
UPSTREAM, SECOND = "127.0.0.53", "127.0.0.54"
CONTAINER = {"id": "c1", "networks": ["n1"]}


def endpoint(name: str, *addresses: str, network: str = "n1", **more: Any) -> dict[str, Any]:
    return {
        "id": f"{network}-{name}-{addresses[0]}",
        "container": f"id-{name}-{addresses[0]}",
        "network": network,
        "names": [name],
        "title": f"{name}.{network}",
        "addresses": list(addresses),
        **more,
    }


def question(name: str, kind: int = A, *, ident: int = 7, edns: int = 0) -> bytes:
    """A query in the format of RFC 1035, written apart from what is tested."""
    labels = b"".join(bytes((len(one),)) + one.encode() for one in name.split(".") if one)
    packet = struct.pack(">6H", ident, 0x0100, 1, 0, 0, 1 if edns else 0)
    packet += labels + b"\0" + struct.pack(">HH", kind, 1)
    return packet + (b"\0" + struct.pack(">HHIH", 41, edns, 0, 0) if edns else b"")


def addresses(answer: bytes) -> list[str]:
    """The addresses of a reply that names its question by pointers."""
    count = struct.unpack_from(">H", answer, 6)[0]
    offset = answer.index(b"\0", 12) + 5
    found = []
    for _ in range(count):
        kind, _, _, size = struct.unpack_from(">HHIH", answer, offset + 2)
        data = answer[offset + 12 : offset + 12 + size]
        if kind in (A, AAAA):
            family = socket.AF_INET if kind == A else socket.AF_INET6
            found.append(socket.inet_ntop(family, data))
        offset += 12 + size
    return found


def code(answer: bytes) -> int:
    return answer[3] & 15


class Place:
    """The namespaces, the process, and a process that stands for the container's init."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.resolv_conf = directory / "resolv.conf"
        self.resolv_conf.write_text(f"nameserver {UPSTREAM}\nnameserver {SECOND}\n")
        self.resolv_conf.chmod(0o644)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._upstreams: list[Upstream] = []
        self.machine = self.namespace()
        self.process = self._processes[-1]
        with Inside(self.machine):
            self.resolver = client.start(str(directory), str(self.resolv_conf))
        self.pid = self.resolver.pid
        self.container, self.pidfd = self.another()

    def namespace(self) -> int:
        """A new network namespace with ``lo`` up: its descriptor."""
        process = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "ip link set lo up; echo; exec sleep 1000"],
            stdout=subprocess.PIPE,
        )
        self._processes.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return os.open(f"/proc/{process.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def another(self) -> tuple[int, int]:
        """A container's namespace and the pidfd of its init."""
        namespace = self.namespace()
        return namespace, os.pidfd_open(self._processes[-1].pid)

    def kill_container(self) -> None:
        """The init of the container that was made last."""
        self._processes[-1].kill()
        self._processes[-1].wait()

    def serve(self, *endpoints: dict[str, Any], **more: Any) -> None:
        self.resolver.tell({"op": "state", "endpoints": endpoints, "clients": [CONTAINER]})
        self.resolver.serve({**CONTAINER, **more}, self.container, self.pidfd)

    def socket(self, kind: int = socket.SOCK_DGRAM, namespace: int | None = None) -> socket.socket:
        """Of the container, connected with the resolver."""
        with Inside(self.container if namespace is None else namespace):
            sock = socket.socket(socket.AF_INET, kind)
        sock.settimeout(60)
        sock.connect(("127.0.0.11", 53))
        return sock

    def ask(self, name: str, kind: int = A, **more: int) -> bytes:
        with self.socket() as sock:
            sock.send(question(name, kind, **more))
            return sock.recv(65535)

    def ask_tcp(self, packet: bytes) -> bytes:
        with self.socket(socket.SOCK_STREAM) as sock, sock.makefile("rb") as file:
            sock.sendall(struct.pack(">H", len(packet)) + packet)
            return file.read(struct.unpack(">H", file.read(2))[0])

    def upstream(
        self, address: str, reply: Reply | None = None, namespace: int | None = None
    ) -> Upstream:
        """A name server of the machine's; by default it says 192.0.2.1 to everything."""
        where = self.machine if namespace is None else namespace
        upstream = Upstream(where, address, reply or told("192.0.2.1"))
        self._upstreams.append(upstream)
        return upstream

    def close(self) -> None:
        self.resolver.close()
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        for upstream in self._upstreams:
            upstream.close()
        for process in self._processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        for fd in (self.machine, self.container, self.pidfd):
            os.close(fd)


def told(*texts: str, code: int = 0) -> Callable[[bytes], bytes]:
    """A name server's answer: these addresses."""

    def reply(packet: bytes) -> bytes:
        end = packet.index(b"\0", 12) + 5
        head = packet[:2] + struct.pack(">5H", 0x8180 | code, 1, len(texts), 0, 0)
        records = b"".join(
            b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + socket.inet_aton(text)
            for text in texts
        )
        return head + packet[12:end] + records

    return reply


class Upstream:
    """A name server, UDP and TCP, on threads; ``seen`` are the packets it got."""

    def __init__(self, namespace: int, address: str, reply: Reply) -> None:
        self.seen: list[bytes] = []
        self._reply = reply
        with Inside(namespace):
            self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._udp.bind((address, 53))
        self._tcp.bind((address, 53))
        self._tcp.listen()
        targets = (self._packets, self._connections)
        self._threads = [threading.Thread(target=target, daemon=True) for target in targets]
        for thread in self._threads:
            thread.start()

    def _packets(self) -> None:
        while True:
            packet, peer = self._udp.recvfrom(65535)
            if not packet:
                return
            self.seen.append(packet)
            answer = self._reply(packet)
            for one in answer if isinstance(answer, list) else [answer]:
                if one is not None:
                    with contextlib.suppress(BrokenPipeError):  # ``close`` was quicker
                        self._udp.sendto(one, peer)

    def _connections(self) -> None:
        while True:
            try:
                sock, _ = self._tcp.accept()
            except OSError:
                return
            # Who asks may have ended meanwhile.
            with contextlib.suppress(ConnectionError), sock, sock.makefile("rb") as file:
                head = file.read(2)
                if len(head) < 2:
                    continue
                packet = file.read(struct.unpack(">H", head)[0])
                self.seen.append(packet)
                answer = self._reply(packet)
                if isinstance(answer, bytes):
                    sock.sendall(struct.pack(">H", len(answer)) + answer)

    def close(self) -> None:
        """Behind the resolver's end, which closes its connections."""
        # Connected with itself, it can be shut down, and its thread wakes up.
        self._udp.connect(self._udp.getsockname())
        self._udp.shutdown(socket.SHUT_RDWR)
        self._tcp.shutdown(socket.SHUT_RDWR)
        # Only then: what a thread is about to ask would be a closed socket, or another's number.
        for thread in self._threads:
            thread.join()
        self._udp.close()
        self._tcp.close()


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
