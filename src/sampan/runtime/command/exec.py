"""``exec``: another process in a container, as ``config.json``'s own but for what is said here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sampan.errors import Conflict, InvalidArgument, KernelError
from sampan.oci.runtime import Capabilities, Process, User
from sampan.runtime import notify
from sampan.runtime.command import foreground
from sampan.runtime.command.create import check_terminal, write_pid_file
from sampan.runtime.exec import RunningContainer, execute

if TYPE_CHECKING:
    from sampan.kernel.cgroups import Group
    from sampan.runtime.child import Child
    from sampan.runtime.command.context import Context
    from sampan.runtime.command.options import Parsed
    from sampan.runtime.state import State

__all__ = ["run"]

_SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")


def run(context: Context, parsed: Parsed) -> int:
    container_id, *words = parsed.arguments
    state = context.store.read(container_id)
    status = context.status(state)
    if status in ("stopped", "creating"):
        raise Conflict(f"container {state.id} is {status}: cannot exec in it")
    if status == "paused" and not parsed.flag("ignore-paused"):
        raise Conflict(f"container {state.id} is paused: resume it first, or say --ignore-paused")
    process = _process(parsed, state, words)
    detached = parsed.flag("detach")
    console_socket = parsed.text("console-socket")
    check_terminal(process.terminal, console_socket, detached)
    child = execute(
        RunningContainer(
            state.pid,
            state.spec,
            context.group_of(state),
            id=state.id,
            bundle=state.bundle,
            start_time=state.start_time,
        ),
        process,
        start=False,
        preserve_fds=parsed.number("preserve-fds") or 0,
        console_socket=console_socket,
        death_signal=0,
        cache_dir=context.cache,
    )
    try:
        _place(context, parsed, state, child)
        if socket_path := parsed.text("pidfd-socket"):
            notify.send_descriptor(socket_path, b"pidfd", child.pidfd)
        if pid_file := parsed.text("pid-file"):
            write_pid_file(pid_file, child.pid)
    except BaseException:
        child.abort()
        raise
    try:
        if not detached:
            foreground.pass_signals(child)
        child.start()
        for warning in child.warnings:
            context.warn(warning)
        return 0 if detached else foreground.follow(child)
    finally:
        child.close()


def _process(parsed: Parsed, state: State, words: list[str]) -> Process:
    own = state.spec.process
    assert own is not None
    if path := parsed.text("process"):
        if words:
            raise InvalidArgument("exec: a command and --process exclude each other")
        process = _read(path)
        if process.capabilities is None:
            process = process.replace(capabilities=own.capabilities)
        return process.replace(
            apparmor_profile=process.apparmor_profile or own.apparmor_profile,
            selinux_label=process.selinux_label or own.selinux_label,
        )
    if not words:
        raise InvalidArgument("exec: say a command, or --process FILE")
    return own.replace(
        args=tuple(words),
        terminal=parsed.flag("tty"),
        console_size=None,
        cwd=parsed.text("cwd") or own.cwd,
        env=(*own.env, *parsed.many("env")),
        user=_user(parsed, own.user),
        capabilities=_capabilities(own.capabilities, parsed.many("cap")),
        no_new_privileges=own.no_new_privileges or parsed.flag("no-new-privs"),
        apparmor_profile=parsed.text("apparmor") or own.apparmor_profile,
        selinux_label=parsed.text("process-label") or own.selinux_label,
    )


def _read(path: str) -> Process:
    try:
        with open(path, "rb") as file:
            value = json.loads(file.read())
    except OSError as error:
        raise KernelError("open", error.errno or 0, f"--process {path}") from None
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"--process {path}: not JSON: {error}") from None
    return Process.from_json(value, "process")


def _user(parsed: Parsed, own: User) -> User:
    given = parsed.text("user")
    groups = tuple(_group_id(text) for text in parsed.many("additional-gids"))
    if given is None:
        return own.replace(additional_gids=(*own.additional_gids, *groups))
    uid, _, gid = given.partition(":")
    if uid.isdecimal() and (not gid or gid.isdecimal()):
        return User(uid=int(uid), gid=int(gid or own.gid), umask=own.umask, additional_gids=groups)
    return User(username=given, umask=own.umask, additional_gids=groups)


def _group_id(text: str) -> int:
    if not text.isdecimal():
        raise InvalidArgument(f"--additional-gids: expected a number, not {text!r}")
    return int(text)


def _capabilities(own: Capabilities | None, names: list[str]) -> Capabilities | None:
    if not names:
        return own
    sets = own or Capabilities()
    wanted = [
        upper if (upper := name.upper()).startswith("CAP_") else f"CAP_{upper}" for name in names
    ]
    changed = {}
    for field in _SETS:
        before: tuple[str, ...] = getattr(sets, field)
        if field in ("inheritable", "ambient") and not before:
            continue
        changed[field] = (*before, *(name for name in wanted if name not in before))
    return sets.replace(**changed)


def _place(context: Context, parsed: Parsed, state: State, child: Child) -> None:
    """``--cgroup``: into groups below the container's, in all hierarchies or in some."""
    given = parsed.many("cgroup")
    if not given:
        return
    group = context.group_of(state)
    if group is None:
        raise Conflict(f"container {state.id} has no cgroup of its own")
    for entry in given:
        controllers, colon, path = entry.rpartition(":")
        target = group.child(path)
        _require(target, entry)
        target.add(child.pid, controllers=controllers.split(",") if colon else None)


def _require(target: Group, entry: str) -> None:
    if not target.exists():
        raise InvalidArgument(f"--cgroup {entry}: there is no cgroup {target.path}")
