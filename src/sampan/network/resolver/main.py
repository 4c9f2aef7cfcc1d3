"""The resolver's process: what the daemon tells it, and its end when there is nobody to serve.

A message is JSON with descriptors on a SOCK_SEQPACKET socket (``runtime.supervisor.protocol``);
each is answered, so that a name is known before whoever has it runs. Who may connect is said by
the mode of the socket's file:

    state     endpoints, clients: all there are; the answer names clients without sockets, and us
    endpoint  one endpoint, new or changed
    client    one client; with descriptors its UDP socket, its TCP socket and its process's pidfd,
              and sockets of its network namespace from which servers of its own are asked
    forget    endpoints, clients: IDs that are gone

While no daemon is connected it goes on with what it knows. It has no privilege: sockets are made
by the daemon, and what it reads is /etc/resolv.conf.
"""

from __future__ import annotations

import os
import resource
import socket
import sys
import time

from sampan.errors import InvalidArgument
from sampan.kernel.processes import close_range, set_no_new_privileges
from sampan.network.resolver.forward import Forwarder, HostServers
from sampan.network.resolver.names import Client, Endpoint, Names
from sampan.network.resolver.server import Answers, Serving
from sampan.network.resolver.sockets import Sockets
from sampan.runtime.supervisor import protocol
from sampan.runtime.supervisor.loop import READ, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["LISTENER_FD", "Resolver", "main"]

LISTENER_FD = 3
NOBODY = 65534
LOOK = 2.0
"""Seconds between two looks at what is idle, connections and the process itself."""


class Resolver:
    """The process's state: names, clients with their sockets, and daemons that are connected."""

    def __init__(self, listener: socket.socket, resolv_conf: str) -> None:
        self._loop = Loop()
        self._names = Names()
        self._answers = Answers(self._names, Forwarder(self._loop), HostServers(resolv_conf))
        self._serving: dict[str, Serving] = {}
        self._listener = listener
        self._daemons: dict[int, socket.socket] = {}
        self._ended = False
        self._idle = False
        self._operations = {
            "state": self._state,
            "endpoint": self._endpoint,
            "client": self._client,
            "forget": self._forget,
        }
        listener.setblocking(False)
        self._loop.watch(listener.fileno(), READ, lambda _: self._accept())
        self._loop.call_later(LOOK, self._look)

    def run(self) -> None:
        """Until there is nobody to serve and no daemon, for two looks."""
        while not self._ended:
            self._loop.turn()

    def _look(self) -> None:
        now = time.monotonic()
        for serving in self._serving.values():
            serving.close_idle(now)
        self._accept()
        idle = not self._serving and not self._daemons
        self._ended = idle and self._idle
        self._idle = idle
        self._loop.call_later(LOOK, self._look)

    # -- the daemon ----------------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        self._daemons[sock.fileno()] = sock
        self._loop.watch(sock.fileno(), READ, lambda _: self._message(sock))

    def _message(self, sock: socket.socket) -> None:
        descriptors: list[int] = []
        try:
            try:
                received = protocol.receive(sock)
                if received is None:
                    self._leave(sock)
                    return
                message, descriptors = received
                operation = self._operations.get(str(message.get("op")))
                if operation is None:
                    raise InvalidArgument(f"{message.get('op')!r} is not an operation")
                answer = operation(message, descriptors)
            except InvalidArgument as error:
                answer = {"error": error.message}
            protocol.send(sock, answer)
        except OSError:
            self._leave(sock)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _leave(self, sock: socket.socket) -> None:
        self._loop.forget(sock.fileno())
        del self._daemons[sock.fileno()]
        sock.close()

    def _state(self, message: dict[str, Any], _: list[int]) -> dict[str, object]:
        endpoints = [Endpoint(one) for one in message.get("endpoints", ())]
        clients = {one["id"]: Client(one) for one in message.get("clients", ())}
        self._names.replace(endpoints)
        for gone in self._serving.keys() - clients.keys():
            self._close(gone)
        for key, client in clients.items():
            if key in self._serving:
                self._serving[key].client = client
        lacking = [key for key in clients if key not in self._serving]
        return {"lacking": lacking, "pid": os.getpid()}

    def _endpoint(self, message: dict[str, Any], _: list[int]) -> dict[str, object]:
        self._names.put(Endpoint(message))
        return {}

    def _client(self, message: dict[str, Any], descriptors: list[int]) -> dict[str, object]:
        client = Client(message)
        if not descriptors:
            if client.id not in self._serving:
                raise InvalidArgument(f"client {client.id}: its sockets are not here")
            self._serving[client.id].client = client
            return {}
        if len(descriptors) < 3:
            raise InvalidArgument(f"client {client.id}: expected 3 descriptors")
        self._close(client.id)
        udp, tcp, process, *asking = descriptors
        descriptors.clear()  # they are the client's
        self._serving[client.id] = Serving(
            self._loop,
            self._answers,
            client,
            (udp, tcp, process),
            own=Sockets(asking) if asking else None,
            ended=self._close,
        )
        return {}

    def _forget(self, message: dict[str, Any], _: list[int]) -> dict[str, object]:
        for key in message.get("endpoints", ()):
            self._names.remove(key)
        for key in message.get("clients", ()):
            self._close(key)
        return {}

    def _close(self, client: str) -> None:
        serving = self._serving.pop(client, None)
        if serving is not None:
            serving.close()


def main() -> None:
    """``main RESOLV_CONF``, with the socket to listen on at ``LISTENER_FD``."""
    resolv_conf = sys.argv[1]
    close_range(LISTENER_FD + 1)  # what a parent left open is not ours to keep
    listener = socket.socket(fileno=LISTENER_FD)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)  # capabilities(7): they go with it
    set_no_new_privileges()
    os.chdir("/")
    Resolver(listener, resolv_conf).run()
