"""``cp``, ``diff`` and ``export``: a container's files.

``cp`` follows cp(1) as Docker's client does: a directory goes into a directory that is there, or
becomes one that is not; ``DIR/.`` is what is in DIR; a trailing slash demands a directory. What is
taken out of a container is hostile: a name in the archive that would leave the destination, or go
through a link of the archive's own, is refused.
"""

from __future__ import annotations

import os
import stat
import sys
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from sampan.cli.client import ApiError
from sampan.cli.commands.common import path, read
from sampan.cli.flags import Flag
from sampan.cli.output import size
from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    import tarfile

    from sampan.cli.client import Client
    from sampan.cli.http import Response

__all__ = ["copy", "diff", "export"]

_CHUNK = 1 << 18
_ARCHIVE = "/containers/{}/archive"
_GO_DIRECTORY, _GO_LINK = 1 << 31, 1 << 27
_GO_ODD = 1 << 26 | 1 << 25 | 1 << 24 | 1 << 19  # device, FIFO, socket, irregular
_KINDS = "CAD"


def diff(client: Client, argv: list[str]) -> int:
    """What a container has changed: A added, C changed, D deleted."""
    flags = read(
        "diff", "CONTAINER", "Show what a container has changed", [], argv, least=1, most=1
    )
    if flags is None:
        return 0
    for change in client.call("GET", path("/containers/{}/changes", flags.arguments[0])) or []:
        print(_KINDS[change["Kind"]], change["Path"])
    return 0


def export(client: Client, argv: list[str]) -> int:
    """A container's file system as a tar."""
    from sampan.cli.commands.archives import write_out

    flags = read(
        "export",
        "[OPTIONS] CONTAINER",
        "Write a container's file system as a tar",
        [Flag("output", "str", "Write to this file, not to standard output", short="o")],
        argv,
        least=1,
        most=1,
    )
    if flags is None:
        return 0
    target = flags.text("output")
    if not target and sys.stdout.isatty():
        raise InvalidArgument("export: a terminal cannot take an archive: use -o or >")
    if target:
        _check_output(target)
    response = client.request("GET", path("/containers/{}/export", flags.arguments[0]))
    write_out(response, target, "export")
    return 0


class _End(NamedTuple):
    """One side of a copy; ``container`` "" for this machine, ``path`` "-" for a stream."""

    container: str
    path: str


class _Target(NamedTuple):
    """What is where the copy goes to."""

    exists: bool
    directory: bool


def copy(client: Client, argv: list[str]) -> int:
    """Copy files between a container and this machine."""
    flags = read(
        "cp",
        "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n"
        "        sampan cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
        "Copy files between a container and this machine; - is a tar from or to a pipe",
        [
            Flag("archive", "bool", "Keep owners: user and group IDs as they are", short="a"),
            Flag("follow-link", "bool", "A link as the source stands for its target", short="L"),
            Flag("quiet", "bool", "Do not say on a terminal what was copied", short="q"),
        ],
        argv,
        least=2,
        most=2,
    )
    if flags is None:
        return 0
    for word, side in zip(flags.arguments, ("source", "destination"), strict=True):
        if not word:
            raise InvalidArgument(f"{side} can not be empty")
    source, target = (_end(word) for word in flags.arguments)
    if source.container and target.container:
        raise InvalidArgument("copying between containers is not supported")
    if not source.container and not target.container:
        raise InvalidArgument("must specify at least one container source")
    if source.container:
        count = _out(client, source, target.path, flags.flag("follow-link"))
    else:
        owners = flags.flag("archive")
        count = _in(client, source.path, target, flags.flag("follow-link"), owners)
    if count and not flags.flag("quiet") and sys.stderr.isatty():
        where = f"{target.container}:{target.path}" if target.container else target.path
        print(f"Successfully copied {size(count)} to {where}", file=sys.stderr)
    return 0


def _end(word: str) -> _End:
    container, colon, rest = word.partition(":")
    if os.path.isabs(word) or not colon or container.startswith("."):
        return _End("", word)
    return _End(container, rest) if container else _End("", word)


def _asserts_directory(name: str) -> bool:
    return name.endswith("/") or os.path.basename(name) == "."


def _check_output(target: str) -> None:
    """That something can be written at ``target``. InvalidArgument, in Docker's words."""
    above = os.path.dirname(target.rstrip("/")) or ("/" if target.startswith("/") else ".")
    if not os.path.isdir(above):
        raise InvalidArgument(f'invalid output path: directory "{above}" does not exist')
    try:
        mode = os.stat(target).st_mode
    except OSError:
        return
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise InvalidArgument(
            f'invalid output path: "{target}" must be a directory or a regular file'
        )


