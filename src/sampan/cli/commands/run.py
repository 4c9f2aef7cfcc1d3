"""``run`` and ``create``.

``run`` is create, attach, wait, start, in this order: attached before the first byte, waiting
before the first exit (reference: Docker CLI on the wire).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from sampan.cli import autostart, terminal
from sampan.cli.client import ApiError, Client
from sampan.cli.commands.common import read
from sampan.cli.container_body import create_body
from sampan.cli.container_flags import CREATE, RUN
from sampan.cli.flags import UsageError
from sampan.cli.output import warn
from sampan.cli.streams import DetachKeys, pump
from sampan.errors import InvalidArgument, SampanError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sampan.cli.flags import Values

__all__ = ["Nothing", "create", "follow_size", "pull_image", "run"]

_SYNOPSIS = "[OPTIONS] IMAGE [COMMAND] [ARG...]"
_MISSING = ("executable file not found", "no such file or directory")
_NOT_EXECUTABLE = ("permission denied", "is a directory", "exec format error")
_AWAY = ("lookup ", "connection refused", "unreachable", "timed out")
_WITHOUT = (
    "Without a registry there is the image host, a copy of this machine (sampan run host …), and "
    "what sampan import and load take in."
)
_PULL = ("always", "missing", "never")


def create(client: Client, argv: list[str]) -> int:
    """Create a container and print its ID."""
    summary = "Make a container from an image without starting it"
    flags = read("create", _SYNOPSIS, summary, CREATE, argv, least=1, interspersed=False)
    if flags is None:
        return 0
    print(_create(client, flags))
    return 0


def run(client: Client, argv: list[str]) -> int:
    """Create and run a container; the exit status is its command's."""
    summary = "Make a container from an image and run it"
    flags = read("run", _SYNOPSIS, summary, RUN, argv, least=1, interspersed=False)
    if flags is None:
        return 0
    detached = flags.flag("detach")
    if detached and flags.items("attach"):
        raise _refusal("--attach and --detach contradict each other")
    if flags.flag("tty") and flags.flag("interactive") and not detached and not sys.stdin.isatty():
        raise _refusal("the input device is not a TTY: leave -t out")
    identity = _create(client, flags)
    if detached:
        print(identity, flush=True)  # whether it starts or not: it is there
        _start(client, identity)
        return 0
    return _attached(client, identity, flags)


def _refusal(text: str) -> InvalidArgument:
    """Nothing was begun: told from a container's failure by 1, not 125."""
    error = InvalidArgument(text)
    error.exit_code = 1
    return error


def _create(client: Client, flags: Values) -> str:
    policy, cidfile = flags.text("pull", "missing"), flags.text("cidfile")
    if policy not in _PULL:
        raise UsageError(f"--pull: {policy}: expected {', '.join(_PULL)}")
    if cidfile and os.path.exists(cidfile):
        raise InvalidArgument(f"--cidfile: {cidfile} exists already: is it another container's?")
    body = create_body(flags, _proxies(client))
    now = terminal.size() if flags.flag("tty") else None
    if now:
        body["HostConfig"]["ConsoleSize"] = list(now)
    autostart.ensure(client.host)
    with _identity_file(cidfile) as kept:
        identity = _created(client, flags, body, policy)
        kept.append(identity)
    return identity


@contextlib.contextmanager
def _identity_file(path: str) -> Iterator[list[str]]:
    """``--cidfile``, made before the container is; gone again where there is no container."""
    kept: list[str] = []
    if not path:
        yield kept
        return
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except OSError as error:
        failure = InvalidArgument(f"--cidfile: {path}: {error.strerror}")
        failure.exit_code = 127 if error.errno == errno.ENOENT else 125
        raise failure from error
    try:
        yield kept
        os.write(file, "".join(kept).encode("ascii"))
    except BaseException:
        if not kept:
            os.unlink(path)
        raise
    finally:
        os.close(file)


def _created(client: Client, flags: Values, body: dict[str, Any], policy: str) -> str:
    query: dict[str, object] = {"name": flags.text("name"), "platform": flags.text("platform")}
    if policy == "always":
        _fetch(client, body["Image"], flags)
    try:
        answer = client.call("POST", "/containers/create", query, body)
    except ApiError as error:
        if error.status != 404 or "No such image" not in error.message or policy == "never":
            raise _judged(error) from None
        if not flags.flag("quiet"):
            print(f"Unable to find image '{_tagged(body['Image'])}' locally", file=sys.stderr)
        try:
            _fetch(client, body["Image"], flags)
        except ApiError as failure:
            if any(words in failure.message for words in _AWAY):
                failure.args = (f"{failure.message}\n{_WITHOUT}",)
            raise
        answer = client.call("POST", "/containers/create", query, body)
    for message in answer.get("Warnings") or []:
        warn(f"WARNING: {message}")
    return str(answer["Id"])


