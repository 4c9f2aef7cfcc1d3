"""``attach``: this terminal becomes one of a running container's."""

from __future__ import annotations

import json
import sys

from sampan.cli import terminal
from sampan.cli.client import ApiError, Client
from sampan.cli.commands.common import read
from sampan.cli.commands.run import Nothing, follow_size
from sampan.cli.flags import Flag
from sampan.cli.streams import DetachKeys, pump
from sampan.errors import Conflict

__all__ = ["attach", "attach_to", "escaped"]

_FLAGS = [
    Flag("detach-keys", "str", "Override the key sequence for detaching a container"),
    Flag("no-stdin", "bool", "Do not attach STDIN"),
    Flag("sig-proxy", "bool", "Proxy all received signals to the process", default=True),
]


def attach(client: Client, argv: list[str]) -> int:
    """Attach to a running container; the exit status is its."""
    flags = read(
        "attach",
        "[OPTIONS] CONTAINER",
        "Attach local standard input, output, and error streams to a running container",
        _FLAGS,
        argv,
        least=1,
        most=1,
    )
    if flags is None:
        return 0
    name = flags.arguments[0]
    details = client.call("GET", f"/containers/{name}/json")
    if not details["State"]["Running"]:
        raise Conflict(f"container {name} is not running: start it, or see its logs")
    if details["State"]["Paused"]:
        raise Conflict(f"container {name} is paused: unpause it first")
    stdin = bool(details["Config"]["OpenStdin"]) and not flags.flag("no-stdin")
    proxy = flags.flag("sig-proxy") or not flags.given("sig-proxy")
    keys = flags.text("detach-keys") or client.settings.preference("detachKeys")
    return attach_to(client, details, stdin, proxy, keys, told=True)


def escaped() -> int:
    """The status of who left by the keys for it, which is said."""
    print("read escape sequence", file=sys.stderr)
    return 1


def attach_to(
    client: Client,
    details: dict[str, object],
    stdin: bool,
    proxy: bool,
    detach_keys: str,
    *,
    told: bool = False,
) -> int:
    """Attach to the container of an inspect answer that runs, or is about to be started.

    ``told``: that the user left it by the keys for it is said, and no success; as Docker's
    ``attach``, whose caller waits for the container's end, and unlike its ``run`` and ``start``.
    """
    identity = str(details["Id"])
    config = details["Config"]
    assert isinstance(config, dict)
    tty = bool(config["Tty"])
    query: dict[str, object] = {
        "stream": True,
        "stdin": stdin,
        "stdout": True,
        "stderr": True,
        "detachKeys": detach_keys,
    }
    keys = DetachKeys(detach_keys) if tty else None
    sock = client.hijack(f"/containers/{identity}/attach", query)
    waiting = client.request("POST", f"/containers/{identity}/wait", {"condition": "next-exit"})
    state = details["State"]
    assert isinstance(state, dict)
    if not state["Running"]:
        client.call("POST", f"/containers/{identity}/start")
    if proxy and not tty:

        def send(name: str) -> None:
            try:
                client.call("POST", f"/containers/{identity}/kill", {"signal": name})
            except ApiError:
                return  # it ended before the signal came

        terminal.pass_signals(send)
    with terminal.RawTerminal() if tty and stdin else Nothing():
        if tty:
            follow_size(client, f"/containers/{identity}/resize", again=bool(state["Running"]))
        pump(sock, stdin=stdin, raw=tty, detach_keys=keys)
    if keys is not None and keys.pressed:
        return escaped() if told else 0
    return int(json.loads(waiting.read())["StatusCode"])
