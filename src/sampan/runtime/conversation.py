"""The parent's half of the conversation in ``sampan.runtime.gate``, for init and exec alike.

It answers the child until that waits at the gate, and does for it what only the outside can: ID
maps, the cgroup, hooks of the runtime's side, network devices, limits, and taking descriptors out.
"""

from __future__ import annotations

import errno
import json
import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from sampan.errors import Conflict, InvalidArgument, KernelError
from sampan.kernel import capabilities, netlink
from sampan.kernel import namespaces as kernel
from sampan.kernel.processes import (
    RLIM_INFINITY,
    get_rlimit,
    pidfd_getfd,
    pidfd_open,
    set_rlimit,
    start_time,
)
from sampan.runtime import gate, hooks, notify
from sampan.runtime.child import died
from sampan.runtime.namespaces import map_ids
from sampan.runtime.plugs import plug_into

if TYPE_CHECKING:
    from sampan.oci.runtime import Process, Spec
    from sampan.runtime.child import Child
    from sampan.runtime.launch import Launch
    from sampan.runtime.namespaces import Plan

__all__ = ["Conversation", "InitConversation", "raise_limits", "set_limits"]


class Conversation(ABC):
    """What exec's child and init's have in common.

    ``staged``: the process that was forked is not the one that stays; it will say which is.
    ``forks``: it will say so some time. Nobody else's word is taken for who the child is: what that
    process is given, and an error's SIGKILL, would reach any process of the host if a container
    with CAP_SYS_PTRACE could speak for its init (the class of CVE-2016-9962).
    """

    __slots__ = ("child", "console_socket", "forks", "limited", "process", "spec", "staged")

    def __init__(
        self,
        child: Child,
        spec: Spec,
        process: Process,
        *,
        staged: bool,
        forks: bool,
        console_socket: str | None,
    ) -> None:
        self.child = child
        self.forks = forks
        self.spec = spec
        self.process = process
        self.staged = staged
        self.console_socket = console_socket
        self.limited = False

    def begin(self) -> None:
        """Have the child go on, unless it is yet to say which process it is."""
        if not self.staged:
            self._admit()

    def serve(self) -> None:
        """Answer until the child waits at the gate; raises what the child reports."""
        channel = self.child.channel
        while True:
            tag, body, descriptor = channel.receive_with_descriptor()
            if tag == b"M":
                self._map()
                channel.send(b"m")
            elif tag == b"P" and self.forks:
                self.forks = False
                self._adopt(int(body))
                self._admit()
            elif tag == b"H":
                self._run_hooks()
                channel.send(b"h")
            elif tag == b"T":
                self._take_terminal(body, descriptor)
            elif tag == b"S":
                self._hand_over_listener(int(body))
                channel.send(b"s")
            elif tag == b"L":
                set_limits(self.child.pid, self.process)
                self.limited = True
                channel.send(b"l")
            elif tag == b"W":
                if not self.limited:
                    set_limits(self.child.pid, self.process)
                self.child.warnings += _missing_capabilities(body)
                return
            elif tag == b"E":
                raise gate.decode_error(body)
            elif tag:
                raise _unexpected(tag)
            else:
                raise died(self.child.pid)

    @abstractmethod
    def _state(self) -> bytes: ...

    # Only an init has these two done for it. Whoever else says so may be a container that speaks
    # for the process by way of ptrace(2).

    def _map(self) -> None:
        raise _unexpected(b"M")

    def _run_hooks(self) -> None:
        raise _unexpected(b"H")

    @abstractmethod
    def _placed(self) -> bytes:
        """Put the child where it belongs; returns the body of "go on"."""

    def _adopt(self, pid: int) -> None:
        """The stage's child is ours (CLONE_PARENT); the stage has done its work."""
        stage, pidfd = self.child.pid, self.child.pidfd
        self.child.pid, self.child.pidfd = pid, -1
        os.close(pidfd)
        try:
            os.waitpid(stage, 0)
        except ChildProcessError:
            pass  # it was a sibling: our parent reaps it
        self.child.pidfd = pidfd_open(pid)

    def _admit(self) -> None:
        """What must be done from outside before the child goes on."""
        pid = self.child.pid
        body = self._placed()
        if self.process.oom_score_adj is not None:
            # Lowering it below what it was takes CAP_SYS_RESOURCE.
            kernel.write_process_file(f"/proc/{pid}/oom_score_adj", str(self.process.oom_score_adj))
        if not self.forks:
            # Before it goes on: it may end at once, and be reaped by a parent that is not us.
            self.child.start_time = start_time(pid)
        self.child.channel.send(b"g", body)

    def _take_terminal(self, name: bytes, master: int) -> None:
        if self.console_socket is None:
            self.child.console = master
            return
        try:
            notify.send_descriptor(self.console_socket, name, master)
        finally:
            os.close(master)

    def _hand_over_listener(self, number: int) -> None:
        """Take descriptor ``number``, a seccomp listener, out of the child and send it on."""
        linux = self.spec.linux
        assert linux is not None and linux.seccomp is not None
        listener = pidfd_getfd(self.child.pidfd, number)
        try:
            notify.send_listener(
                linux.seccomp, listener, self.child.pid, self._state(), self.spec.oci_version
            )
        finally:
            os.close(listener)


