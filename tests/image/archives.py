"""Images for the tests, made with the standard library alone: docker save's form, and OCI's."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from typing import TYPE_CHECKING, Any

from tests.storage.drivers.layers import Entry, layer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["BASE", "ONE", "configuration", "docker_save", "image_id", "oci_layout", "tar"]

BASE = layer({"./": None, "bin/": None, "bin/sh": b"#!", "etc/": None, "etc/passwd": b"root"})
ONE = layer({"etc/": None, "etc/one": b"1"})


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def configuration(layers: list[bytes], **config: Any) -> bytes:
    """An image configuration; its digest is the image's ID."""
    return json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": "2024-01-02T03:04:05.123456789Z",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"], **config},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha256(one)}" for one in layers]},
        }
    ).encode()


def image_id(config: bytes) -> str:
    return f"sha256:{sha256(config)}"


def tar(members: Mapping[str, Entry]) -> bytes:
    """An archive of files; text is a symbolic link."""
    return layer(dict(members), mode=0o644)


def docker_save(
    layers: list[bytes],
    names: list[str] | None = None,
    config: bytes | None = None,
    change: dict[str, Entry] | None = None,
    order: int = 1,
) -> bytes:
    """An archive as docker save of 20.10 writes it. ``change`` replaces members; None drops one."""
    config = config or configuration(layers)
    members: dict[str, Entry] = {}
    places = []
    for number, one in enumerate(layers):
        place = f"{sha256(b'legacy' + bytes([number]) + one)}/layer.tar"
        members[place] = one
        members[place.replace("layer.tar", "VERSION")] = b"1.0"
        members[place.replace("layer.tar", "json")] = b"{}"
        places.append(place)
    members[f"{sha256(config)}.json"] = config
    entry = {"Config": f"{sha256(config)}.json", "RepoTags": names, "Layers": places}
    members["manifest.json"] = json.dumps([entry]).encode()
    members["repositories"] = b"{}"
    members.update(change or {})
    kept = {name: data for name, data in members.items() if data is not None}
    return tar(dict(list(kept.items())[::order]))


def oci_layout(
    layers: list[bytes],
    packed: list[bytes] | None = None,
    media: str = "application/vnd.oci.image.layer.v1.tar",
    annotations: dict[str, str] | None = None,
    config: bytes | None = None,
) -> dict[str, bytes]:
    """The members of an OCI layout with one image."""
    packed = packed or layers
    config = config or configuration(layers)
    members: dict[str, bytes] = {}

    def blob(data: bytes, kind: str) -> dict[str, Any]:
        members[f"blobs/sha256/{sha256(data)}"] = data
        return {"mediaType": kind, "digest": f"sha256:{sha256(data)}", "size": len(data)}

    manifest = {
        "schemaVersion": 2,
        "config": blob(config, "application/vnd.oci.image.config.v1+json"),
        "layers": [blob(data, media) for data in packed],
    }
    entry = blob(json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")
    entry["annotations"] = annotations or {}
    members["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    members["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
    return members


def write_layout(members: dict[str, bytes], directory: Path) -> str:
    for name, data in members.items():
        path = directory / name
        os.makedirs(path.parent, exist_ok=True)
        path.write_bytes(data)
    return str(directory)


def names_in(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return archive.getnames()
