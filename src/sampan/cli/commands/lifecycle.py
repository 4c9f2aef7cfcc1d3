"""start, stop, kill, pause, unpause, wait, rename, rm: one request for each container named."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.cli.client import ApiError
from sampan.cli.commands.common import each, read
from sampan.cli.flags import Flag
from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    from sampan.cli.client import Client

__all__ = ["kill", "pause", "remove", "rename", "start", "stop", "unpause", "wait"]

_MANY = "[OPTIONS] CONTAINER [CONTAINER...]"


def start(client: Client, argv: list[str]) -> int:
    """Start containers; with -a or -i one, attached, whose exit status it returns."""
    flags = read(
        "start",
        _MANY,
        "Start one or more stopped containers",
        [
            Flag("attach", "bool", "Attach STDOUT/STDERR and forward signals", short="a"),
            Flag("detach-keys", "str", "Override the key sequence for detaching a container"),
            Flag("interactive", "bool", "Attach container's STDIN", short="i"),
        ],
        argv,
        least=1,
    )
    if flags is None:
        return 0
    if flags.flag("attach") or flags.flag("interactive"):
        from sampan.cli.commands.attach import attach_to

        if len(flags.arguments) > 1:
            raise InvalidArgument("start: only one container can be attached to")
        details = client.call("GET", f"/containers/{flags.arguments[0]}/json")
        stdin = flags.flag("interactive") and bool(details["Config"]["OpenStdin"])
        return attach_to(client, details, stdin, True, flags.text("detach-keys"))
    return each(
        flags.arguments, lambda name: client.call("POST", f"/containers/{name}/start") and None
    )


def stop(client: Client, argv: list[str]) -> int:
    """Ask containers to end, and end them after the time-out."""
    flags = read(
        "stop",
        _MANY,
        "Stop one or more running containers",
        [
            Flag("signal", "str", "Signal to send to the container", short="s"),
            Flag("time", "int", "Seconds to wait before killing the container", short="t"),
            Flag("timeout", "int", ""),
        ],
        argv,
        least=1,
    )
    if flags is None:
        return 0
    query: dict[str, object] = {"signal": flags.text("signal")}
    for name in ("time", "timeout"):
        if flags.given(name):
            query["t"] = flags.number(name)
    return each(
        flags.arguments, lambda name: client.call("POST", f"/containers/{name}/stop", query)
    )


def kill(client: Client, argv: list[str]) -> int:
    """Send a signal, SIGKILL by default."""
    flags = read(
        "kill",
        _MANY,
        "Kill one or more running containers",
        [Flag("signal", "str", "Signal to send to the container (default KILL)", short="s")],
        argv,
        least=1,
    )
    if flags is None:
        return 0
    query: dict[str, object] = {"signal": flags.text("signal", "KILL")}
    return each(
        flags.arguments, lambda name: client.call("POST", f"/containers/{name}/kill", query)
    )


def pause(client: Client, argv: list[str]) -> int:
    """Freeze every process of containers."""
    flags = read(
        "pause", "CONTAINER [CONTAINER...]", "Pause all processes of containers", [], argv, least=1
    )
    if flags is None:
        return 0
    return each(flags.arguments, lambda name: client.call("POST", f"/containers/{name}/pause"))


def unpause(client: Client, argv: list[str]) -> int:
    """Thaw containers."""
    flags = read(
        "unpause",
        "CONTAINER [CONTAINER...]",
        "Unpause all processes of containers",
        [],
        argv,
        least=1,
    )
    if flags is None:
        return 0
    return each(flags.arguments, lambda name: client.call("POST", f"/containers/{name}/unpause"))


def wait(client: Client, argv: list[str]) -> int:
    """Wait for containers and print their exit statuses."""
    flags = read(
        "wait",
        "CONTAINER [CONTAINER...]",
        "Block until one or more containers stop, then print their exit codes",
        [],
        argv,
        least=1,
    )
    if flags is None:
        return 0
    return each(
        flags.arguments,
        lambda name: str(client.call("POST", f"/containers/{name}/wait")["StatusCode"]),
    )


def rename(client: Client, argv: list[str]) -> int:
    """Give a container another name."""
    flags = read("rename", "CONTAINER NEW_NAME", "Rename a container", [], argv, least=2, most=2)
    if flags is None:
        return 0
    old, new = flags.arguments
    client.call("POST", f"/containers/{old}/rename", {"name": new})
    return 0


def remove(client: Client, argv: list[str]) -> int:
    """Remove containers."""
    flags = read(
        "rm",
        _MANY,
        "Remove one or more containers",
        [
            Flag("force", "bool", "Force the removal of a running container", short="f"),
            Flag("link", "bool", "", short="l", refused="links arrive with networks"),
            Flag("volumes", "bool", "Remove anonymous volumes of the container", short="v"),
        ],
        argv,
        least=1,
    )
    if flags is None:
        return 0
    force = flags.flag("force")
    query: dict[str, object] = {"force": force, "v": flags.flag("volumes")}

    def one(name: str) -> None:
        try:
            client.call("DELETE", f"/containers/{name}", query)
        except ApiError as error:
            # rm --force of what is not there is what was asked for, as with rm(1) -f.
            if not (force and error.status == 404):
                raise

    return each(flags.arguments, one)
