"""Network namespaces that stand for machines: each ends with this process, however that ends."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

from sampan.kernel.netns import Inside

__all__ = ["Namespace", "namespaces"]

_HOLD = "ip link set lo up; echo; exec sleep 1000000"


class Namespace:
    """One, held by a process that the kernel kills with its parent (PR_SET_PDEATHSIG)."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sh", "-c", _HOLD],
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()
        self.enter = ("nsenter", f"--net=/proc/{self._process.pid}/ns/net")

    def run(self, *words: str) -> str:
        """A command in it; what it said."""
        done = subprocess.run(
            [*self.enter, *words], check=True, stdout=subprocess.PIPE, text=True, timeout=120
        )
        return done.stdout

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This thread is in it meanwhile."""
        with open(self.enter[1].partition("=")[2], encoding="ascii") as file, Inside(file.fileno()):
            yield

    def wire(self, name: str, address: str, other: Namespace, to: str, there: str) -> None:
        """A cable: the link ``name`` here, ``to`` in ``other``, each with its address/prefix."""
        pid = str(other._process.pid)
        self.run(*f"ip link add {name} type veth peer {to} netns {pid}".split())
        for one, link, own in ((self, name, address), (other, to, there)):
            one.run("ip", "address", "add", own, "dev", link)
            one.run("ip", "link", "set", link, "up")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def namespaces(count: int) -> Iterator[list[Namespace]]:
    """So many of them."""
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(count):
            made.append(Namespace())
            stack.callback(made[-1].close)
        yield made