def _tagged(image: str) -> str:
    """The name with the tag that is meant where none is said."""
    return image if "@" in image or ":" in image.rpartition("/")[2] else f"{image}:latest"


def _fetch(client: Client, image: str, flags: Values) -> None:
    pull_image(client, image, flags.text("platform"), quiet=flags.flag("quiet"))


def pull_image(client: Client, image: str, platform: str, *, quiet: bool) -> None:
    """Have the daemon fetch an image; progress goes to standard error."""
    from sampan.cli import progress
    from sampan.cli.credentials import header

    name, digest = image, image.partition("@")[2]
    if digest:
        name = image.partition("@")[0]
    elif ":" in image.rpartition("/")[2]:
        name, _, digest = image.rpartition(":")
    query: dict[str, object] = {
        "fromImage": name,
        "tag": digest or "latest",
        "platform": platform,
    }
    lines = client.lines("POST", "/images/create", query, headers=header(client, image))
    progress.show(lines, sys.stderr, quiet=quiet)


_PROXIES = {
    "httpProxy": "HTTP_PROXY",
    "httpsProxy": "HTTPS_PROXY",
    "ftpProxy": "FTP_PROXY",
    "noProxy": "NO_PROXY",
    "allProxy": "ALL_PROXY",
}


def _proxies(client: Client) -> list[str]:
    """The variables that config.json's ``proxies`` set for this daemon, or for all."""
    configured = client.settings.config().get("proxies") or {}
    chosen = configured.get(client.host) or configured.get("default") or {}
    return [
        f"{name}={chosen[key]}"
        for key, upper in _PROXIES.items()
        if chosen.get(key)
        for name in (upper, upper.lower())
    ]


def _attached(client: Client, identity: str, flags: Values) -> int:
    tty, stdin = flags.flag("tty"), flags.flag("interactive")
    attached = [name.lower() for name in flags.items("attach")]
    detach_keys = flags.text("detach-keys") or client.settings.preference("detachKeys")
    query: dict[str, object] = {
        "stream": True,
        "stdin": stdin and (not attached or "stdin" in attached),
        "stdout": not attached or "stdout" in attached,
        "stderr": not attached or "stderr" in attached,
        "detachKeys": detach_keys,
    }
    keys = DetachKeys(detach_keys) if tty else None
    sock = client.hijack(f"/containers/{identity}/attach", query)
    condition = "removed" if flags.flag("rm") else "next-exit"
    waiting = client.request("POST", f"/containers/{identity}/wait", {"condition": condition})
    if not tty and (flags.flag("sig-proxy") or not flags.given("sig-proxy")):
        terminal.pass_signals(lambda name: _signal(client, identity, name))
    _start(client, identity)
    with terminal.RawTerminal() if tty and stdin else Nothing():
        if tty:
            follow_size(client, f"/containers/{identity}/resize")
        pump(sock, stdin=bool(query["stdin"]), raw=tty, detach_keys=keys)
    if keys is not None and keys.pressed:
        name = flags.text("name") or identity[:12]
        print(f"\nsampan: {name} goes on running: sampan attach {name}", file=sys.stderr)
        return 0
    answer: dict[str, Any] = json.loads(waiting.read())
    error = (answer.get("Error") or {}).get("Message")
    if error:
        print(f"sampan: {error}", file=sys.stderr)
    return int(answer["StatusCode"])


def _start(client: Client, identity: str) -> None:
    try:
        client.call("POST", f"/containers/{identity}/start")
    except ApiError as error:
        raise _judged(error) from None


def _judged(error: ApiError) -> ApiError:
    """With the exit status that its words mean, wherever they came from; as Docker's client."""
    text = error.message.lower()
    if any(words in text for words in _MISSING):
        error.exit_code = 127
    elif any(words in text for words in _NOT_EXECUTABLE):
        error.exit_code = 126
    return error


def _signal(client: Client, identity: str, name: str) -> None:
    try:
        client.call("POST", f"/containers/{identity}/kill", {"signal": name})
    except SampanError as error:
        print(f"sampan: SIG{name} was not delivered: {error.message}", file=sys.stderr)


def follow_size(client: Client, path: str, *, again: bool = False) -> None:
    """Tell the daemon the terminal's size now and whenever it changes.

    ``again``: a program draws its prompt anew when its window changes; who comes back to one of
    the same size would wait for it, so it is another size for a moment.
    """

    def tell(window: tuple[int, int]) -> None:
        try:
            client.call("POST", path, {"h": window[0], "w": window[1]})
        except ApiError:
            return  # ended meanwhile: there is no terminal to resize

    def changed() -> None:
        now = terminal.size()
        if now is not None:
            tell(now)

    now = terminal.size()
    if again and now is not None:
        tell((now[0] + 1, now[1] + 1))
    changed()
    terminal.on_resize(changed)


class Nothing:
    """Enters and leaves: stands where there is no terminal to make raw."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None