def _unexpected(tag: bytes) -> Conflict:
    return Conflict(f"the container's process may not say {tag!r} now")


class InitConversation(Conversation):
    """With the init of a new container."""

    __slots__ = ("launch", "plan")

    def __init__(self, child: Child, launch: Launch, plan: Plan) -> None:
        process = launch.spec.process
        assert process is not None  # validated
        super().__init__(
            child,
            launch.spec,
            process,
            staged=plan.staged,
            forks=plan.staged,
            console_socket=launch.console_socket,
        )
        self.launch = launch
        self.plan = plan

    def _state(self) -> bytes:
        return self.child.state("creating")

    def _map(self) -> None:
        assert self.plan.linux is not None
        map_ids(self.child.pid, self.plan.linux)

    def _placed(self) -> bytes:
        if self.plan.user and not self.plan.time:
            self._map()
        if self.launch.plugs and not self.plan.is_plain:
            namespace = kernel.open_namespace(self.child.pid, "network")
            try:
                plug_into(self.launch.plugs, self.child.pid, namespace)
            finally:
                os.close(namespace)
        linux = self.plan.linux
        if linux is None or not linux.net_devices:
            return b""
        return json.dumps(self._move_devices()).encode()

    def _run_hooks(self) -> None:
        wanted = self.spec.hooks
        assert wanted is not None
        state, close_first = self._state(), hooks.inheritable_descriptors()
        hooks.run("prestart", wanted.prestart, state, (), close_first)
        hooks.run("createRuntime", wanted.create_runtime, state, (), close_first)

    def _move_devices(self) -> list[dict[str, object]]:
        """Move each of ``netDevices`` under a passing name, which the child changes: a clash of
        the *old* name with one in the container is no error."""
        assert self.plan.linux is not None
        target = kernel.open_namespace(self.child.pid, "network")
        moved: list[dict[str, object]] = []
        try:
            for index, (name, device) in enumerate(self.plan.linux.net_devices.items()):
                kept = [
                    {field: getattr(one, field) for field in one.__slots__ if field != "family"}
                    for one in netlink.addresses(name)
                    if one.permanent and one.scope == netlink.RT_SCOPE_UNIVERSE
                ]
                passing = f"sp{self.child.pid}-{index}"[:15]
                netlink.move_link(name, target, passing)
                moved.append({"moved_as": passing, "name": device.name or name, "addresses": kept})
        finally:
            os.close(target)
        return moved


def set_limits(pid: int, process: Process) -> None:
    """Set the resource limits of ``process`` for process ``pid`` (0: this one)."""
    for limit in process.rlimits:
        _set_limit(pid, limit.type, limit.soft, limit.hard)


def raise_limits(process: Process) -> None:
    """Have this process's hard limits be at least those of ``process``: lowering them later, and
    setting the soft ones, takes no capability."""
    for limit in process.rlimits:
        soft, hard = get_rlimit(0, limit.type)
        if limit.hard & RLIM_INFINITY > hard:
            _set_limit(0, limit.type, soft, limit.hard)


def _set_limit(pid: int, name: str, soft: int, hard: int) -> None:
    try:
        set_rlimit(pid, name, soft, hard)
    except KernelError as error:
        if error.errno != errno.EPERM:
            raise
        _, present = get_rlimit(pid, name)
        raise InvalidArgument(
            f"process.rlimits: {name}: hard limit {hard} is above the present "
            f"maximum {present}, and raising it needs CAP_SYS_RESOURCE"
        ) from None


def _missing_capabilities(body: bytes) -> tuple[str, ...]:
    """The warnings for the capability numbers in a child's last message."""
    numbers: list[int] = json.loads(body) if body else []
    return tuple(
        f"process.capabilities: {capabilities.NAMES[one]} cannot be granted; "
        "this process does not have it"
        for one in numbers
    )
