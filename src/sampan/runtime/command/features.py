"""``features``: what this runtime can do, as the runtime specification's features document.

It says what is compiled in, so to speak, and not what this kernel or user may do.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sampan import __version__
from sampan.kernel import capabilities, seccomp
from sampan.kernel.namespaces import KINDS
from sampan.oci.runtime import SPEC_VERSION
from sampan.runtime import mount_options, spec

if TYPE_CHECKING:
    from sampan.runtime.command.context import Context
    from sampan.runtime.command.options import Parsed

__all__ = ["document", "run"]


def run(_: Context, __: Parsed) -> int:
    print(json.dumps(document(), indent=4))
    return 0


def document() -> dict[str, object]:
    """The features document."""
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPEC_VERSION,
        "hooks": [name for name, _ in spec.HOOK_KINDS],
        "mountOptions": list(mount_options.NAMES),
        "linux": {
            "namespaces": sorted(KINDS),
            "capabilities": list(capabilities.NAMES),
            "cgroup": {
                "v1": True,
                "v2": True,
                "systemd": False,
                "systemdUser": False,
                "rdma": True,
            },
            "seccomp": {
                "enabled": True,
                "actions": sorted(seccomp.ACTIONS),
                "operators": sorted(seccomp.OPERATORS),
                "archs": sorted(seccomp.ARCHITECTURES),
                "knownFlags": sorted(seccomp.FLAGS),
                "supportedFlags": sorted(seccomp.supported_flags()),
            },
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": False, "schemata": False, "monitoring": False},
            "memoryPolicy": {
                "modes": sorted(spec.MEMORY_MODES),
                "flags": sorted(spec.MEMORY_FLAGS),
            },
            "mountExtensions": {"idmap": {"enabled": True}},
            "netDevices": {"enabled": True},
        },
        "annotations": {
            "org.opencontainers.runc.checkpoint.enabled": "false",
            "org.opencontainers.runc.version": "1.3.0",
            "io.sampan.runtime.version": __version__,
        },
        "potentiallyUnsafeConfigAnnotations": [],
    }
