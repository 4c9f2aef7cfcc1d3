"""Layers for the drivers' tests: made as tar by the standard library, used as a container would."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import tarfile
from typing import TYPE_CHECKING

from sampan.oci import digest as digests
from sampan.storage.archive.apply import apply_layer

if TYPE_CHECKING:
    from sampan.oci.runtime import Mount
    from sampan.storage.drivers.base import SnapshotDriver

__all__ = ["DELETED", "Entry", "layer", "listing", "put", "stack", "within"]

DELETED = object()
Entry = str | bytes | tuple[bytes, str] | object | None


def layer(entries: dict[str, Entry], mode: int = 0o755) -> bytes:
    """A layer as a tar: a name ending in "/" is a directory, bytes are a file, text is a symbolic
    link's target, ("hard", target) a hard link, DELETED a whiteout."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in entries.items():
            info = tarfile.TarInfo(name.rstrip("/") or ".")
            info.mode, info.mtime = mode, 1_700_000_000
            data = b""
            if content is DELETED:
                head, _, base = name.rpartition("/")
                info.name = f"{head}/.wh.{base}" if head else f".wh.{base}"
            elif name.endswith("/"):
                info.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
            elif isinstance(content, tuple):
                info.type, info.linkname = tarfile.LNKTYPE, content[1]
            elif isinstance(content, bytes):
                data = content
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def put(driver: SnapshotDriver, chain_id: str, parent: str | None, data: bytes) -> None:
    """Unpack a layer."""
    staging = driver.prepare_layer(chain_id, parent)
    try:
        apply_layer(io.BytesIO(data), staging.fd, style=driver.whiteouts, lower=staging.lower)
    except BaseException:
        driver.discard_layer(staging)
        raise
    driver.commit_layer(staging)


def stack(driver: SnapshotDriver, *layers: bytes) -> tuple[str, ...]:
    """Unpack layers one on the other; their chain IDs."""
    chain = digests.chain_ids([digests.of(data) for data in layers])
    parent = None
    for chain_id, data in zip(chain, layers, strict=True):
        if not driver.has_layer(chain_id):
            put(driver, chain_id, parent, data)
        parent = chain_id
    return chain


def within(mounts: tuple[Mount, ...], root: str, script: str) -> str:
    """Run a shell script with $ROOT at a container's root, mounted in a namespace of its own."""
    os.makedirs(root, exist_ok=True)
    lines = ["set -e", f"ROOT={shlex.quote(root)}"]
    for mount in mounts:
        place = shlex.quote(root + mount.destination.rstrip("/"))
        options = shlex.quote(",".join(mount.options))
        kind = "--bind" if mount.type == "bind" else f"-t {mount.type} -o {options}"
        lines.append(f"mount {kind} {shlex.quote(mount.source or 'none')} {place}")
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", "\n".join([*lines, script])],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def listing(mounts: tuple[Mount, ...], root: str) -> str:
    """Everything about a mounted tree that a layer can say, one line per path."""
    fields = r"%P %y %m %U:%G %s %l %T@\n"
    return within(
        mounts,
        root,
        f"cd $ROOT; find . -mindepth 1 ! -type d -printf {shlex.quote(fields)} | sort;"
        " find . -type d -printf '%P/ %m %U:%G\\n' | sort;"
        " find . -type f -exec sha256sum {} + | sort -k2",
    )
