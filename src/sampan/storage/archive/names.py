"""Names in a layer: where they are in the tree, and which of them are whiteouts.

OCI image specification, layer.md, "Whiteouts": ``.wh.NAME`` deletes NAME of the layers below,
``.wh..wh..opq`` all that its directory has there. Other names in ``.wh..wh.`` are aufs's own.
"""

from __future__ import annotations

from sampan.errors import InvalidArgument
from sampan.storage.archive.headers import printable

__all__ = ["AUFS_PREFIX", "OPAQUE", "WHITEOUT_PREFIX", "place"]

WHITEOUT_PREFIX = b".wh."
AUFS_PREFIX = b".wh..wh."
OPAQUE = b".wh..wh..opq"


def place(
    name: bytes, of: bytes | None = None, *, relative: bool = False, whiteouts: bool = True
) -> tuple[bytes | None, bytes, bytes]:
    """Where a name of the archive is in the tree: path, its directory and its last component.

    The path is b"" for the root and None for what aufs kept for itself. ``of`` is the member whose
    link ``name`` is, for the message. An absolute name is one from the tree's root, as some
    builders write them, or refused where names must be ``relative``. Without ``whiteouts`` a name
    is only a name.
    """
    if b"\0" in name or not name:
        raise InvalidArgument(f"archive member with the name {printable(name)}")
    what = f"{printable(of)}: its link" if of is not None else "archive member"
    if relative and name.startswith(b"/"):
        raise InvalidArgument(
            f"{what} {printable(name)} is refused: an absolute name; make the archive from inside "
            "the root file system (tar -C DIRECTORY -c .)"
        )
    parts = [part for part in name.split(b"/") if part and part != b"."]
    if b".." in parts:
        raise InvalidArgument(f'{what} {printable(name)} is refused: ".." can leave the tree')
    if not parts:
        return b"", b"", b""
    if whiteouts and b".wh." in name:
        for part in parts[:-1]:
            if part.startswith(AUFS_PREFIX):
                return None, b"", b""
            if part.startswith(WHITEOUT_PREFIX):
                raise InvalidArgument(f"{printable(name)}: a whiteout is not a directory")
    base = parts.pop()
    parent = b"/".join(parts)
    return (parent + b"/" + base if parent else base), parent, base
