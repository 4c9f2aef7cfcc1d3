"""What every command works with: the state directory, the log, and one container's particulars."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument, KernelError

if TYPE_CHECKING:
    from sampan.kernel.cgroups import Group, Hierarchy
    from sampan.runtime.state import State, Store

__all__ = ["Context", "timestamp"]

NAME = "sampan-runtime"


def timestamp(seconds: float | None = None) -> str:
    """RFC 3339 in UTC, to the microsecond."""
    moment = time.time() if seconds is None else seconds
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment))
    return f"{whole}.{int(moment % 1 * 1e6):06}Z"


class Context:
    """The global options."""

    __slots__ = (
        "_hierarchy",
        "debug_wanted",
        "json",
        "log",
        "root",
        "rootless",
        "systemd_cgroup",
        "warnings",
    )

    def __init__(
        self, *, root: str, log: str, log_format: str, debug: bool, systemd: bool, rootless: bool
    ) -> None:
        self.root = root
        self.log = log
        self.json = log_format == "json"
        self.debug_wanted = debug
        self.systemd_cgroup = systemd
        self.rootless = rootless
        self.warnings: list[str] = []
        self._hierarchy: Hierarchy | None = None

    @property
    def cache(self) -> str:
        """The directory of compiled seccomp filters; "@" is in no container's ID."""
        return os.path.join(self.root, "@seccomp")

    @property
    def store(self) -> Store:
        from sampan.runtime.state import Store

        return Store(self.root)

    @property
    def hierarchy(self) -> Hierarchy:
        """The machine's cgroups."""
        from sampan.kernel.cgroups import detect

        if self._hierarchy is None:
            self._hierarchy = detect()
        return self._hierarchy

    def group(self, path: str) -> Group:
        """The cgroup of that path (see ``Hierarchy.group``)."""
        return self.hierarchy.group(path)

    def group_of(self, state: State) -> Group | None:
        """The container's cgroup, or None where it has none of its own."""
        return None if state.cgroup is None else self.group(state.cgroup)

    def status(self, state: State) -> str:
        """creating, created, running, paused or stopped."""
        status = self.store.status(state)
        if status == "running" and state.cgroup is not None:
            try:
                if self.group(state.cgroup).frozen():
                    return "paused"
            except KernelError:
                return self.store.status(state)  # it ended meanwhile, and its cgroup with it
        return status

    def warn(self, message: str) -> None:
        """Keep a warning until the command has succeeded: a caller that looks for the reason of a
        failure reads the log as one line."""
        self.warnings.append(message)

    def debug(self, message: str) -> None:
        """Say what is done, with ``--debug``."""
        if self.debug_wanted:
            self.write("debug", message)

    def write(self, level: str, message: str) -> None:
        """One line to the log; an error also to standard error, where its reader sits."""
        if self.json:
            line = json.dumps({"level": level, "msg": message, "time": timestamp()})
        else:
            text = json.dumps(message, ensure_ascii=False)
            line = f"time={json.dumps(timestamp())} level={level} msg={text}"
        if not self.log:
            print(f"{NAME}: {message}" if not self.json else line, file=sys.stderr)
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            fd = os.open(self.log, flags, 0o644)
        except OSError as error:
            print(f"{NAME}: --log {self.log}: {error.strerror}", file=sys.stderr)
        else:
            try:
                os.write(fd, (line + "\n").encode(errors="replace"))
            finally:
                os.close(fd)
        if level == "error":
            print(f"{NAME}: {message}", file=sys.stderr)


def default_root(rootless: bool) -> str:
    """/run/sampan-runtime, or the user's own below $XDG_RUNTIME_DIR."""
    if not rootless:
        return f"/run/{NAME}"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if not runtime:
        raise InvalidArgument("XDG_RUNTIME_DIR is not set: say --root DIR")
    root = os.path.join(runtime, NAME)
    os.makedirs(root, mode=0o700, exist_ok=True)
    # The sticky bit keeps what cleans $XDG_RUNTIME_DIR away from it (XDG base directories).
    os.chmod(root, 0o1700)
    return root
