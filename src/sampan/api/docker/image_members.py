"""``manifests=1``: the platforms of an image as the API shows them (ImageManifestSummary)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sampan.api.docker.versions import Version
    from sampan.engine.core import Engine
    from sampan.image.members import Member, Members
    from sampan.image.types import Image

__all__ = ["members"]


def members(engine: Engine, image: Image, found: Members, version: Version) -> dict[str, Any]:
    """The fields that an image's row gets."""
    users = [live.record.id for live in engine.registry if live.record.image_id == image.id]
    shown: dict[str, Any] = {"Manifests": [_member(image, one, users) for one in found.manifests]}
    if version >= (1, 48):
        shown["Descriptor"] = found.target.to_json()
    return shown


def _member(image: Image, one: Member, users: list[str]) -> dict[str, Any]:
    unpacked = image.size if one.here else 0
    shown: dict[str, Any] = {
        "ID": one.descriptor.digest,
        "Descriptor": one.descriptor.to_json(),
        "Available": one.here,
        "Size": {"Content": one.content, "Total": one.content + unpacked},
        "Kind": "attestation" if one.about else "image",
    }
    if one.about:
        shown["AttestationData"] = {"For": one.about}
    else:
        shown["ImageData"] = {
            "Platform": one.platform.to_json(),
            "Containers": users if one.here else [],
            "Size": {"Unpacked": unpacked},
            "UnpackedSize": unpacked,
        }
    return shown
