"""What the command remembers of its containers between calls: one directory each.

``<root>/<id>/state.json`` is written to a temporary name, then renamed, so a reader sees a whole
one or none. Whether a container runs is never stored: it is asked of the kernel, by pid and start
time (a pid alone may be somebody else's by now), and a zombie has ended. The gate's FIFO is there
until ``start`` releases it: that tells "created" from "running" (sampan.runtime.gate).
"""

from __future__ import annotations

import json
import os

from sampan.errors import AlreadyExists, Corrupt, InvalidArgument, KernelError, NotFound
from sampan.kernel.processes import process_state, start_time
from sampan.oci.record import Record
from sampan.oci.runtime import Spec  # noqa: TC001 - a Record reads its annotations
from sampan.runtime import gate

__all__ = ["ID_CHARACTERS", "State", "Store", "check_id"]

ID_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_+.-")
MAX_ID = 255
STATE_FILE = "state.json"


class State(Record):
    """One container. ``pid`` is 0 while it is being created. ``created``: RFC 3339, UTC.

    ``cgroup``: the group's path, or None where the caller's was kept. ``rootfs``: absolute.
    """

    id: str
    bundle: str
    rootfs: str
    created: str
    owner: str
    spec: Spec
    pid: int = 0
    start_time: int = 0
    cgroup: str | None = None
    no_pivot: bool = False

    def alive(self) -> bool:
        """Whether init is there and has not ended: not a zombie, not another process."""
        if self.pid <= 0:
            return False
        try:
            if start_time(self.pid) != self.start_time:
                return False
        except KernelError:
            return False
        return process_state(self.pid) not in (None, "Z", "X")


class Store:
    """The state directory of a command (``--root``)."""

    __slots__ = ("root",)

    def __init__(self, root: str) -> None:
        self.root = root

    def directory(self, container_id: str) -> str:
        """The container's own directory; also the place of its gate's FIFOs."""
        check_id(container_id)
        return os.path.join(self.root, container_id)

    def reserve(self, container_id: str) -> str:
        """Make the directory of a new container; raises AlreadyExists when the ID is in use."""
        path = self.directory(container_id)
        os.makedirs(self.root, mode=0o711, exist_ok=True)
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            raise AlreadyExists(f"container {container_id} exists already") from None
        return path

    def write(self, state: State) -> None:
        """Replace the container's state file, whole."""
        path = os.path.join(self.directory(state.id), STATE_FILE)
        temporary = f"{path}.{os.getpid()}"
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape") as file:
            json.dump(state.to_json(), file)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)

    def read(self, container_id: str) -> State:
        """The container's state; raises NotFound, or Corrupt for one that cannot be read."""
        path = os.path.join(self.directory(container_id), STATE_FILE)
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                text = file.read()
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"container {container_id} does not exist") from None
        try:
            return State.from_json(json.loads(text))
        except (ValueError, InvalidArgument) as error:
            raise Corrupt(f"{path}: {error}") from None

    def status(self, state: State, frozen: bool = False) -> str:
        """creating, created, running, paused or stopped. ``frozen``: what its cgroup says."""
        if not state.alive():
            return "stopped" if state.pid else "creating"
        if os.path.exists(os.path.join(self.directory(state.id), gate.EXEC_FIFO)):
            return "created"
        return "paused" if frozen else "running"

    def ids(self) -> list[str]:
        """Every container there is, also half-made ones, sorted."""
        try:
            names = os.listdir(self.root)
        except FileNotFoundError:
            return []
        return sorted(
            name for name in names if is_id(name) and os.path.isdir(os.path.join(self.root, name))
        )

    def remove(self, container_id: str) -> None:
        """Remove the container's directory, whatever of it there is; no error when there is none.

        It holds files only; a directory in it is somebody else's, and an error.
        """
        path = self.directory(container_id)
        try:
            for name in os.listdir(path):
                os.unlink(os.path.join(path, name))
            os.rmdir(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise KernelError("remove", error.errno or 0, path) from None


def is_id(text: str) -> bool:
    """Whether ``text`` may name a container: ``[A-Za-z0-9_+.-]+``, and no directory's own name."""
    return 0 < len(text) <= MAX_ID and ID_CHARACTERS.issuperset(text) and text not in (".", "..")


def check_id(text: str) -> None:
    """Raise InvalidArgument unless ``text`` may name a container."""
    if not is_id(text):
        raise InvalidArgument(
            f'container ID "{text}": expected letters, digits and _+.- only, 1 to {MAX_ID} of them'
        )