# Out of a container


def _out(client: Client, source: _End, target: str, follow: bool) -> int:
    """Bytes of the archive that came."""
    where = path(_ARCHIVE, source.container)
    if target == "-":
        if sys.stdout.isatty():
            raise InvalidArgument("cp: a terminal cannot take an archive: pipe it")
        return _pour(client.request("GET", where, {"path": source.path}), sys.stdout.buffer)
    target = os.path.abspath(target) + ("/" if _asserts_directory(target) else "")
    here = _Target(os.path.exists(target), os.path.isdir(target))
    wanted, name = source.path, ""
    if follow:
        found = _stat(client.request("HEAD", where, {"path": wanted}))
        if found["mode"] & _GO_LINK:
            wanted, name = found["linkTarget"], os.path.basename(wanted.rstrip("/"))
    if not (here.exists or target.endswith("/")) or here.exists:
        _check_output(target)
    response = client.request("GET", where, {"path": wanted})
    found = _stat(response)
    directory = bool(found["mode"] & _GO_DIRECTORY)
    name = name or str(found["name"])
    contents = os.path.basename(wanted) == "." or name == "/"
    root = _local_root(target, here, directory, name, contents)
    reader = _Counting(response)
    _unpack(reader, root)
    return reader.count


def _local_root(target: str, here: _Target, directory: bool, name: str, contents: bool) -> str:
    """What the archive's root becomes on this machine."""
    if here.directory:
        return target.rstrip("/") or "/" if directory and contents else os.path.join(target, name)
    if here.exists:
        if directory:
            raise InvalidArgument("cannot copy directory")
        if target.endswith("/"):
            raise InvalidArgument("not a directory")
        return target
    if target.endswith("/") and not directory:
        raise InvalidArgument("no such directory")
    return target.rstrip("/")


def _stat(response: Response) -> dict[str, Any]:
    import base64
    import json

    header = response.headers.get("x-docker-container-path-stat", "")
    found: dict[str, Any] = json.loads(base64.b64decode(header))
    return found


class _Counting:
    """A response as a file to read from, which knows how much there was."""

    def __init__(self, response: Response) -> None:
        self._response = response
        self._rest = b""
        self.count = 0

    def read(self, wanted: int) -> bytes:
        parts, missing = [self._rest[:wanted]], wanted - len(self._rest)
        self._rest = self._rest[wanted:]
        while missing > 0 and (data := self._response.read1(_CHUNK)):
            parts.append(data[:missing])
            self._rest = data[missing:]
            missing -= len(data)
        found = b"".join(parts)
        self.count += len(found)
        return found


def _pour(source: Response, target: IO[bytes]) -> int:
    count = 0
    while data := source.read1(_CHUNK):
        target.write(data)
        count += len(data)
    target.flush()
    return count


def _unpack(source: _Counting, root: str) -> None:
    """Unpack an archive; its first member is what ``root`` becomes, the rest is below it."""
    import tarfile

    stream: Any = source
    links: set[str] = set()
    times: list[tuple[str, float]] = []
    try:
        with tarfile.open(fileobj=stream, mode="r|", errors="surrogateescape") as archive:
            first = None
            for member in archive:
                first = member.name if first is None else first
                place = _place(root, first, member.name, links)
                _make(archive, member, place, _place(root, first, member.linkname, links)
                      if member.islnk() else "")  # fmt: skip
                if member.issym():
                    links.add(place)
                elif member.isdir():
                    times.append((place, member.mtime))
    except tarfile.TarError as error:
        raise InvalidArgument(f"cp: the archive cannot be read: {error}") from error
    except OSError as error:
        raise InvalidArgument(f"cp: {error.filename or root}: {error.strerror}") from error
    for place, mtime in reversed(times):
        os.utime(place, (mtime, mtime))


def _place(root: str, first: str, name: str, links: set[str]) -> str:
    """Where a member goes. Raises InvalidArgument for one that leads elsewhere."""
    below = name.removeprefix(first if first != "/" else "") if first != "." else name
    parts = [part for part in below.split("/") if part not in ("", ".")]
    wrong = (first not in (".", "/") and name != first and not below.startswith("/")) or (
        ".." in parts
    )
    place = root
    for part in parts:
        if place in links:
            wrong = True  # the archive made that link itself, to lead us through it
        place = os.path.join(place, part)
    if wrong:
        raise InvalidArgument(f"cp: the archive holds {name}, which is not below {first}")
    return place


