"""sd_notify(3) through the container's border: ``NOTIFY_SOCKET``.

A service manager's socket is not put into the container, where anything could be told to it. The
container gets a socket of ours in a directory bound at /run/notify; when its program says
``READY=1`` there, the manager hears that, and that the container's init is the main process.
"""

from __future__ import annotations

import os
import select
import socket
from typing import TYPE_CHECKING

from sampan.errors import Unavailable
from sampan.oci.runtime import Mount

if TYPE_CHECKING:
    from sampan.oci.runtime import Spec
    from sampan.runtime.command.context import Context

__all__ = ["Ready", "forget"]

_INSIDE = "/run/notify"
_NAME = "notify.sock"
_MAX_MESSAGE = 65536


def _directory(context: Context, container_id: str) -> str:
    """Beside the containers' own directories: "@" is in no container's ID."""
    return os.path.join(context.root, f"@notify-{container_id}")


def forget(context: Context, container_id: str) -> None:
    """Remove what ``Ready`` made, if anything."""
    directory = _directory(context, container_id)
    try:
        for name in os.listdir(directory):
            os.unlink(os.path.join(directory, name))
        os.rmdir(directory)
    except FileNotFoundError:
        pass


class Ready:
    """The two ends for one container; ``None`` from ``wanted`` where no manager listens."""

    __slots__ = ("_directory", "_manager", "_socket")

    def __init__(self, manager: str, directory: str) -> None:
        self._manager = manager
        self._directory = directory
        self._socket: socket.socket | None = None

    @classmethod
    def wanted(cls, context: Context, container_id: str) -> Ready | None:
        """As the environment says."""
        manager = os.environ.get("NOTIFY_SOCKET")
        return cls(manager, _directory(context, container_id)) if manager else None

    def configure(self, config: Spec) -> Spec:
        """The configuration with the directory's mount and the variable."""
        os.makedirs(self._directory, mode=0o755, exist_ok=True)
        mount = Mount(
            destination=_INSIDE,
            type="bind",
            source=self._directory,
            options=("bind", "nosuid", "noexec", "nodev", "ro"),
        )
        assert config.process is not None
        environment = (*config.process.env, f"NOTIFY_SOCKET={_INSIDE}/{_NAME}")
        return config.replace(
            mounts=(*config.mounts, mount), process=config.process.replace(env=environment)
        )

    def listen(self) -> bool:
        """Open our socket before the program starts; False if ``create`` knew of no manager."""
        if not os.path.isdir(self._directory):
            return False
        path = os.path.join(self._directory, _NAME)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.bind(path)
            os.chmod(path, 0o777)  # whoever the program runs as
        except OSError as error:
            raise Unavailable(f"{path}: {error.strerror}") from None
        return True

    def relay(self, pid: int, pidfd: int) -> None:
        """Wait until the program says that it is ready, or ends; tell the manager."""
        assert self._socket is not None
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(pidfd, select.POLLIN)
        with self._socket:
            while True:
                ready = [fd for fd, _ in poll.poll()]
                if self._socket.fileno() in ready:
                    message = self._socket.recv(_MAX_MESSAGE)
                    if b"READY=1" in message.split(b"\n"):
                        self._tell(pid)
                        return
                elif pidfd in ready:
                    return

    def _tell(self, pid: int) -> None:
        address = self._manager
        if address.startswith("@"):  # unix(7), abstract
            address = "\0" + address[1:]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            try:
                manager.sendto(f"READY=1\nMAINPID={pid}".encode(), address)
            except OSError as error:
                raise Unavailable(f"NOTIFY_SOCKET {self._manager}: {error.strerror}") from None
