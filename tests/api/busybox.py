"""A small image of a test's own: busybox and whatever else the test wants in it."""

from __future__ import annotations

import io
import tarfile

from tests.daemon_fixture import Daemon

__all__ = ["import_image", "tar_of"]

_APPLETS = "cat chmod cp df echo grep id ln ls mkdir mount mv readlink rm sh sleep stat touch true"

Entry = bytes | str | None
"""A file's content, a symbolic link's target, or a directory."""


def tar_of(entries: dict[str, Entry], owner: tuple[int, int] = (0, 0)) -> bytes:
    """A tar of these names, in their order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.uid, info.gid = owner
            info.mode, info.mtime = 0o755, 1_700_000_000
            if content is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
            else:
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content if isinstance(content, bytes) else b""))
    return buffer.getvalue()


def import_image(
    daemon: Daemon, name: str, entries: dict[str, Entry] | None = None, *changes: str
) -> None:
    """Import a busybox with ``entries`` added, as ``name``."""
    with open("/bin/busybox", "rb") as file:
        busybox = file.read()
    content: dict[str, Entry] = {"bin": None, "bin/busybox": busybox, "etc": None, "tmp": None}
    content |= {f"bin/{applet}": "busybox" for applet in _APPLETS.split()}
    answer = daemon.request(
        "POST",
        "/images/create",
        tar_of({**content, **(entries or {})}),
        query={"fromSrc": "-", "repo": name, "changes": list(changes)},
        headers={"Content-Type": "application/x-tar"},
    )
    assert answer.status == 200 and b"error" not in answer.body, answer.body