def _make(archive: tarfile.TarFile, member: tarfile.TarInfo, place: str, first: str) -> None:
    is_directory = os.path.isdir(place) and not os.path.islink(place)
    if member.isdir():
        if os.path.lexists(place) and not os.path.isdir(place):
            raise InvalidArgument(f'cannot overwrite non-directory "{place}" with directory')
        os.makedirs(place, exist_ok=True)
        os.chmod(place, member.mode & 0o7777)
        return
    if is_directory:
        raise InvalidArgument(f'cannot overwrite directory "{place}" with non-directory')
    if os.path.lexists(place):
        os.unlink(place)
    if member.issym():
        os.symlink(member.linkname, place)
        return
    if member.islnk():
        os.link(first, place, follow_symlinks=False)
        return
    if member.isreg():
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        content = archive.extractfile(member)
        with open(os.open(place, flags, 0o600), "wb") as file:
            while content is not None and (data := content.read(_CHUNK)):
                file.write(data)
    elif member.isfifo():
        os.mkfifo(place, member.mode & 0o777)
    elif member.isdev():
        kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
        os.mknod(place, kind | member.mode & 0o777, os.makedev(member.devmajor, member.devminor))
    os.chmod(place, member.mode & 0o7777)
    os.utime(place, (member.mtime, member.mtime))


# Into a container


def _in(client: Client, source: str, target: _End, follow: bool, owners: bool) -> int:
    """Bytes of the archive that went."""
    where = path(_ARCHIVE, target.container)
    wanted = target.path
    try:
        found = _stat(client.request("HEAD", where, {"path": wanted}))
        if found["mode"] & _GO_LINK:
            wanted = found["linkTarget"]
            found = _stat(client.request("HEAD", where, {"path": wanted}))
    except ApiError as error:
        if error.status != 404 or "such container" in error.message:
            raise
        there = _Target(False, False)
    else:
        if found["mode"] & _GO_ODD:
            raise InvalidArgument(
                f'invalid output path: "{target.container}:{wanted}" must be a directory or a '
                "regular file"
            )
        there = _Target(True, bool(found["mode"] & _GO_DIRECTORY))
    if source == "-":
        if not there.directory:
            name = f"{target.container}:{target.path}"
            raise InvalidArgument(f'destination "{name}" must be a directory')
        return _send(client, where, wanted, sys.stdin.buffer, owners)
    try:
        status = os.stat(source) if follow or source.endswith("/") else os.lstat(source)
    except OSError as error:
        raise InvalidArgument(f"lstat {source}: {(error.strerror or '').lower()}") from error
    directory = stat.S_ISDIR(status.st_mode)
    if _asserts_directory(source) and not directory:
        raise InvalidArgument("not a directory")
    into, name = _remote_place(wanted, there, directory, source)
    with _packed(source, name, follow) as stream:
        return _send(client, where, into, stream, owners)


def _remote_place(wanted: str, there: _Target, directory: bool, source: str) -> tuple[str, str]:
    """The directory the archive is unpacked in, and what its root is called there."""
    contents = os.path.basename(source) == "."
    if there.directory:
        name = os.path.basename(os.path.abspath(source)) or "."
        return wanted, "." if directory and contents else name
    if there.exists and directory:
        raise InvalidArgument("cannot copy directory")
    if not directory and _asserts_directory(wanted):
        raise InvalidArgument("not a directory" if there.exists else "no such directory")
    above, _, name = wanted.rstrip("/").rpartition("/")
    return above or "/", name


def _packed(source: str, name: str, follow: bool) -> IO[bytes]:
    """A tar of ``source`` under another name, made while it is read."""
    import tarfile
    import threading

    reader, writer = os.pipe()
    followed = follow or _asserts_directory(source)
    top = os.path.realpath(source) if followed else source

    def numbered(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uname = member.gname = ""
        return member

    def write() -> None:
        try:
            with (
                open(writer, "wb") as file,
                tarfile.open(fileobj=file, mode="w|", errors="surrogateescape") as archive,
            ):
                archive.add(top, arcname=name, filter=numbered)
        except BrokenPipeError:
            return  # the daemon has had enough of it, and says why

    threading.Thread(target=write, daemon=True).start()
    return open(reader, "rb")


def _send(client: Client, where: str, into: str, stream: IO[bytes], owners: bool) -> int:
    counted = _Passing(stream)
    query: dict[str, object] = {"path": into, "noOverwriteDirNonDir": "true"}
    if owners:
        query["copyUIDGID"] = "true"
    client.request("PUT", where, query, stream=counted).read()  # type: ignore[arg-type]
    return counted.count


class _Passing:
    """A stream on its way to the daemon, counted."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._read = getattr(stream, "read1", stream.read)
        self.count = 0

    def read(self, wanted: int) -> bytes:
        data: bytes = self._read(wanted)
        self.count += len(data)
        return data
