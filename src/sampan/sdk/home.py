"""What one program holds for its containers, and what it leaves to be found if it is killed.

    <data root>/sessions/lock               taken to begin or end a session, and to sweep
                         host/              the host image's skeletons (``images``)
                         <session>/lock     held, by flock(2), as long as the program lives
                                  /root     where each container, in a mount namespace of its own,
                                            mounts its root
                                  /c/<container>     its files, its writable root, and in run/
                                            its monitor's files
                                  /dead     what is to be deleted, by a thread that is there only
                                            while there is anything: a disk may keep it waiting
    cgroup  /sampan-sessions/<session>/<container>

A lock ends with its program. So a session whose lock can be had belongs to nobody: its containers
are being killed by their monitors, which are bound to it (``messages.Spawn.bound``), or are killed
now if those were killed too, and its files are removed. That is done by whoever begins the next
session on the same data root: nothing is promised to happen when nobody is there to do it.

A program's zygote may outlive it by the container it is just making. So its directory is moved away
first: from then on nothing can be begun there, for the paths in the request lead nowhere, and what
was begun before has a monitor on record.

A zygote of the session's own makes the containers. It is asked in one message and answers on a
socket, so programs with threads may use it: they themselves never fork.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import select
import stat
import threading
import time
from collections import deque
from contextlib import contextmanager
from errno import ENOENT, ENOTEMPTY
from typing import TYPE_CHECKING

from sampan.errors import (
    InvalidArgument,
    KernelError,
    NotFound,
    PermissionDenied,
    SampanError,
    Unavailable,
)
from sampan.runtime.supervisor import client, protocol

if TYPE_CHECKING:
    import socket
    import weakref
    from collections.abc import Iterator, Mapping

    from sampan.kernel.cgroups import Group, Hierarchy
    from sampan.sdk.execution import Execution
    from sampan.sdk.images import Images

__all__ = ["DEFAULT_DATA_ROOT", "Home"]

DEFAULT_DATA_ROOT = "/var/lib/sampan"
CGROUP_PARENT = "/sampan-sessions"
_PATIENCE = 10.0
"""Seconds that a container of a session that has ended may need to be gone."""
_MOST_DEAD = 64
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SIGKILL = 9


class Home:
    """Opened once per session; every method may be called from any thread."""

    def __init__(self, data_root: str, scratch: str | None = None) -> None:
        """``scratch``: where sessions lie instead of in the data root.

        Raises PermissionDenied, InvalidArgument, KernelError.
        """
        if os.geteuid() != 0:
            raise PermissionDenied(
                "to run containers this program must be root: start it with sudo; or have a daemon "
                "run them, whose socket you may use: sampan.connect()"
            )
        for place in (data_root, scratch or ""):
            if any(character in place for character in ":,\\\n"):
                raise InvalidArgument(
                    f'data root "{place}": overlay cannot take a path with a colon, a comma, a '
                    "backslash or a newline in it"
                )
        # First, so that it gets ready while we do.
        self._zygote = client.start_zygote()
        self.pid = os.getpid()
        self.data_root = os.path.abspath(data_root)
        self._sessions = f"{self.data_root}/sessions"
        if scratch is not None:
            self._sessions = f"{os.path.abspath(scratch)}/sampan-sessions"
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._living: set[str] = set()
        self._abandoned: deque[str] = deque()
        self._rest: deque[str] = deque()
        self._deleting = False
        self.executions: dict[str, weakref.ref[Execution]] = {}
        self._idle = threading.Condition(self._lock)
        self._busy = 0
        self._lock_fd = -1
        try:
            self.images, self.hierarchy = self._parts()
            self._begin()
        except BaseException:
            if self._lock_fd >= 0:
                os.close(self._lock_fd)
            self._zygote.close()
            raise

    def _parts(self) -> tuple[Images, Hierarchy]:
        from sampan.kernel import cgroups
        from sampan.sdk.images import Images

        skeletons = f"{self._sessions}/host"
        try:
            os.makedirs(os.path.dirname(self._sessions), 0o711, exist_ok=True)
            for place in (self._sessions, skeletons):
                try:
                    os.mkdir(place, 0o700)
                except FileExistsError:
                    continue
        except OSError as error:
            raise KernelError("mkdir", error.errno or 0, skeletons) from error
        _check_ours(self._sessions)
        return Images(self.data_root, skeletons, self._exclusive), cgroups.detect()

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        fd = os.open(f"{self._sessions}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    # Beginning and end

    def _begin(self) -> None:
        with self._exclusive():
            while True:
                self.name = os.urandom(4).hex()
                self.directory = f"{self._sessions}/{self.name}"
                try:
                    os.mkdir(self.directory, 0o700)
                    break
                except FileExistsError:
                    continue
            self._lock_fd = _lock(self.directory)
            for name in ("c", "dead", "root", "view"):
                os.mkdir(f"{self.directory}/{name}", 0o700)
            dead = self._take_dead()
            self.images.sweep()
            self._group(self.name).create()
        for name in dead:
            self._delete(name)

    def _take_dead(self) -> list[str]:
        """Take what sessions of killed programs left, to be removed when others may go on."""
        dead = []
        for name in os.listdir(self._sessions):
            if name in ("host", "lock", self.name):
                continue
            try:
                os.close(_lock(f"{self._sessions}/{name}"))
            except BlockingIOError:
                continue
            os.rename(f"{self._sessions}/{name}", f"{self.directory}/dead/{name}")
            self._end_containers(f"{self.directory}/dead/{name}", name)
            dead.append(name)
        return dead

    def _bury(self, path: str) -> None:
        from sampan.storage.drivers.removal import remove_tree

        parent = os.open(os.path.dirname(path), _DIRECTORY)
        try:
            remove_tree(parent, os.path.basename(path), path)
        finally:
            os.close(parent)

    def _end_containers(self, directory: str, session: str) -> None:
        """Kill what runs of a session; wait for its monitors, and remove its cgroups."""
        deadline = time.monotonic() + _PATIENCE
        try:
            names = os.listdir(f"{directory}/c")
        except FileNotFoundError:
            names = []  # It was killed before it was all there.
        for name in names:
            _end_container(f"{directory}/c/{name}/run", deadline)
        group = self._group(session)
        group.kill()
        group.destroy()

    def close(self) -> None:
        """Kill every container, and leave nothing. Harmless when it is closed."""
        with self._lock:
            fd, self._lock_fd = self._lock_fd, -1
            if fd < 0:
                return
            self._wait_until_idle()
        try:
            self._zygote.drain()
            self._zygote.close()
            self._end_containers(self.directory, self.name)
            with self._lock:
                self._living.clear()
                self._wait_until_idle()
            self.images.close()
            with self._exclusive():
                self._group("").prune()
                self._bury(self.directory)
        finally:
            os.close(fd)

    def forget(self) -> None:
        """In a fork of this process: close our copies of what the parent's end is told by."""
        # Another thread may have held it when this process was forked.
        self._lock = threading.Lock()
        fd, self._lock_fd = self._lock_fd, -1
        if fd >= 0:
            os.close(fd)
            self.images.forget()
            for reference in list(self.executions.values()):
                execution = reference()
                if execution is not None:
                    execution.forget()
            self._zygote.socket.close()
            os.close(self._zygote.pidfd)

    def _group(self, name: str) -> Group:
        return self.hierarchy.group(f"{CGROUP_PARENT}/{name}".rstrip("/"))

    # Containers

    @contextmanager
    def beginning(self) -> Iterator[str]:
        """A name and a directory for a container that is made inside the ``with``.

        The session does not end before that does. Raises Unavailable when it has ended.
        """
        with self._lock:
            if self._lock_fd < 0:
                raise Unavailable(
                    "this session is closed"
                    if os.getpid() == self.pid
                    else f"this session belongs to process {self.pid}; after a fork, begin another"
                )
            self._busy += 1
        try:
            self._bury_abandoned()
            name = f"{self.name}-{next(self._numbers)}"
            self._living.add(name)
            try:
                os.mkdir(self.container_directory(name), 0o700)
                yield name
            except (SampanError, OSError):
                self.remove_container(name)
                raise
            except BaseException:
                self.abandon(name)  # It was interrupted, and may have begun to run.
                raise
        finally:
            self._leave()

    @property
    def is_closed(self) -> bool:
        """Whether it has ended, or is about to: what its containers die of then is that."""
        return self._lock_fd < 0

    def _wait_until_idle(self) -> None:
        while self._busy:
            self._idle.wait()

    def _leave(self) -> None:
        with self._lock:
            self._busy -= 1
            self._idle.notify_all()

    def abandon(self, name: str) -> None:
        """Nobody will remove this container, which is being killed: the next one made here does."""
        self._abandoned.append(name)
        self.executions.pop(name, None)

    def _bury_abandoned(self) -> None:
        while self._abandoned:
            try:
                name = self._abandoned.popleft()
            except IndexError:
                return  # Another thread was faster.
            _end_container(self.run_directory(name), time.monotonic() + _PATIENCE)
            self.kill(name)
            self.remove_container(name)

    def container_directory(self, name: str) -> str:
        return f"{self.directory}/c/{name}"

    def run_directory(self, name: str) -> str:
        return f"{self.container_directory(name)}/run"

    def cgroup(self, name: str) -> str:
        return f"{CGROUP_PARENT}/{self.name}/{name}"

    def spawn(self, request: Mapping[str, object], stdio: tuple[int, int, int]) -> socket.socket:
        """Ask for a container; another zygote is started if this one was killed."""
        with self._lock:
            try:
                return self._zygote.spawn(request, stdio)
            except Unavailable:
                self._zygote.close()
                self._zygote = client.start_zygote()
                return self._zygote.spawn(request, stdio)

    def kill(self, name: str) -> None:
        """Kill and remove what is left of a container whose monitor is gone."""
        group = self.hierarchy.group(self.cgroup(name))
        group.kill()
        group.destroy()

    def remove_container(self, name: str) -> None:
        """Have an ended container's files deleted. A session that ends meanwhile does it."""
        self.executions.pop(name, None)
        with self._lock:
            if name not in self._living:
                return
            self._living.remove(name)
            self._busy += 1
        try:
            os.rename(self.container_directory(name), f"{self.directory}/dead/{name}")
        finally:
            self._leave()
        self._delete(name)

    def _delete(self, name: str) -> None:
        """Delete what is called so in ``dead``: on a thread, unless there is much to do already."""
        with self._lock:
            self._rest.append(name)
            if self._deleting and len(self._rest) <= _MOST_DEAD:
                return
            mine = not self._deleting
            self._deleting = True
            self._busy += mine
        if mine:
            try:
                threading.Thread(target=self._delete_rest, name="sampan-dead", daemon=True).start()
            except RuntimeError:
                self._delete_rest()  # The interpreter is about to end, and starts no thread.
        else:
            self._delete_next()

    def _delete_rest(self) -> None:
        while self._delete_next(last=True):
            continue
        self._leave()

    def _delete_next(self, *, last: bool = False) -> bool:
        """Delete one; False when there is none, and then ``last`` was the one who looks."""
        with self._lock:
            if not self._rest or self._lock_fd < 0:
                self._deleting = self._deleting and not last
                return False
            name = self._rest.popleft()
        try:
            self._bury(f"{self.directory}/dead/{name}")
        except KernelError as error:
            # Whoever outlived it by a moment, a program's zygote, a container's monitor, clears up
            # there too. What is left goes with this session.
            if error.errno not in (ENOENT, ENOTEMPTY):
                raise
        return True


def _check_ours(directory: str) -> None:
    """Where everybody may write (/dev/shm), somebody may have been there before us."""
    status = os.lstat(directory)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise InvalidArgument(
            f"{directory} is not a directory of ours alone: somebody else made it; remove it"
        )


def _lock(directory: str) -> int:
    """Hold a session's lock; BlockingIOError while its program lives."""
    fd = os.open(f"{directory}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise
    return fd


def _end_container(run_directory: str, deadline: float) -> None:
    """Kill a container through its monitor, and wait until that has ended too."""
    try:
        sock = client.connect(run_directory)
    except NotFound:
        return
    with sock:
        try:
            protocol.send(sock, {"op": "kill", "seq": 0, "signal": _SIGKILL})
        except OSError:
            pass  # It has just ended, or is about to.
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        while poll.poll(max(0.0, (deadline - time.monotonic()) * 1000)):
            if protocol.receive(sock) is None:
                return
