"""``create``: everything of a container but its program, which ``start`` releases."""

from __future__ import annotations

import os
import pwd
from errno import EACCES, EPERM, EROFS
from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument, KernelError, PermissionDenied
from sampan.kernel.cgroups import systemd_path
from sampan.runtime import launch, notify, spec
from sampan.runtime.command.context import timestamp
from sampan.runtime.command.ready import Ready, forget
from sampan.runtime.state import State

if TYPE_CHECKING:
    from sampan.kernel.cgroups import Group
    from sampan.oci.runtime import Spec
    from sampan.runtime.child import Child
    from sampan.runtime.command.context import Context
    from sampan.runtime.command.options import Parsed

__all__ = ["check_terminal", "make", "run", "write_pid_file"]


def run(context: Context, parsed: Parsed) -> int:
    state, child = make(context, parsed, detached=True)
    child.close()
    context.debug(f"container {state.id} waits as process {state.pid}")
    return 0


def make(context: Context, parsed: Parsed, *, detached: bool) -> tuple[State, Child]:
    """Create the container; its init waits at the gate in its state directory.

    On an error nothing is left: no state, no process, no cgroup.
    """
    container_id = parsed.arguments[0]
    store = context.store
    bundle = os.path.abspath(parsed.text("bundle") or ".")
    config = spec.load(bundle)
    assert config.process is not None and config.root is not None
    rootfs = os.path.normpath(os.path.join(bundle, config.root.path))
    console_socket = parsed.text("console-socket")
    check_terminal(config.process.terminal, console_socket, detached)
    preserve = parsed.number("preserve-fds") or 0
    listen = _activated()
    directory = store.reserve(container_id)
    try:
        if (ready := Ready.wanted(context, container_id)) is not None:
            config = ready.configure(config)
        path = _cgroup_path(context, config, container_id)
        group = _group(context, path)
        state = State(
            id=container_id,
            bundle=bundle,
            rootfs=rootfs,
            created=timestamp(),
            owner=_owner(),
            spec=config,
            cgroup=None if group is None else group.path,
            no_pivot=parsed.flag("no-pivot"),
        )
        store.write(state)
        request = launch.Launch(
            container_id,
            config,
            bundle,
            group=group,
            listen_fds=listen,
            preserve_fds=preserve,
            no_pivot=state.no_pivot,
            no_new_keyring=parsed.flag("no-new-keyring"),
            gate_dir=directory,
            console_socket=console_socket,
            cache_dir=context.cache,
        )
        child = launch.create(request)
        try:
            state = state.replace(pid=child.pid, start_time=child.start_time)
            store.write(state)
            _announce(parsed, child)
        except BaseException:
            child.abort()
            raise
    except BaseException:
        store.remove(container_id)
        forget(context, container_id)
        raise
    for warning in child.warnings:
        context.warn(warning)
    return state, child


def check_terminal(terminal: bool, console_socket: str | None, detached: bool) -> None:
    """The rules of who holds the terminal's master."""
    if terminal and detached and console_socket is None:
        raise InvalidArgument("a detached process with a terminal needs --console-socket")
    if console_socket is not None and not (terminal and detached):
        raise InvalidArgument(
            "--console-socket is for a detached process with a terminal (process.terminal)"
        )


def write_pid_file(path: str, pid: int) -> None:
    """Write the number, without a newline, and put the file in place whole."""
    directory, name = os.path.split(os.path.abspath(path))
    temporary = os.path.join(directory, f".{name}.{os.getpid()}")
    try:
        with open(temporary, "x", encoding="ascii") as file:
            file.write(str(pid))
        os.rename(temporary, path)
    except OSError as error:
        raise KernelError("write", error.errno or 0, f"--pid-file {path}") from None


def _announce(parsed: Parsed, child: Child) -> None:
    if socket_path := parsed.text("pidfd-socket"):
        notify.send_descriptor(socket_path, b"pidfd", child.pidfd)
    if pid_file := parsed.text("pid-file"):
        write_pid_file(pid_file, child.pid)


def _cgroup_path(context: Context, config: Spec, container_id: str) -> str:
    given = config.linux.cgroups_path if config.linux is not None else None
    if context.systemd_cgroup:
        return systemd_path(given or f"system.slice:sampan:{container_id}")
    path = given or container_id
    if not path.startswith("/") and context.hierarchy.kind != "v2":
        # The hierarchies of v1 each have a group of ours, and a later call may be in other ones:
        # a relative path starts at their roots.
        path = f"/{path}"
    return path


def _group(context: Context, path: str) -> Group | None:
    """The container's cgroup; None for a user who may not make one, and asked for that."""
    group = context.group(path)
    if context.rootless:
        try:
            group.create()
        except (KernelError, PermissionDenied) as error:
            if isinstance(error, KernelError) and error.errno not in (EACCES, EPERM, EROFS):
                raise
            context.warn(f"no cgroup for the container: {error}")
            return None
    return group


def _owner() -> str:
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _activated() -> int:
    """How many sockets sd_listen_fds(3) handed us; they go to the container's program."""
    count = os.environ.get("LISTEN_FDS", "")
    pid = os.environ.get("LISTEN_PID", "")
    if not count.isdigit() or (pid and pid != str(os.getpid())):
        return 0
    return int(count)
