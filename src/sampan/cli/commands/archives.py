"""load, save, import: images as archives."""

from __future__ import annotations

import os
import sys
from typing import IO, TYPE_CHECKING

from sampan.cli import autostart, progress
from sampan.cli.commands.common import read
from sampan.cli.commands.inspect import platform_json
from sampan.cli.flags import Flag
from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    from sampan.cli.client import Client
    from sampan.cli.http import Response

__all__ = ["import_", "load", "save", "write_out"]

_CHUNK = 1 << 18


def _open(path: str) -> IO[bytes]:
    try:
        return open(path, "rb")
    except OSError as error:
        raise InvalidArgument(f"open {path}: {error.strerror}") from error


def _source(path: str) -> IO[bytes]:
    if not path:
        return sys.stdin.buffer
    return _layout(path) if os.path.isdir(path) else _open(path)


def _layout(path: str) -> IO[bytes]:
    """A directory (an OCI image layout) as a tar, made while it is read."""
    import tarfile
    import threading

    if not os.path.exists(f"{path}/oci-layout"):
        raise InvalidArgument(f"load: {path}: a directory without oci-layout is no image layout")
    reader, writer = os.pipe()

    def write() -> None:
        with open(writer, "wb") as file, tarfile.open(fileobj=file, mode="w|") as tar:
            tar.add(path, arcname=".")

    threading.Thread(target=write, daemon=True).start()
    return open(reader, "rb")


def load(client: Client, argv: list[str]) -> int:
    """Load images from an archive made by save, or an OCI layout in a tar."""
    flags = read(
        "load",
        "[OPTIONS]",
        "Load images from an archive",
        [
            Flag("input", "str", "Read this archive, or OCI layout's directory", short="i"),
            Flag("platform", "str", "Only this platform's, os[/arch[/variant]], of an index"),
            Flag("quiet", "bool", "Say nothing of the loading", short="q"),
        ],
        argv,
        most=0,
    )
    if flags is None:
        return 0
    path = flags.text("input")
    if not path and sys.stdin.isatty():
        raise InvalidArgument("load: the archive is read from standard input: use -i or <")
    autostart.ensure(client.host)
    # A bar is for who looks: into a pipe goes only what was loaded.
    quiet = flags.flag("quiet") or not sys.stdout.isatty()
    query: dict[str, object] = {
        "quiet": "1" if quiet else "0",
        "platform": platform_json(flags.text("platform")),
    }
    with _source(path) as stream:
        progress.show(client.lines("POST", "/images/load", query, stream=stream))
    return 0


def save(client: Client, argv: list[str]) -> int:
    """Write images as an archive."""
    flags = read(
        "save",
        "[OPTIONS] IMAGE [IMAGE...]",
        "Write images as an archive",
        [
            Flag("output", "str", "Write to this file, not standard output", short="o"),
            Flag("platform", "str", "Only this platform's, os[/arch[/variant]], of an index"),
        ],
        argv,
        least=1,
    )
    if flags is None:
        return 0
    path = flags.text("output")
    if not path and sys.stdout.isatty():
        raise InvalidArgument("save: a terminal cannot take an archive: use -o or >")
    platform = platform_json(flags.text("platform"))
    query: dict[str, object] = {"names": flags.arguments, "platform": platform}
    write_out(client.request("GET", "/images/get", query), path, "save")
    return 0


def write_out(response: Response, path: str, command: str) -> None:
    """An answer's body to the file ``path``, or to standard output."""
    if not path:
        _copy(response, sys.stdout.buffer)
        return
    # Whole or not at all: a file cut short must not look like an archive.
    temporary = f"{path}.{os.getpid()}.part"
    try:
        with open(temporary, "xb") as file:
            _copy(response, file)
        os.rename(temporary, path)
    except OSError as error:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise InvalidArgument(f"{command}: {path}: {error.strerror}") from error


def _copy(source: Response, target: IO[bytes]) -> None:
    while data := source.read1(_CHUNK):
        target.write(data)
    target.flush()


def import_(client: Client, argv: list[str]) -> int:
    """Make an image from a root file system's tar."""
    flags = read(
        "import",
        "[OPTIONS] file|- [REPOSITORY[:TAG]]",
        "Make an image from a root file system's tar",
        [
            Flag("change", "list", "A Dockerfile's instruction for it, such as CMD x", short="c"),
            Flag("message", "str", "A comment for its history", short="m"),
            Flag("platform", "str", "os[/arch[/variant]] it is for"),
        ],
        argv,
        least=1,
        most=2,
    )
    if flags is None:
        return 0
    source = flags.arguments[0]
    if source.startswith(("http://", "https://")):
        raise InvalidArgument(f"import: {source}: fetch it first: only files and - are read")
    autostart.ensure(client.host)
    query: dict[str, object] = {
        "fromSrc": "-",
        "repo": flags.arguments[1] if len(flags.arguments) > 1 else "",
        "changes": flags.items("change"),
        "message": flags.text("message"),
        "platform": flags.text("platform"),
    }
    with sys.stdin.buffer if source == "-" else _open(source) as stream:
        progress.show(client.lines("POST", "/images/create", query, stream=stream))
    return 0
