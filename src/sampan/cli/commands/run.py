"""``run`` and ``create``.

``run`` is create, attach, wait, start, in this order: attached before the first byte, waiting
before the first exit (reference: Docker CLI on the wire).
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from sampan.cli import autostart, terminal
from sampan.cli.client import ApiError, Client
from sampan.cli.commands.common import read
from sampan.cli.container_flags import CREATE, RUN, create_body, warn
from sampan.cli.streams import DetachKeys, pump
from sampan.errors import InvalidArgument, NotFound, SampanError

if TYPE_CHECKING:
    from sampan.cli.flags import Values

__all__ = ["Nothing", "create", "follow_size", "run"]

_SYNOPSIS = "[OPTIONS] IMAGE [COMMAND] [ARG...]"
_MISSING = ("executable file not found", "no such file or directory")
_NOT_EXECUTABLE = ("permission denied", "is a directory", "exec format error")


def create(client: Client, argv: list[str]) -> int:
    """Create a container and print its ID."""
    flags = read(
        "create", _SYNOPSIS, "Create a new container", CREATE, argv, least=1, interspersed=False
    )
    if flags is None:
        return 0
    autostart.ensure(client.host)
    print(_create(client, flags))
    return 0


def run(client: Client, argv: list[str]) -> int:
    """Create and run a container; the exit status is its command's."""
    flags = read(
        "run",
        _SYNOPSIS,
        "Create and run a new container from an image",
        RUN,
        argv,
        least=1,
        interspersed=False,
    )
    if flags is None:
        return 0
    detached = flags.flag("detach")
    if detached and flags.items("attach"):
        raise InvalidArgument("--attach and --detach contradict each other")
    if flags.flag("tty") and flags.flag("interactive") and not detached and not sys.stdin.isatty():
        raise InvalidArgument("the input device is not a TTY: leave -t out")
    autostart.ensure(client.host)
    identity = _create(client, flags)
    if detached:
        _start(client, identity, flags)
        print(identity)
        return 0
    return _attached(client, identity, flags)


def _create(client: Client, flags: Values) -> str:
    cidfile = flags.text("cidfile")
    if cidfile and os.path.exists(cidfile):
        raise InvalidArgument(f"--cidfile: {cidfile} exists already: another container's?")
    body = create_body(flags)
    query: dict[str, object] = {"name": flags.text("name"), "platform": flags.text("platform")}
    if flags.text("pull") == "always":
        _pull(client, body["Image"], flags)
    try:
        answer = client.call("POST", "/containers/create", query, body)
    except ApiError as error:
        if error.status != 404 or "No such image" not in error.message:
            raise
        if flags.text("pull") == "never":
            raise
        _pull(client, body["Image"], flags)
        answer = client.call("POST", "/containers/create", query, body)
    warn(answer.get("Warnings") or [])
    identity = str(answer["Id"])
    if cidfile:
        with open(cidfile, "x", encoding="ascii") as file:
            file.write(identity)
    return identity


def _pull(client: Client, image: str, flags: Values) -> None:
    if not flags.flag("quiet"):
        print(f"Unable to find image '{image}' locally", file=sys.stderr)
    for event in client.lines("POST", "/images/create", {"fromImage": image}):
        if "error" in event:
            raise NotFound(str(event["error"]))
        if not flags.flag("quiet") and event.get("status"):
            print(event["status"], file=sys.stderr)


def _attached(client: Client, identity: str, flags: Values) -> int:
    tty, stdin = flags.flag("tty"), flags.flag("interactive")
    attached = [name.lower() for name in flags.items("attach")]
    query: dict[str, object] = {
        "stream": True,
        "stdin": stdin and (not attached or "stdin" in attached),
        "stdout": not attached or "stdout" in attached,
        "stderr": not attached or "stderr" in attached,
        "detachKeys": flags.text("detach-keys"),
    }
    keys = DetachKeys(flags.text("detach-keys")) if tty else None
    sock = client.hijack(f"/containers/{identity}/attach", query)
    condition = "removed" if flags.flag("rm") else "next-exit"
    waiting = client.request("POST", f"/containers/{identity}/wait", {"condition": condition})
    if not tty and (flags.flag("sig-proxy") or not flags.given("sig-proxy")):
        terminal.pass_signals(lambda name: _signal(client, identity, name))
    _start(client, identity, flags)
    with terminal.RawTerminal() if tty and stdin else Nothing():
        if tty:
            follow_size(client, f"/containers/{identity}/resize")
        pump(sock, stdin=bool(query["stdin"]), raw=tty, detach_keys=keys)
    if keys is not None and keys.pressed:
        return 0
    import json

    answer: dict[str, Any] = json.loads(waiting.read())
    error = (answer.get("Error") or {}).get("Message")
    if error:
        print(f"sampan: {error}", file=sys.stderr)
    return int(answer["StatusCode"])


def _start(client: Client, identity: str, flags: Values) -> None:
    try:
        client.call("POST", f"/containers/{identity}/start")
    except ApiError as error:
        failure = SampanError(error.message)
        text = error.message.lower()
        if any(words in text for words in _MISSING):
            failure.exit_code = 127
        elif any(words in text for words in _NOT_EXECUTABLE):
            failure.exit_code = 126
        raise failure from error


def _signal(client: Client, identity: str, name: str) -> None:
    try:
        client.call("POST", f"/containers/{identity}/kill", {"signal": name})
    except SampanError as error:
        print(f"sampan: SIG{name} was not delivered: {error.message}", file=sys.stderr)


def follow_size(client: Client, path: str) -> None:
    """Tell the daemon the terminal's size now and whenever it changes."""

    def changed() -> None:
        now = terminal.size()
        if now is not None:
            try:
                client.call("POST", path, {"h": now[0], "w": now[1]})
            except ApiError:
                return  # ended meanwhile: there is no terminal to resize

    changed()
    terminal.on_resize(changed)


class Nothing:
    """Enters and leaves: stands where there is no terminal to make raw."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None
