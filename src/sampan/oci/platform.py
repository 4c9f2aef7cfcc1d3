"""GOOS/GOARCH names of machines (OCI image specification, image-index.md, "platform").

An image is made for a platform such as ``linux/arm64/v8``; the kernel calls that machine
``aarch64``. The variant is left out where it is the architecture's only one that matters.
"""

from __future__ import annotations

import os

from sampan.errors import InvalidArgument
from sampan.oci.record import Record

__all__ = ["Platform", "machine", "matches", "parse"]

_MACHINES = {
    "x86_64": ("amd64", None),
    "amd64": ("amd64", None),
    "i386": ("386", None),
    "i486": ("386", None),
    "i586": ("386", None),
    "i686": ("386", None),
    "x86": ("386", None),
    "aarch64": ("arm64", "v8"),
    "arm64": ("arm64", "v8"),
    "armv8l": ("arm", "v8"),
    "armv7l": ("arm", "v7"),
    "armhf": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "armel": ("arm", "v6"),
    "ppc64le": ("ppc64le", None),
    "riscv64": ("riscv64", None),
    "s390x": ("s390x", None),
    "loongarch64": ("loong64", None),
}
_DEFAULT_VARIANTS = {"arm64": "v8", "arm": "v7"}


class Platform(Record):
    architecture: str
    os: str = "linux"
    variant: str | None = None

    def __str__(self) -> str:
        variant = f"/{self.variant}" if self.variant else ""
        return f"{self.os}/{self.architecture}{variant}"


def machine(name: str | None = None) -> Platform:
    """The platform of a machine as ``uname -m`` names it; this one by default."""
    known = os.uname().machine if name is None else name
    if known not in _MACHINES:
        raise InvalidArgument(f'machine "{known}" has no known platform name')
    architecture, variant = _MACHINES[known]
    return Platform(architecture=architecture, variant=variant)


def parse(text: str) -> Platform:
    """``os/arch[/variant]``, or ``arch`` alone; machine names such as ``x86_64`` count too."""
    parts = text.lower().split("/")
    if not all(parts) or len(parts) > 3:
        raise InvalidArgument(f'platform "{text}": expected os/architecture[/variant]')
    if len(parts) == 1:
        if parts[0] == "linux":
            return machine()
        parts.insert(0, "linux")
    system, name = parts[0], parts[1]
    architecture, variant = _MACHINES.get(name, (name, None))
    if len(parts) == 3:
        variant = parts[2]
    return Platform(os=system, architecture=architecture, variant=variant)


def matches(wanted: Platform, offered: Platform) -> bool:
    """Whether an image for ``offered`` runs where ``wanted`` is asked for."""
    if (wanted.os, wanted.architecture) != (offered.os, offered.architecture):
        return False
    default = _DEFAULT_VARIANTS.get(wanted.architecture)
    return (wanted.variant or default) == (offered.variant or default)
