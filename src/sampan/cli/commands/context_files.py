"""``context export`` and ``context import``: a context as a tar of its files."""

from __future__ import annotations

import io
import json
import os
import sys
from typing import TYPE_CHECKING

from sampan.cli.commands.common import read
from sampan.cli.contexts import TLS_FILES, Context, Store, valid_name
from sampan.cli.settings import DEFAULT_HOST
from sampan.errors import AlreadyExists, InvalidArgument

if TYPE_CHECKING:
    from sampan.cli.client import Client

__all__ = ["export", "load"]

_LIMIT = 10 << 20  # bytes of an archive: a few certificates


def export(client: Client, argv: list[str]) -> int:
    """Write a context as a tar."""
    flags = read(
        "context export",
        "CONTEXT [FILE|-]",
        "Write a context, keys included, as a tar",
        [],
        argv,
        least=1,
        most=2,
    )
    if flags is None:
        return 0
    wanted = flags.arguments[0]
    target = flags.arguments[1] if len(flags.arguments) > 1 else f"{wanted}.dockercontext"
    if target == "-" and sys.stdout.isatty():
        raise InvalidArgument("context export: a terminal cannot take an archive: name a file")
    if wanted == "default":
        context = Context("default", client.settings.host_override() or DEFAULT_HOST)
    else:
        context = Store(client.settings.directory).get(wanted)
    data = _tar(context)
    if target == "-":
        sys.stdout.buffer.write(data)
        return 0
    flags_ = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with open(os.open(target, flags_, 0o600), "wb") as file:
            file.write(data)
    except FileExistsError:
        raise AlreadyExists(f"context export: {target}: file exists") from None
    except OSError as error:
        raise InvalidArgument(f"context export: {target}: {error.strerror}") from error
    print(f'Written file "{target}"', file=sys.stderr)
    return 0


def _tar(context: Context) -> bytes:
    import tarfile

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:

        def add(name: str, data: bytes | None, mode: int) -> None:
            member = tarfile.TarInfo(name)
            member.mode = mode
            if data is None:
                member.type = tarfile.DIRTYPE
            else:
                member.size = len(data)
            tar.addfile(member, io.BytesIO(data or b""))

        document = json.dumps(context.document, separators=(",", ":"), ensure_ascii=False)
        add("meta.json", document.encode(), 0o644)
        add("tls", None, 0o700)
        if context.tls:
            add("tls/docker", None, 0o700)
        for name, data in sorted(context.tls.items()):
            add(f"tls/docker/{name}", data, 0o600)
    return out.getvalue()


def load(client: Client, argv: list[str]) -> int:
    """Make a context of what ``context export`` wrote."""
    flags = read(
        "context import",
        "CONTEXT FILE|-",
        "Make a context of an exported one",
        [],
        argv,
        least=2,
        most=2,
    )
    if flags is None:
        return 0
    name, source = valid_name(flags.arguments[0]), flags.arguments[1]
    try:
        if source == "-":
            data = sys.stdin.buffer.read(_LIMIT + 1)
        else:
            with open(source, "rb") as file:
                data = file.read(_LIMIT + 1)
    except OSError as error:
        raise InvalidArgument(f"context import: {source}: {error.strerror}") from error
    if len(data) > _LIMIT:
        raise InvalidArgument(f"context import: {source}: larger than a context can be")
    Store(client.settings.directory).put(_context(name, source, _members(source, data)))
    print(name, flush=True)
    print(f'Successfully imported context "{name}"', file=sys.stderr)
    return 0


def _context(name: str, source: str, members: dict[str, bytes]) -> Context:
    try:
        document = json.loads(members["meta.json"])
        docker = document["Endpoints"]["docker"]
        host = str(docker["Host"])
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidArgument(f"context import: {source}: no context: {error!r}") from error
    metadata = document.get("Metadata") or {}
    tls = {
        file: members[f"tls/docker/{file}"] for file in TLS_FILES if f"tls/docker/{file}" in members
    }
    skip = bool(docker.get("SkipTLSVerify"))
    return Context(name, host, str(metadata.get("Description") or ""), skip, tls)


def _members(source: str, data: bytes) -> dict[str, bytes]:
    """The regular files of a tar or a zip, by their names; none is written anywhere."""
    if data.startswith(b"PK"):
        import zipfile

        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                small = [entry for entry in archive.infolist() if entry.file_size <= _LIMIT]
                return {entry.filename: archive.read(entry) for entry in small}
        except zipfile.BadZipFile as error:
            raise InvalidArgument(f"context import: {source}: {error}") from error
    import tarfile

    found = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isreg() else None
                if file is not None:
                    found[member.name] = file.read()
    except tarfile.TarError as error:
        raise InvalidArgument(
            f"context import: {source}: neither a tar nor a zip: {error}"
        ) from error
    return found
