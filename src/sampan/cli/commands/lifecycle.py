"""start, stop, restart, kill, pause, unpause, wait, rename, rm, update.

One request for each container named, several at once where they take time.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from sampan.cli import autostart
from sampan.cli.commands.common import each, path, read
from sampan.cli.flags import Flag
from sampan.errors import InvalidArgument, SampanError

if TYPE_CHECKING:
    from sampan.cli.client import Client

__all__ = ["kill", "pause", "remove", "rename", "restart", "start", "stop", "unpause", "update"]
__all__ += ["wait"]

_MANY = "[OPTIONS] CONTAINER [CONTAINER...]"
_PLAIN = "CONTAINER [CONTAINER...]"
_ENDING = [
    Flag("signal", "str", "Signal that asks them to end", short="s"),
    Flag("timeout", "int", "Seconds until they are killed; -1: never", short="t", old="time"),
]


def start(client: Client, argv: list[str]) -> int:
    """Start containers; with -a or -i one, attached, whose exit status it returns."""
    flags = read(
        "start",
        _MANY,
        "Start containers that do not run",
        [
            Flag("attach", "bool", "Print what it writes and hand signals on", short="a"),
            Flag("checkpoint", "str", "", refused="checkpoints are not there yet"),
            Flag("checkpoint-dir", "str", "", refused="checkpoints are not there yet"),
            Flag("detach-keys", "str", "Keys that leave it running (ctrl-p,ctrl-q)", hint="keys"),
            Flag("interactive", "bool", "Hand it standard input", short="i"),
        ],
        argv,
        least=1,
    )
    if flags is None:
        return 0
    autostart.ensure(client.host)
    if flags.flag("attach") or flags.flag("interactive"):
        from sampan.cli.commands.attach import attach_to

        if len(flags.arguments) > 1:
            raise InvalidArgument("you cannot start and attach multiple containers at once")
        details = client.call("GET", path("/containers/{}/json", flags.arguments[0]))
        stdin = flags.flag("interactive") and bool(details["Config"]["OpenStdin"])
        keys = flags.text("detach-keys") or client.settings.preference("detachKeys")
        return attach_to(client, details, stdin, True, keys)
    failed: list[str] = []

    def one(name: str) -> None:
        try:
            client.call("POST", path("/containers/{}/start", name))
        except SampanError:
            failed.append(name)
            raise

    status = each(flags.arguments, one)
    if failed:
        print(f"Error: failed to start containers: {', '.join(failed)}", file=sys.stderr)
    return status


def stop(client: Client, argv: list[str]) -> int:
    """Ask containers to end, and end them after the time-out."""
    summary = "Ask containers to end, and end them after a time-out"
    return _end(client, argv, "stop", summary)


def restart(client: Client, argv: list[str]) -> int:
    """Stop containers and start them again."""
    return _end(client, argv, "restart", "Stop containers and start them again")


def _end(client: Client, argv: list[str], name: str, summary: str) -> int:
    flags = read(name, _MANY, summary, _ENDING, argv, least=1)
    if flags is None:
        return 0
    query: dict[str, object] = {
        "signal": flags.text("signal"),
        "t": flags.number("timeout") if flags.given("timeout") else None,
    }
    template = f"/containers/{{}}/{name}"
    return each(
        flags.arguments,
        lambda container: client.call("POST", path(template, container), query),
        client=client,
    )


def kill(client: Client, argv: list[str]) -> int:
    """Send a signal, SIGKILL by default."""
    flags = read(
        "kill",
        _MANY,
        "Send containers a signal, SIGKILL unless told otherwise",
        [Flag("signal", "str", "Signal to send, a name or a number (KILL)", short="s")],
        argv,
        least=1,
    )
    if flags is None:
        return 0
    query: dict[str, object] = {"signal": flags.text("signal")}
    return each(
        flags.arguments,
        lambda name: client.call("POST", path("/containers/{}/kill", name), query),
        client=client,
    )


def pause(client: Client, argv: list[str]) -> int:
    """Freeze every process of containers."""
    return _simple(client, argv, "pause", "Freeze every process of containers")


def unpause(client: Client, argv: list[str]) -> int:
    """Thaw containers."""
    return _simple(client, argv, "unpause", "Thaw containers")


def _simple(client: Client, argv: list[str], name: str, summary: str) -> int:
    flags = read(name, _PLAIN, summary, [], argv, least=1)
    if flags is None:
        return 0
    template = f"/containers/{{}}/{name}"
    return each(
        flags.arguments,
        lambda container: client.call("POST", path(template, container)),
        client=client,
    )


def wait(client: Client, argv: list[str]) -> int:
    """Wait for containers and print their exit statuses."""
    summary = "Wait for containers to end and print their exit statuses"
    flags = read("wait", _PLAIN, summary, [], argv, least=1)
    if flags is None:
        return 0

    def one(name: str) -> str:
        answer = client.call("POST", path("/containers/{}/wait", name))
        error = (answer.get("Error") or {}).get("Message")
        if error:
            raise SampanError(str(error))
        return str(answer["StatusCode"])

    return each(flags.arguments, one, client=client)


def rename(client: Client, argv: list[str]) -> int:
    """Give a container another name."""
    flags = read(
        "rename", "CONTAINER NEW_NAME", "Give a container another name", [], argv, least=2, most=2
    )
    if flags is None:
        return 0
    old, new = (text.strip() for text in flags.arguments)
    if not old or not new:
        print("Error: Neither old nor new names may be empty", file=sys.stderr)
        return 1

    def one(name: str) -> None:
        client.call("POST", path("/containers/{}/rename", name), {"name": new})

    status = each([old], one, echo=False)
    if status:
        print(f"Error: failed to rename container named {old}", file=sys.stderr)
    return status


def remove(client: Client, argv: list[str]) -> int:
    """Remove containers."""
    flags = read(
        "rm",
        _MANY,
        "Remove containers",
        [
            Flag("force", "bool", "Kill those that run", short="f"),
            Flag("link", "bool", "Remove the link of this name", short="l"),
            Flag("volumes", "bool", "Remove their nameless volumes too", short="v"),
        ],
        argv,
        least=1,
    )
    if flags is None:
        return 0
    force = flags.flag("force")
    query: dict[str, object] = {
        "force": "1" if force else None,
        "link": "1" if flags.flag("link") else None,
        "v": "1" if flags.flag("volumes") else None,
    }

    def one(name: str) -> None:
        client.call("DELETE", path("/containers/{}", name), query)

    return each(flags.arguments, one, client=client, absent=force)


def update(client: Client, argv: list[str]) -> int:
    """Change limits and the restart policy of containers."""
    from sampan.cli.container_flags import UPDATE
    from sampan.cli.container_values import limits

    summary = "Change the limits and the restart policy of containers"
    flags = read("update", _MANY, summary, UPDATE, argv, least=1)
    if flags is None:
        return 0
    body = limits(flags)
    if not body:
        raise InvalidArgument("update: nothing to change: give at least one limit, or --restart")
    warnings: list[str] = []

    def one(name: str) -> None:
        answer = client.call("POST", path("/containers/{}/update", name), None, body)
        warnings.extend(answer.get("Warnings") or [])

    status = each(flags.arguments, one)
    for warning in warnings:
        print(warning)
    return status
