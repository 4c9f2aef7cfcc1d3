"""``exec``: a command in a running container."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from sampan.cli import terminal
from sampan.cli.commands.attach import escaped
from sampan.cli.commands.common import read
from sampan.cli.commands.run import Nothing, follow_size
from sampan.cli.flags import Flag
from sampan.cli.streams import DetachKeys, pump
from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    from sampan.cli.client import Client

__all__ = ["execute"]

_FLAGS = [
    Flag("detach", "bool", "Detached mode: run command in the background", short="d"),
    Flag("detach-keys", "str", "Override the key sequence for detaching a container"),
    Flag("env", "list", "Set environment variables", short="e"),
    Flag("env-file", "list", "Read in a file of environment variables"),
    Flag("interactive", "bool", "Keep STDIN open even if not attached", short="i"),
    Flag("privileged", "bool", "Give extended privileges to the command"),
    Flag("tty", "bool", "Allocate a pseudo-TTY", short="t"),
    Flag("user", "str", "Username or UID (format: <name|uid>[:<group|gid>])", short="u"),
    Flag("workdir", "str", "Working directory inside the container", short="w"),
]


def execute(client: Client, argv: list[str]) -> int:
    """Run a command in a running container; the exit status is the command's."""
    from sampan.cli.container_values import environment

    flags = read(
        "exec",
        "[OPTIONS] CONTAINER COMMAND [ARG...]",
        "Execute a command in a running container",
        _FLAGS,
        argv,
        least=2,
        interspersed=False,
    )
    if flags is None:
        return 0
    name, *command = flags.arguments
    tty, stdin, detached = flags.flag("tty"), flags.flag("interactive"), flags.flag("detach")
    if tty and stdin and not detached and not sys.stdin.isatty():
        raise InvalidArgument("the input device is not a TTY: leave -t out")
    leave = flags.text("detach-keys") or client.settings.preference("detachKeys")
    body: dict[str, Any] = {
        "AttachStdin": stdin and not detached,
        "AttachStdout": not detached,
        "AttachStderr": not detached,
        "Tty": tty,
        "Cmd": command,
        "Env": environment(flags) or None,
        "User": flags.text("user"),
        "WorkingDir": flags.text("workdir"),
        "Privileged": flags.flag("privileged"),
        "DetachKeys": leave,
    }
    now = terminal.size() if tty else None
    if now:
        body["ConsoleSize"] = list(now)
    identity = client.call("POST", f"/containers/{name}/exec", None, body)["Id"]
    start = {"Detach": detached, "Tty": tty}
    if detached:
        client.call("POST", f"/exec/{identity}/start", None, start)
        return 0
    keys = DetachKeys(leave) if tty else None
    sock = client.hijack(f"/exec/{identity}/start", None, start)
    with terminal.RawTerminal() if tty and stdin else Nothing():
        if tty:
            follow_size(client, f"/exec/{identity}/resize")
        pump(sock, stdin=stdin, raw=tty, detach_keys=keys)
    if keys is not None and keys.pressed:
        return escaped()
    return int(client.call("GET", f"/exec/{identity}/json")["ExitCode"] or 0)
